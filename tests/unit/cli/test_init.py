"""`meshnode init`: everything or nothing, and only where there is no such network yet."""

from __future__ import annotations

import stat

import pytest

from meshnode.cli.names import node_name
from meshnode.edge.errors import EdgeError
from meshnode.edge.store import Store
from meshnode.settings import parse_settings
from meshnode.wire.state import parse_state_untrusted
from meshnode.wire.statement import Grant, Role, parse_statement_untrusted
from tests.unit.cli.conftest import Machine

BAD_NAMES = ["", "a/b", "a\0b", "a" * 300, "a\nb", "\x1b[31m", "-a", "..", "é"]


def test_the_founder_is_the_first_member_and_admin(machine: Machine) -> None:
    done = machine("init", "--net", "home", "--name", "alpha", "--ipv4", "10.9.0.0/24")
    assert done.code == 0
    assert done.out == ""
    assert "meshnode join --net home" in done.err
    data = Store(machine.state_dir, "home").read_state()
    assert data is not None
    grants = [parse_statement_untrusted(raw).body for raw in parse_state_untrusted(data).statements]
    assert len(grants) == 1
    assert isinstance(grants[0], Grant)
    assert grants[0].name == "alpha"
    assert grants[0].roles == Role.ADMIN | Role.ROUTER
    assert grants[0].ipv4 is not None
    assert grants[0].ipv4.startswith(bytes([10, 9, 0]))


def test_keys_are_for_nobody_else(machine: Machine) -> None:
    machine("init", "--net", "home")
    assert stat.S_IMODE((machine.state_dir / "home").stat().st_mode) == 0o700
    keys = [path for path in (machine.state_dir / "home").iterdir() if path.suffix == ".key"]
    assert len(keys) == 3
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in keys)


def test_the_host_name_is_the_default(machine: Machine) -> None:
    assert "this node is attic" in machine("init", "--net", "home").err


@pytest.mark.parametrize(
    ("host", "name"), [("Mac's box.local", "Mac-s-box.local"), ("-x", "x"), ("é", "node"), ("", "node")]
)
def test_a_host_name_that_is_no_node_name_is_made_one(
    monkeypatch: pytest.MonkeyPatch, host: str, name: str
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert node_name(None) == name


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("option", ["--name", "--net"])
def test_a_bad_name_is_refused_and_nothing_is_written(machine: Machine, option: str, name: str) -> None:
    words = ["init", "--net", "home", option, name]
    assert "use 1 to 63 of a-z A-Z 0-9 . _ -" in machine.fails(*words)
    assert not machine.state_dir.exists()


def test_the_network_has_to_be_named(machine: Machine) -> None:
    assert machine.fails("init", code=2).startswith("name the network: --net home")


@pytest.mark.parametrize("prefix", ["fd00::/64", "10.0.0.0/30"])
def test_members_get_ipv4_addresses_from_a_prefix_with_room(machine: Machine, prefix: str) -> None:
    assert "--ipv4 must be" in machine.fails("init", "--net", "home", "--ipv4", prefix)


def test_a_network_is_founded_once(machine: Machine) -> None:
    machine("init", "--net", "home")
    before = (machine.state_dir / "home" / "identity.key").read_bytes()
    assert "is here already" in machine.fails("init", "--net", "home")
    assert (machine.state_dir / "home" / "identity.key").read_bytes() == before


def test_port_and_advertise_hold_for_later_joins(machine: Machine) -> None:
    machine("init", "--net", "home", "--port", "5000", "--advertise", "a.example:1,[2001:db8::1]:2")
    kept = (machine.state_dir / "home" / "settings.toml").read_text()
    settings = parse_settings(kept, "kept")
    assert settings.port == 5000
    assert [str(each) for each in settings.advertise] == ["a.example:1", "[2001:db8::1]:2"]


def test_a_disk_that_fills_up_leaves_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Store, data: bytes) -> None:
        raise EdgeError("cannot write the state (no space left on device): make room")

    monkeypatch.setattr(Store, "write_state", full)
    assert "no space left" in machine.fails("init", "--net", "home")
    assert machine.files() == []
