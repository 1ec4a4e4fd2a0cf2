"""`meshnode leave` and `meshnode revoke`."""

from __future__ import annotations

import io
import threading

import pytest

from meshnode.cli.stopped import stopped_node
from meshnode.crypto.primitives import SODIUM
from meshnode.edge import clock
from meshnode.edge.errors import EdgeError
from meshnode.edge.store import Secret, Store
from meshnode.wire.state import parse_state_untrusted
from meshnode.wire.statement import Role
from tests.unit.cli.conftest import Machine


@pytest.fixture
def founder(machine: Machine) -> Machine:
    machine("init", "--net", "home", "--name", "alpha", "--port", "5000")
    return machine


# --- leave ----------------------------------------------------------------------------------------------------


def test_leaving_removes_keys_and_state(founder: Machine) -> None:
    done = founder("leave", "--yes")
    assert (done.code, done.out) == (0, "")
    assert "`meshnode revoke`" in done.err
    assert founder.files() == []


@pytest.mark.parametrize(("answer", "code", "gone"), [("y\n", 0, True), ("n\n", 1, False), ("", 1, False)])
def test_leaving_asks_first(
    founder: Machine, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, gone: bool
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert founder("leave").code == code
    assert (founder.files() == []) is gone


def test_a_running_node_says_goodbye_and_lets_go_first(founder: Machine, running) -> None:
    lock = Store(founder.state_dir, "home").lock()
    node = running(leave=lambda: threading.Timer(0.2, lock.release).start())
    assert founder("leave", "--yes").code == 0
    assert node.asked == [("leave", {})]
    assert founder.files() == []


def test_a_node_that_does_not_let_go_keeps_its_state(
    founder: Machine, running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshnode.cli.leave.GOODBYE_TIMEOUT", 0.1)
    running(leave=None)
    with Store(founder.state_dir, "home").lock():
        assert "runs already" in founder.fails("leave", "--yes")
    assert "home/identity.key" in founder.files()


def test_one_cannot_leave_where_one_is_not(machine: Machine) -> None:
    assert "has no part in the network work" in machine.fails("leave", "--net", "work", "--yes")


# --- revoke ---------------------------------------------------------------------------------------------------


@pytest.fixture
def beta(founder: Machine) -> str:
    """The id of a second member, admitted by hand while the node is stopped."""
    with stopped_node(Store(founder.state_dir, "home")) as node:
        seed, static = bytes([1]) * 32, SODIUM.public_key(bytes([2]) * 32)
        wall = clock.now().wall
        grant = node.registrar.grant(SODIUM.identity_key(seed), static, "beta", Role(0), (), 0, wall)
        node.membership.add_untrusted(grant, wall)
        node.save()
        return node.member("beta").peer.hex()


def is_member(machine: Machine, name: str) -> bool:
    with stopped_node(Store(machine.state_dir, "home")) as node:
        return any(member.label == name for member in node.membership.members.values())


def test_a_stopped_node_revokes_by_name(founder: Machine, beta: str) -> None:
    assert founder("revoke", "beta").err == "revoked beta\n"
    assert not is_member(founder, "beta")
    assert is_member(founder, "alpha")


def test_a_stopped_node_revokes_by_id(founder: Machine, beta: str) -> None:
    assert founder("revoke", beta[:8]).code == 0
    assert not is_member(founder, "beta")


def test_an_id_that_fits_several_names_nobody(founder: Machine, beta: str) -> None:
    assert "several ids begin with" in founder.fails("revoke", "")


@pytest.mark.parametrize(("name", "hint"), [("gamma", "is no member"), ("alpha", "cannot revoke itself")])
def test_who_cannot_be_revoked(founder: Machine, beta: str, name: str, hint: str) -> None:
    assert hint in founder.fails("revoke", name)
    assert is_member(founder, "beta")


def test_only_an_admin_revokes(founder: Machine, beta: str) -> None:
    # beta's own machine: the same state, but beta's keys and no root key.
    store = Store(founder.state_dir, "home")
    data = store.read_state()
    assert data is not None
    assert parse_state_untrusted(data).statements
    for secret in Secret:
        (founder.state_dir / "home" / secret).unlink()
    store.write_secret(Secret.IDENTITY, bytes([1]) * 32)
    store.write_secret(Secret.STATIC, bytes([2]) * 32)
    assert "admin" in founder.fails("revoke", "alpha")
    assert "no admin" in founder.fails("invite")


def test_a_running_node_is_asked_to_revoke(founder: Machine, running) -> None:
    node = running(revoke={"revoked": "beta"})
    assert founder("revoke", "beta", "--keep").err == "revoked beta\n"
    assert node.asked == [("revoke", {"node": "beta", "keep": True})]


def test_a_running_node_that_refuses_has_the_word(founder: Machine, running) -> None:
    running(revoke=EdgeError("beta is an admin: only the founder's node can revoke it"))
    assert founder.fails("revoke", "beta").startswith("beta is an admin")
