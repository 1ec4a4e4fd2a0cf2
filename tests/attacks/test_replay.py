"""Old datagrams, sent again.

Counters and a window per key for data, timestamps for initiations. tinc's first window could be tricked (Etienne 2001),
relays have forwarded replays. Here whole conversations are recorded and poured back, in any order, from anywhere.
"""

import random

import pytest

from meshnode.crypto.replay import ReplayWindow
from meshnode.proto.peer import Peer
from meshnode.values import SECOND
from tests.attacks.field import DATA, INITIATION, Field, at, recorded, settled, state_of
from tests.sim.invariants import Broken
from tests.sim.link import UdpPacket


def pour_back(field: Field, packets: list[UdpPacket]) -> None:
    """All of it, shuffled, from the addresses of the first time and from the attacker's own."""
    again = list(packets)
    random.Random(1).shuffle(again)
    field.mallory.replay(again)
    field.mallory.replay([p._replace(source=field.mallory.endpoint()) for p in again])
    field.run(3)


def test_a_conversation_poured_back_delivers_nothing_and_moves_nothing() -> None:
    field = settled()
    packets = [p for p in recorded(field) if p.data[0] == DATA]
    assert len(packets) > 40
    delivered = field.mesh.invariants.inner.delivered
    before = state_of(field.alpha), state_of(field.beta)
    pour_back(field, packets)
    assert field.mesh.invariants.inner.delivered == delivered
    assert (state_of(field.alpha), state_of(field.beta)) == before
    assert field.mallory.received == []


def test_handshakes_poured_back_make_no_session_and_get_no_answer() -> None:
    field = settled()
    packets = [p for p in recorded(field) if p.data[0] != DATA]
    before = state_of(field.alpha), state_of(field.beta)
    pour_back(field, packets)
    assert (state_of(field.alpha), state_of(field.beta)) == before
    assert field.mallory.received == []


@pytest.mark.parametrize("graceful", [True, False])
def test_after_a_restart_of_the_responder_they_are_no_fresher(graceful: bool) -> None:
    field = settled()
    packets = recorded(field)
    field.run(5)
    if graceful:
        field.alpha.stop()
        field.alpha.start()
    else:
        field.alpha.restart()
    field.mesh.wait_all_up(5 * SECOND)
    delivered = field.mesh.invariants.inner.delivered
    pour_back(field, packets)
    assert field.mesh.invariants.inner.delivered == delivered
    assert field.mallory.received == []
    assert field.works()


def an_initiation_is_taken_twice(field: Field) -> bool:
    packets = recorded(field)
    first = next(p for p in packets if p.data[0] == INITIATION and p.destination == at(field.alpha))
    field.run(1)
    field.mallory.send(first.data, at(field.alpha))
    field.run(1)
    return bool(field.mallory.received)


def test_an_initiation_counts_once() -> None:
    assert not an_initiation_is_taken_twice(settled())


def test_without_timestamps_it_counts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    field = settled()
    monkeypatch.setattr(Peer, "check_initiation_untrusted", lambda *_: None)
    assert an_initiation_is_taken_twice(field)


@pytest.mark.parametrize("method", ["check", "accept"])
def test_without_the_window_applications_get_everything_twice(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = settled()
    packets = [p for p in recorded(field) if p.data[0] == DATA]
    # `check` stands before the seal and `accept` behind it: with both gone nothing is left.
    monkeypatch.setattr(ReplayWindow, "check", lambda *_: True)
    if method == "accept":
        monkeypatch.setattr(ReplayWindow, "accept", lambda *_: True)
    with pytest.raises(Broken, match="twice"):
        pour_back(field, packets)
