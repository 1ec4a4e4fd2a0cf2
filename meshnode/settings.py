"""What an operator may set: one TOML file per network, every key optional, read into a frozen dataclass.

A new key is one field of `Settings`: its name in the file, its parser, its default and what it is
for. A test holds `config/home.toml` and the table in `docs/operations.md` against these fields.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from meshnode.values import Suite
from meshnode.wire.statement import valid_name

DEFAULT_PORT = 4655
INTERFACE_NAME_LIMIT = 15  # IFNAMSIZ without its NUL
NO_LIMIT: int | None = None
LOG_LEVELS = ("debug", "info", "warning", "error")

T = TypeVar("T")

_HOST_PORT = re.compile(
    r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<name>[A-Za-z0-9._-]{1,253})):(?P<port>[0-9]{1,5})", re.ASCII
)


class SettingsError(Exception):
    """A setting cannot be used. The text is one line: where, what is wrong, what to write instead."""


class HostPort(NamedTuple):
    """Where a node may be reached: a host name or numeric address, and a port. The edge resolves names."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class KnownPeer(NamedTuple):
    """One line of `[peers]`: where the member called `name` may be reached."""

    name: str
    endpoints: tuple[HostPort, ...]


# --- Parsers: a TOML value in, the field's value out; ValueError ends the sentence "KEY = VALUE: ..." -------


def text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text in quotes")
    return value


def node_name(value: object) -> str:
    """Empty, or what `wire.statement` takes for a name."""
    name = text(value)
    if name and not valid_name(name):
        raise ValueError("must have 1 to 63 characters of a-z A-Z 0-9 . _ -, a letter or digit first")
    return name


def port_number(value: object) -> int:
    return _integer(value, 1, 65535)


def tun_mtu(value: object) -> int:
    return _integer(value, 1280, 9000)


def interface_name(value: object) -> str:
    """Empty, or a name that Linux takes for an interface."""
    name = text(value)
    if len(name.encode()) > INTERFACE_NAME_LIMIT or re.search(r"[\s/:]", name) or name in (".", ".."):
        raise ValueError(f"must be a name of at most {INTERFACE_NAME_LIMIT} bytes without blanks, / or :")
    return name


def host_port(value: object) -> HostPort:
    """`host:port` or `[v6]:port`."""
    match = _HOST_PORT.fullmatch(text(value))
    if not match or (match["v6"] and not _is_ipv6(match["v6"])):
        raise ValueError('must be "host:port", as in "vpn.example.org:4655" or "[2001:db8::1]:4655"')
    if not 1 <= int(match["port"]) <= 65535:
        raise ValueError("the port must be from 1 to 65535")
    return HostPort(match["v6"] or match["name"], int(match["port"]))


def host_ports(value: object) -> tuple[HostPort, ...]:
    return tuple(host_port(item) for item in _array(value))


def suite_list(value: object) -> tuple[Suite, ...]:
    """Empty, or suites among which is the mandatory one."""
    if value == []:
        return ()
    known = {suite.name.lower().replace("_", "-"): suite for suite in Suite}
    chosen = tuple(known[_one_of(text(item), known)] for item in _array(value))
    if Suite.CHACHA20_POLY1305 not in chosen:
        raise ValueError("must include chacha20-poly1305, the one that every node has")
    if len(set(chosen)) != len(chosen):
        raise ValueError("names a suite twice")
    return chosen


_RATE = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?) ?(?P<unit>[kmg]?)bit", re.ASCII)
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


def rate_limit(value: object) -> int | None:
    """Bits per second of a text such as `20mbit`, None for `off`."""
    written = text(value).lower()
    if written == "off":
        return None
    match = _RATE.fullmatch(written)
    if not match:
        raise ValueError('must be "off" or a rate such as "20mbit", "512kbit" or "1.5gbit"')
    bits = int(float(match["number"]) * _UNITS[match["unit"]])
    if bits < 64_000:
        raise ValueError("must be at least 64kbit")
    return bits


def rates_by_name(value: object) -> tuple[tuple[str, int | None], ...]:
    if not isinstance(value, dict):
        raise ValueError('must be a table, as in [peer-rates] beta = "20mbit"')
    return tuple((str(name), rate_limit(limit)) for name, limit in value.items())


def queue_kind(value: object) -> str:
    return _one_of(text(value), ("fq_codel", "fifo"))


def entropy_kind(value: object) -> str:
    return _one_of(text(value), ("flow", "ports", "none"))


def dscp_policy(value: object) -> str:
    return _one_of(text(value), ("zero", "copy"))


def switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def log_level(value: object) -> str:
    return _one_of(text(value), LOG_LEVELS)


def known_peers(value: object) -> tuple[KnownPeer, ...]:
    if not isinstance(value, dict):
        raise ValueError('must be a table, as in [peers] beta = ["198.51.100.7:4655"]')
    return tuple(_known_peer(name, endpoints) for name, endpoints in value.items())


def _known_peer(name: str, endpoints: object) -> KnownPeer:
    try:
        return KnownPeer(name, host_ports(endpoints))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _is_ipv6(written: str) -> bool:
    try:
        ipaddress.IPv6Address(written)
    except ValueError:
        return False
    return True


