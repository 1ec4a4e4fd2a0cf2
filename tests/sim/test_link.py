"""Links do what their value says."""

from dataclasses import replace

from meshnode.values import MILLISECOND, SECOND, Endpoint
from tests.sim.entropy import dice
from tests.sim.link import Link, Pipe, UdpPacket

A, B = Endpoint("45.7.0.2", 1), Endpoint("45.7.0.3", 2)
PLAIN = Link(latency=10)


def packet(size: int = 100) -> UdpPacket:
    return UdpPacket(A, B, bytes(size))


def pipe(link: Link) -> Pipe:
    return Pipe(link, dice(1, "pipe"))


def arrivals(link: Link, count: int = 2000, gap: int = 1) -> list[list[tuple[int, UdpPacket]]]:
    line = pipe(link)
    return [line.carry(packet(), i * gap) for i in range(count)]


def test_a_plain_link_delays_and_changes_nothing() -> None:
    assert pipe(PLAIN).carry(packet(), 5) == [(15, packet())]


def test_loss_takes_the_fraction_that_it_says() -> None:
    lost = sum(1 for a in arrivals(replace(PLAIN, loss=0.3)) if not a)
    assert 500 < lost < 700


def test_duplication_delivers_twice() -> None:
    twice = sum(1 for a in arrivals(replace(PLAIN, duplication=0.1)) if len(a) == 2)
    assert 120 < twice < 280


def test_corruption_flips_one_bit_and_marks_the_packet() -> None:
    spoiled = [a[0][1] for a in arrivals(replace(PLAIN, corruption=0.5)) if a[0][1].forged]
    assert 800 < len(spoiled) < 1200
    assert all(sum(byte.bit_count() for byte in p.data) == 1 for p in spoiled)


def test_jitter_keeps_the_order_and_reordering_does_not() -> None:
    jittery = [a[0][0] for a in arrivals(replace(PLAIN, jitter=1000))]
    assert jittery == sorted(jittery)
    assert max(jittery) > 2500
    mixed = [a[0][0] for a in arrivals(replace(PLAIN, latency=1000, reordering=0.1))]
    assert mixed != sorted(mixed)


def test_what_is_too_long_for_the_mtu_vanishes() -> None:
    line = pipe(replace(PLAIN, mtu=128))
    assert line.carry(packet(100), 0)
    assert not line.carry(packet(101), 0)


def test_a_rate_makes_packets_wait_for_each_other_and_a_full_queue_drops() -> None:
    # 128 bytes with headers are 1,024 bits: 1.024 ms each at 1 Mbit/s.
    line = pipe(Link(latency=0, rate=1_000_000, backlog=3 * MILLISECOND))
    times = [line.carry(packet(), 0) for _ in range(5)]
    assert [t[0][0] for t in times if t] == [1_024_000, 2_048_000, 3_072_000]
    assert times[3:] == [[], []]
    assert line.carry(packet(), SECOND) == [(SECOND + 1_024_000, packet())]
