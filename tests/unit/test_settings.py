"""The settings file: every key, its limits, and errors that name file, line and the nearest known key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.settings import (
    KEYS,
    HostPort,
    KnownPeer,
    Settings,
    SettingsError,
    host_port,
    load_settings,
    parse_settings,
)
from meshnode.values import Suite

ROOT = Path(__file__).parents[2]


def test_every_key_is_read() -> None:
    written = """
        name = "attic"
        port = 5000
        interface = "mesh0"
        mtu = 1280
        advertise = ["vpn.example.org:4655", "[2001:db8::1]:7000"]
        suites = ["aes-256-gcm", "chacha20-poly1305"]
        log-level = "debug"
        rate = "20mbit"
        relay = false
        relay-rate = "5mbit"
        queue = "fifo"
        entropy = "none"
        dscp = "copy"
        precedence = false
        [uplink]
        rate = "1.5gbit"
        [offload]
        tun = false
        udp = false
        [peer-rates]
        beta = "512kbit"
        gamma = "off"
        [peers]
        beta = ["198.51.100.7:4656", "[fe80::2%eth0]:4655"]
    """
    read = parse_settings(written, "home.toml")
    assert read == Settings(
        name="attic",
        port=5000,
        interface="mesh0",
        mtu=1280,
        advertise=(HostPort("vpn.example.org", 4655), HostPort("2001:db8::1", 7000)),
        suites=(Suite.AES_256_GCM, Suite.CHACHA20_POLY1305),
        log_level="debug",
        rate=20_000_000,
        relay=False,
        relay_rate=5_000_000,
        queue="fifo",
        entropy="none",
        dscp="copy",
        precedence=False,
        uplink_rate=1_500_000_000,
        tun_offload=False,
        udp_offload=False,
        peer_rates=(("beta", 512_000), ("gamma", None)),
        peers=(KnownPeer("beta", (HostPort("198.51.100.7", 4656), HostPort("fe80::2%eth0", 4655))),),
    )
    # The test above names every key, so that none can be added without a word here.
    named = tomllib.loads(written)
    for table in ("uplink", "offload"):
        named |= {f"{table}.{key}": value for key, value in named.pop(table).items()}
    assert named.keys() == KEYS.keys()


def test_an_empty_file_means_the_defaults() -> None:
    assert parse_settings("", "home.toml") == Settings()


def test_a_file_adds_to_a_base() -> None:
    base = parse_settings("port = 5000\nmtu = 1400", "base")
    assert parse_settings("mtu = 1300", "home.toml", base) == Settings(port=5000, mtu=1300)


def test_keys_may_be_spelt_with_underscores() -> None:
    assert parse_settings('log_level = "error"', "home.toml").log_level == "error"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("prot = 4655", 'f:1: unknown key "prot"; did you mean "port"?'),
        ("\n\nloglevel = 'info'", 'f:3: unknown key "loglevel"; did you mean "log-level"?'),
        ("xyzzy = 1", 'f:1: unknown key "xyzzy"; the keys are name, port, '),
        ("port = 1\n[upstairs]\nrate = 1", 'f:3: unknown key "upstairs.rate"; '),
        ("[upstairs]", 'f:1: unknown key "upstairs"; '),
        ("log-level = 'info'\nlog_level = 'info'", '"log-level" is set twice'),
        ("port = 0", "f:1: port: must be a number from 1 to 65535"),
        ("port = true", "f:1: port: must be a number"),
        ("port = '4655'", "f:1: port: must be a number"),
        ("mtu = 1279", "f:1: mtu: must be a number from 1280 to 9000"),
        ("name = 3", "f:1: name: must be a text in quotes"),
        ("name = '-a'", "f:1: name: must have 1 to 63 characters of a-z A-Z 0-9 . _ -"),
        ("interface = 'sixteen-letters-'", "f:1: interface: must be a name of at most 15 bytes"),
        ("interface = 'a b'", "f:1: interface: must be a name"),
        ("interface = '..'", "f:1: interface: must be a name"),
        ("advertise = 'host:1'", "f:1: advertise: must be a list"),
        ("advertise = ['host:70000']", "f:1: advertise: the port must be from 1 to 65535"),
        ("advertise = ['2001:db8::1']", 'f:1: advertise: must be "host:port"'),
        ("advertise = ['']", 'f:1: advertise: must be "host:port"'),
        ("advertise = ['a b:1']", 'f:1: advertise: must be "host:port"'),
        ("advertise = ['[vpn.example.org]:1']", 'f:1: advertise: must be "host:port"'),
        ("suites = ['none']", "f:1: suites: must be one of chacha20-poly1305, aes-256-gcm"),
        ("suites = ['aes-256-gcm']", "f:1: suites: must include chacha20-poly1305"),
        ("suites = ['chacha20-poly1305', 'chacha20-poly1305']", "f:1: suites: names a suite twice"),
        ("log-level = 'loud'", "f:1: log-level: must be one of debug, info, warning, error"),
        ("peers = 1", "f:1: peers: must be a table"),
        ("[peers]\nbeta = ['a:b:c']", 'f:1: peers: beta: must be "host:port"'),
        ("port = ", "f: not valid TOML: "),
    ],
)
def test_a_bad_file_is_one_clear_line(written: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(written, "f")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read .*home\.toml: no such file"):
        load_settings(tmp_path / "home.toml")
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'name = "caf\xe9"')
    with pytest.raises(SettingsError, match="is not UTF-8"):
        load_settings(latin)


@given(st.builds(HostPort, st.sampled_from(["a.example", "192.0.2.1", "2001:db8::1"]), st.integers(1, 65535)))
def test_a_host_port_reads_what_it_writes(endpoint: HostPort) -> None:
    assert host_port(str(endpoint)) == endpoint


@given(st.text())
def test_any_text_as_a_host_port_is_read_or_refused(written: str) -> None:
    try:
        host, port = host_port(written)
    except ValueError:
        return
    assert host
    assert 1 <= port <= 65535


@given(st.text(alphabet="abpeorst-_.[]={}\"'#\n 019", max_size=60))
def test_any_file_is_read_or_refused_in_one_line(written: str) -> None:
    message = ""
    try:
        parse_settings(written, "f")
    except SettingsError as error:
        message = str(error)
    assert "\n" not in message


def test_the_sample_file_lists_every_key_with_its_default_and_a_reason() -> None:
    sample = ROOT / "config" / "home.toml"
    assert load_settings(sample) == Settings()
    table, reasons = "", []
    for line in sample.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\[([a-z-]+)\]", line):
            table = match[1]
        if match := re.match(r"(?:\[([a-z-]+)\]|([a-z-]+) = .*?)\s+# \S", line):
            reasons.append(match[1] or (f"{table}.{match[2]}" if table else match[2]))
    assert sorted(name for name in reasons if name in KEYS) == sorted(KEYS)  # each once


def test_the_table_in_operations_lists_every_key() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.partition("## Settings")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([a-z.-]+)` \| (\S.*?) \| (\S.*?) \|$", section, flags=re.MULTILINE)
    documented = {name: purpose for name, _, purpose in rows}
    assert list(documented) == list(KEYS)
    for name, (_, key) in KEYS.items():
        assert documented[name] == key.doc
