"""Whatever the sockets bring, the mill counts it and goes on; and the same input always gives the same output."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.dataplane.api import Batch
from meshnode.values import MILLISECOND, Datagram, LimitRate, SendFrames
from meshnode.wire.header import MINIMUM_DATA
from tests.sim.cheap import cheap_aead
from tests.unit.dataplane.kernel import kernel_packets
from tests.unit.dataplane.packets import Udp
from tests.unit.dataplane.pair import Mill, address, keys, pair, peer_id, udp_path
from tests.unit.dataplane.test_trains import config, send, superpacket, tcp


@given(
    st.lists(
        st.tuples(
            st.integers(0, 4000),
            st.binary(max_size=20),
            st.integers(0, 1500),
            st.integers(0, 3),
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=150, deadline=None)
def test_no_read_from_a_socket_stops_the_mill(reads: list[tuple[int, bytes, int, int, bool]]) -> None:
    a, b = pair(config(1), config(2))
    (batch,) = send(a, superpacket(tcp(3500), 1000))
    for at, damage, size, ecn, whole in reads:
        data = bytearray(batch.data)
        data[at : at + len(damage)] = damage
        read = data if whole else data[at:]
        b.plane.push_datagrams([Datagram(bytes(read), udp_path(1), b.now.boot, ecn, size)], b.now)
    b.run()
    kernel_packets(b.plane.take_packets())
    a.push(Udp(address(1), address(2), b"still here").build())
    b.receive(a.batches(), 1)
    assert len(b.packets()) == 1


def test_a_runt_tail_costs_only_itself() -> None:
    a, b = pair(config(1), config(2))
    given_ = superpacket(tcp(3000), 1000)
    (batch,) = send(a, given_)
    for tail in (b"x", bytes(MINIMUM_DATA - 1)):
        read = Datagram(bytes(batch.data) + tail, udp_path(1), b.now.boot, 0, batch.segment_size)
        b.plane.push_datagrams([read], b.now)
    assert kernel_packets(b.tun()) == kernel_packets([given_])
    assert b.plane.counters["in length"] == 2
    assert b.plane.counters["in replay"] == 3


def test_one_read_may_hold_datagrams_of_many_flows_and_sessions() -> None:
    a, b = pair()
    b.admit(3)
    b.connect(3, keys(23, 32, False))
    other = Mill(3)
    other.admit(2)
    other.connect(2, keys(32, 23, True))
    a.push(*(Udp(address(1), address(2), b"x" * 1000, (port, 1)).build() for port in range(5)))
    other.push(Udp(address(3), address(2), b"x" * 1000).build())
    datagrams = [bytes(data) for batch in (*a.batches(), *other.batches()) for data in batch.datagrams()]
    assert len({len(data) for data in datagrams}) == 1
    Random(1).shuffle(datagrams)
    read = Datagram(b"".join(datagrams), udp_path(1), b.now.boot, 0, len(datagrams[0]))
    b.plane.push_datagrams([read], b.now)
    assert len(b.packets()) == 6
    assert not b.plane.counters


def test_a_cheap_cipher_works_in_place_as_well() -> None:
    a, b = Mill(1, config(1), cheap_aead), Mill(2, config(2), cheap_aead)
    a.admit(2)
    b.admit(1)
    a.connect(2, keys(11, 22, True))
    b.connect(1, keys(22, 11, False))
    given_ = superpacket(tcp(5000), 1000)
    b.receive(send(a, given_), 1)
    assert kernel_packets(b.tun()) == kernel_packets([given_])


def story() -> list[list[Batch]]:
    """A second of traffic through a shaped peer."""
    dice = Random(7)
    a, b = pair(config(1), config(2))
    a.plane.apply(LimitRate(b.id, 20_000_000), a.now)
    told: list[list[Batch]] = []
    for _ in range(100):
        for port in range(dice.randrange(8)):
            a.push(
                Udp(
                    address(1), address(2), dice.randbytes(dice.randrange(1200)), (port, 1), dice.randrange(4)
                ).build()
            )
        a.plane.push_packets([superpacket(tcp(dice.randrange(1, 30_000), tos=2), 1300)], a.now)
        a.plane.send_frames(SendFrames(b.id, b""), a.now)
        a.plane.work(a.now, MILLISECOND // 10)
        told.append(a.plane.take_datagrams())
        a.advance(10 * MILLISECOND)
    return told


def test_the_same_calls_give_the_same_bytes() -> None:
    first = story()
    assert first == story()
    assert sum(batch.datagram_count for batches in first for batch in batches) > 500


def test_ecn_capable_flows_lose_nothing_to_our_queue() -> None:
    a, b = pair(config(1), config(2))
    a.plane.apply(LimitRate(b.id, 10_000_000), a.now)
    sent = received = 0
    for _ in range(100):
        packets = [
            Udp(address(1), address(2), bytes(1300), (port, 1), 1 + port % 2).build()
            for port in (1, 2)
            for _ in range(6)
        ]
        a.push(*packets)
        sent += len(packets)
        a.run()
        a.advance(10 * MILLISECOND)
        b.advance(10 * MILLISECOND)
        b.receive(a.batches(), 1)
        received += len(b.packets())
    status = a.plane.status(peer_id(2))
    assert status is not None
    assert status.queue.marks > 0
    assert status.queue.drops == 0
    assert received + status.queue.backlog_packets == sent
