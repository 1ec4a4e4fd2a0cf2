"""A relay that lies. It may refuse its service, and that is all it can do.

alpha and beta are behind symmetric NATs and reach each other through mallet alone, a member whose owner has taken its
node apart: it listens, repeats, changes, and asks others to relay what they should not.
"""

from dataclasses import replace

import pytest

from meshnode.crypto.replay import ReplayWindow
from meshnode.values import PeerId
from meshnode.wire.frames import FrameType, Relay, pack_frame, parse_relay_untrusted
from tests.attacks.field import Field, say, settled, state_of, with_flipped_bit
from tests.sim.host import Host
from tests.sim.invariants import Broken
from tests.sim.mesh import Mesh
from tests.sim.nat import SYMMETRIC

CANARY = b"the canary sings in plain text"


def relayed_field() -> Field:
    """Alpha and beta, who have only mallet between them."""
    mesh = Mesh(11)
    field = settled("anchor", "mallet", mesh=mesh)
    for name in ("alpha", "beta"):
        host = mesh.add_host(name, mesh.add_lan(f"lan-{name}", SYMMETRIC), families="4")
        mesh.enrol(host, field.host("anchor"))
    mesh.wait_all_up(30 * 10**9)
    field.run(5)
    field.host("anchor").stop()
    mesh.wait_for(lambda: via_mallet(field), 60 * 10**9, "alpha and beta meet through mallet")
    field.run(5)
    return field


def via_mallet(field: Field) -> bool:
    path = field.alpha.path_to(field.beta)
    back = field.beta.path_to(field.alpha)
    mallet = field.host("mallet").member.peer
    return path is not None and back is not None and path.via == back.via == mallet


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Relay]:
    """Every relay frame that any node reads."""
    frames: list[Relay] = []
    parse = parse_relay_untrusted

    def watch(body: bytes | memoryview) -> Relay:
        relay = parse(body)
        frames.append(relay)
        return relay

    monkeypatch.setattr("meshnode.dataplane.relaying.parse_relay_untrusted", watch)
    return frames


def talk(field: Field, times: int = 10) -> None:
    for _ in range(times):
        field.alpha.applications.send(field.beta.member.ipv6, CANARY)
        field.beta.applications.send(field.alpha.member.ipv6, CANARY)
        field.run(0.1)


def pass_on(field: Field, to: Host, relay: Relay) -> None:
    """Mallet sends a relay frame of its own making."""
    say(field.host("mallet"), to, pack_frame(FrameType.RELAY, relay.pack()))
    field.run(0.05)


def test_a_relay_reads_nothing(seen: list[Relay]) -> None:
    field = relayed_field()
    talk(field)
    assert len(field.beta.applications.inbox) == 10
    carried = [frame for frame in seen if len(frame.datagram) > len(CANARY)]
    assert len(carried) > 20
    assert not [frame for frame in carried if CANARY in frame.datagram]


def repeat_everything(field: Field, seen: list[Relay]) -> None:
    talk(field)
    recorded = [frame for frame in seen if frame.destination == field.beta.member.peer]
    assert recorded
    for frame in recorded:
        pass_on(field, field.beta, frame)


def test_what_a_relay_repeats_does_not_arrive_twice(seen: list[Relay]) -> None:
    field = relayed_field()
    talk(field)
    delivered = field.mesh.invariants.inner.delivered
    before = state_of(field.beta)
    for frame in [f for f in seen if f.destination == field.beta.member.peer]:
        pass_on(field, field.beta, frame)
    assert field.mesh.invariants.inner.delivered == delivered
    assert state_of(field.beta) == before


def test_without_the_replay_window_it_would(seen: list[Relay], monkeypatch: pytest.MonkeyPatch) -> None:
    field = relayed_field()
    monkeypatch.setattr(ReplayWindow, "check", lambda *_: True)
    monkeypatch.setattr(ReplayWindow, "accept", lambda *_: True)
    with pytest.raises(Broken, match="twice"):
        repeat_everything(field, seen)


def test_what_a_relay_changes_does_not_arrive(seen: list[Relay]) -> None:
    field = relayed_field()
    talk(field)
    frame = next(f for f in reversed(seen) if f.destination == field.beta.member.peer)
    delivered, before = field.mesh.invariants.inner.delivered, state_of(field.beta)
    for bit in range(0, len(frame.datagram) * 8, 7):
        pass_on(field, field.beta, replace(frame, datagram=with_flipped_bit(frame.datagram, bit)))
    assert field.mesh.invariants.inner.delivered == delivered
    assert state_of(field.beta) == before
    assert field.works()


def asked(field: Field, relay: Relay) -> dict[str, int]:
    """What alpha counts when mallet asks it to relay that."""
    assert field.alpha.plane is not None
    before = dict(field.alpha.plane.counters)
    pass_on(field, field.alpha, relay)
    return {
        name: n - before.get(name, 0)
        for name, n in field.alpha.plane.counters.items()
        if n > before.get(name, 0)
    }


def test_requests_to_strangers_in_anothers_name_or_in_circles_are_counted_and_dropped() -> None:
    field = relayed_field()
    mallet, alpha, beta = (field.host(name).member.peer for name in ("mallet", "alpha", "beta"))
    stranger = PeerId(bytes(16))
    data = bytes((4,)) + bytes(60)
    requests = {
        "to a stranger": Relay(mallet, stranger, 2, 0, 1, data),
        "in another's name": Relay(beta, stranger, 2, 0, 1, data),
        "back to where it came from": Relay(mallet, mallet, 2, 0, 1, data),
        "without hops left": Relay(mallet, beta, 0, 0, 1, data),
        "through alpha to beta and back": Relay(mallet, beta, 2, 0, 1, data),
    }
    for what, relay in requests.items():
        counted = asked(field, relay)
        assert "relayed" not in counted, what
        assert any("relay" in name for name in counted), (what, counted)
    assert alpha != beta


def test_a_node_that_does_not_relay_refuses() -> None:
    field = relayed_field()
    relay = Relay(field.host("mallet").member.peer, field.beta.member.peer, 2, 0, 1, bytes((4,)) + bytes(60))
    assert field.alpha.plane is not None
    relaying = field.alpha.plane._opener.relaying
    assert relaying is not None
    relaying._enabled = False
    assert asked(field, relay) == {"in relay off": 1}


def test_a_relay_that_vanishes_is_replaced_by_another() -> None:
    field = relayed_field()
    field.host("anchor").start()
    field.run(60)
    field.host("mallet").crash()
    received = len(field.beta.applications.inbox)
    talk(field, 100)
    # Five seconds to notice and go another way, of ten.
    assert len(field.beta.applications.inbox) - received >= 50
