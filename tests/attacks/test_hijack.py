"""Making a node send a peer's traffic somewhere else.

Whoever forwards a copy of an authentic datagram from his own address faster than the original must not become the path
by that (tinc could be made to dump its traffic anywhere; WireGuard calls it roaming mischief). A new source is a
candidate: it gets probes of at most three times the bytes that came from there, until it answers one itself.
"""

from collections.abc import Iterable
from functools import partial

import pytest

from meshnode.proto.paths import Paths
from meshnode.values import MILLISECOND, Endpoint, Path
from tests.attacks.field import Field, settled
from tests.sim.invariants import Broken
from tests.sim.link import UdpPacket


def overtake(field: Field, sources: int = 1) -> None:
    """Sit before alpha: hold each datagram of beta for 50 ms and send a copy from an own address at once."""
    world = field.mesh.world
    count = 0

    def decide(packet: UdpPacket) -> Iterable[UdpPacket]:
        nonlocal count
        if packet.origin != "beta":
            return (packet,)
        count += 1
        own = field.mallory.endpoint(port=5000 + count % sources)
        field.mallory.plug.send(packet._replace(source=own, origin=field.mallory.name))
        late = packet._replace(origin=field.mallory.name)
        world.after(50 * MILLISECOND, partial(field.alpha.plug.receive, late))
        return ()

    field.mallory.hold(field.alpha.plug, decide)


def talk(field: Field, seconds: int = 20) -> None:
    for _ in range(seconds * 10):
        field.alpha.applications.send(field.beta.member.ipv6, b"down" * 100)
        field.beta.applications.send(field.alpha.member.ipv6, b"up")
        field.run(0.1)


def hijacked(field: Field) -> bool:
    path = field.alpha.path_to(field.beta)
    return path is not None and path.remote.host == field.mallory.endpoint().host


@pytest.mark.parametrize("sources", [1, 100])
def test_copies_from_elsewhere_gain_nothing(sources: int) -> None:
    field = settled()
    overtake(field, sources)
    talk(field)
    # How little goes there is watched at every datagram by the address ledger.
    assert not hijacked(field)
    assert len(field.alpha.applications.inbox) == 200
    assert len(field.beta.applications.inbox) > 190


def test_when_the_attacker_leaves_all_is_as_before() -> None:
    field = settled()
    overtake(field)
    talk(field, 5)
    field.mallory.release(field.alpha.plug)
    received = len(field.beta.applications.inbox)
    talk(field, 5)
    assert len(field.beta.applications.inbox) - received >= 49
    assert field.works()


def test_a_table_of_candidates_has_a_bound() -> None:
    field = settled()
    overtake(field, sources=1000)
    talk(field, 30)
    assert field.alpha.node is not None
    (peer,) = field.alpha.node.peers.values()
    assert len(peer.paths.candidates()) <= 16


def test_a_node_that_moves_at_once_is_hijacked(monkeypatch: pytest.MonkeyPatch) -> None:
    field = settled()
    heard = Paths.heard

    def believe(paths: Paths, path: Path, size: int, now: int) -> None:
        heard(paths, path, size, now)
        paths.prove(path, 1, now)
        paths.active = path

    monkeypatch.setattr(Paths, "heard", believe)
    overtake(field)
    with pytest.raises(Broken, match="no member is"):
        talk(field)


def test_without_the_limit_too_much_goes_to_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    field = settled()
    monkeypatch.setattr(Paths, "may_send", lambda *_: True)
    monkeypatch.setattr("meshnode.proto.paths.PROBE_BACKOFF", (1 * MILLISECOND,))
    overtake(field)
    with pytest.raises(Broken, match="no member is"):
        talk(field)


def test_a_forged_source_of_garbage_is_not_even_a_candidate() -> None:
    field = settled()
    assert field.alpha.node is not None
    (peer,) = field.alpha.node.peers.values()
    before = [c.path for c in peer.paths.candidates()]
    for port in range(1, 500):
        field.mallory.send(bytes((4,)) + bytes(100), field.alpha.endpoints()[0], Endpoint("46.9.9.9", port))
    field.run(1)
    assert [c.path for c in peer.paths.candidates()] == before