def _integer(value: object, lowest: int, highest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise ValueError(f"must be a number from {lowest} to {highest}")
    return value


def _array(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError("must be a list in [ ]")
    return value


def _one_of(value: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"must be one of {', '.join(known)}")
    return value


# --- The keys -----------------------------------------------------------------------------------------------


class Key(NamedTuple):
    """One setting: its name in the file (dots for tables), its parser and what an operator should know."""

    name: str
    parse: Callable[[object], object]
    doc: str


def _key(name: str, parse: Callable[[object], T], default: T, doc: str) -> T:
    return field(default=default, metadata={"key": Key(name, parse, doc)})


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings with their defaults. Options and environment of `join` win over the file."""

    name: str = _key("name", node_name, "", "name to ask for when joining; empty: the host name")
    port: int = _key("port", port_number, DEFAULT_PORT, "UDP port for all peers, IPv4 and IPv6")
    interface: str = _key("interface", interface_name, "", "name of the interface; empty: mesh-NET")
    mtu: int = _key("mtu", tun_mtu, 1380, "MTU of the interface, bytes")
    advertise: tuple[HostPort, ...] = _key(
        "advertise",
        host_ports,
        (),
        "where others reach it, if it cannot see that itself (1:1 NAT, port forward)",
    )
    suites: tuple[Suite, ...] = _key(
        "suites",
        suite_list,
        (),
        "ciphers offered for data, most wanted first; empty: measured at start, fastest first",
    )
    rate: int | None = _key(
        "rate", rate_limit, NO_LIMIT, 'limit for what goes to each peer, such as "20mbit"; "off": none'
    )
    relay: bool = _key(
        "relay", switch, True, "carry the sealed datagrams of members that cannot reach each other"
    )
    relay_rate: int | None = _key(
        "relay-rate",
        rate_limit,
        NO_LIMIT,
        'limit for all that is relayed for others, such as "5mbit"; "off": none',
    )
    queue: str = _key(
        "queue", queue_kind, "fq_codel", '"fq_codel"; "fifo" exists to measure what fq_codel is worth'
    )
    entropy: str = _key(
        "entropy",
        entropy_kind,
        "flow",
        'what datagrams tell of inner flows: "flow" (tag, IPv6 label), "ports" (also 4 IPv4 ports, no NAT), "none"',
    )
    dscp: str = _key("dscp", dscp_policy, "zero", 'outer DSCP: "zero" or "copy" (of the inner packet)')
    precedence: bool = _key(
        "precedence", switch, True, "ask the scheduler to be served sooner (niceness -10, 0.1 ms slice)"
    )
    log_level: str = _key("log-level", log_level, "info", "debug, info, warning or error")
    uplink_rate: int | None = _key(
        "uplink.rate",
        rate_limit,
        NO_LIMIT,
        'limit for all datagrams together, about 0.95 of what the uplink carries; "off": none',
    )
    tun_offload: bool = _key("offload.tun", switch, True, "superpackets and checksums from and to the kernel")
    udp_offload: bool = _key(
        "offload.udp", switch, True, "trains of datagrams in one call (UDP_SEGMENT, UDP_GRO)"
    )
    peer_rates: tuple[tuple[str, int | None], ...] = _key(
        "peer-rates", rates_by_name, (), 'limits for single peers: NAME = "20mbit" or "off"'
    )
    peers: tuple[KnownPeer, ...] = _key(
        "peers", known_peers, (), "where to look for a member before it is heard of: NAME = [endpoints]"
    )


KEYS: dict[str, tuple[str, Key]] = {
    each.metadata["key"].name: (each.name, each.metadata["key"]) for each in fields(Settings)
}
"""Name in the file -> name of the field, and the key."""

DEFAULTS = Settings()


# --- Reading ------------------------------------------------------------------------------------------------


def load_settings(path: Path, base: Settings = DEFAULTS) -> Settings:
    """Read one file; `base` has what it does not set. Raises SettingsError, also when it cannot be read."""
    try:
        written = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 text") from error
    return parse_settings(written, str(path), base)


def parse_settings(written: str, source: str, base: Settings = DEFAULTS) -> Settings:
    """TOML text to settings; `source` names it in errors. Keys may be spelt with - or _."""
    try:
        document = tomllib.loads(written)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{source}: not valid TOML: {error}") from error
    values: dict[str, object] = {}
    for name, value in _flatten(document):
        where = f"{source}:{_line_of(written, name)}"
        if name not in KEYS:
            raise SettingsError(f'{where}: unknown key "{name}"{_nearest(name)}')
        attribute, key = KEYS[name]
        if attribute in values:
            raise SettingsError(f'{where}: "{name}" is set twice')
        try:
            values[attribute] = key.parse(value)
        except ValueError as error:
            raise SettingsError(f"{where}: {name}: {error}") from error
    return replace(base, **values)  # type: ignore[arg-type]  # each value came from its own field's parser


def _flatten(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for written, value in table.items():
        name = prefix + written.replace("_", "-")
        if isinstance(value, dict) and value and name not in KEYS:
            yield from _flatten(value, f"{name}.")
        else:
            yield name, value


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, KEYS, n=1, cutoff=0.5)
    return f'; did you mean "{close[0]}"?' if close else f"; the keys are {', '.join(KEYS)}"


def _line_of(written: str, name: str) -> int:
    """The line that sets `name`: tomllib tells none. 1 where the spelling is too clever to find."""
    table = ""
    for number, line in enumerate(written.splitlines(), start=1):
        header = re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line)
        if header:
            table = header[1].replace("_", "-").replace('"', "") + "."
            if table[:-1] == name or table.startswith(f"{name}."):
                return number
            continue
        key = re.match(r"""\s*["']?([^"'=\s]+)["']?\s*=""", line)
        if key and table + key[1].replace("_", "-") == name:
            return number
    return 1
