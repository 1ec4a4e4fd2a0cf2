"""A nonce used twice under one key gives the plaintexts away.

Counters end before they wrap, keys die with the process, and a new process never has the key of an old one. The ledger
of the simulator sees every nonce of every key of every process in all its tests.
"""

import pytest

from meshnode.crypto.suites import SUITES
from meshnode.dataplane.session import Session
from meshnode.values import Suite
from tests.attacks.field import Field, settled
from tests.sim.invariants import Broken

LIMIT = SUITES[Suite.CHACHA20_POLY1305].reject_after


def near_the_end(field: Field, left: int) -> Session:
    """Alpha's session towards beta, with so many counters left."""
    assert field.alpha.plane is not None
    session = field.alpha.plane._peers[field.beta.member.peer].session
    assert session is not None
    session.counter = LIMIT - left
    return session


def test_the_last_counter_is_used_and_no_one_after_it() -> None:
    field = settled()
    session = near_the_end(field, 1)
    # What would renew the key is held up, so that the limit itself has to hold.
    field.mallory.hold(field.alpha.plug, lambda packet: (packet,) if packet.data[0] == 4 else ())
    for _ in range(5):
        field.alpha.applications.send(field.beta.member.ipv6, b"x")
    field.run(1)
    assert session.counter == LIMIT
    assert len(field.beta.applications.inbox) == 1


def test_a_worn_key_is_renewed_before_anything_is_lost() -> None:
    field = settled()
    keys = field.mesh.invariants.nonces.keys()
    near_the_end(field, 1000)
    for _ in range(50):
        field.alpha.applications.send(field.beta.member.ipv6, b"x")
        field.run(0.1)
    assert field.mesh.invariants.nonces.keys() > keys
    assert len(field.beta.applications.inbox) == 50


def test_a_receiver_refuses_what_lies_behind_the_limit() -> None:
    field = settled()
    session = near_the_end(field, 1)
    session.reject_after = LIMIT + 10
    field.mallory.hold(field.alpha.plug, lambda packet: (packet,) if packet.data[0] == 4 else ())
    for _ in range(5):
        field.alpha.applications.send(field.beta.member.ipv6, b"x")
    field.run(1)
    assert len(field.beta.applications.inbox) == 1


def test_a_counter_that_stands_still_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    field = settled()
    monkeypatch.setattr(Session, "counter", property(lambda session: 7, lambda session, value: None))
    with pytest.raises(Broken, match="nonce"):
        field.alpha.applications.send(field.beta.member.ipv6, b"x")


def test_without_the_limit_the_counter_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    field = settled()
    session = near_the_end(field, 1)
    session.reject_after = 2**64
    for _ in range(3):
        field.alpha.applications.send(field.beta.member.ipv6, b"x")
    assert session.counter > LIMIT
