"""Bad lines: loss, duplicates, disorder, damage, small MTUs, and handshakes that meet on the way."""

from dataclasses import replace

import pytest

from meshnode.values import MILLISECOND, SECOND
from tests.sim.host import Host
from tests.sim.link import Link, UdpPacket
from tests.sim.mesh import UPLINK, Mesh


def over(link: Link, seed: int, count: int = 2) -> Mesh:
    """Some hosts, each of which sends over `link`."""
    mesh = Mesh(seed)
    hosts = [mesh.add_host(f"node{number}", link=link) for number in range(count)]
    mesh.found(hosts[0])
    for host in hosts[1:]:
        mesh.enrol(host, hosts[0])
    return mesh


def deliver(mesh: Mesh, a: Host, b: Host, count: int, gap: int = 20 * MILLISECOND) -> float:
    """Send `count` messages from `a` to `b`; which part of them came."""
    before = len(b.applications.inbox)
    for _ in range(count):
        a.applications.send(b.member.ipv6, b"x" * 400)
        mesh.run_for(gap)
    mesh.run_for(SECOND)
    return (len(b.applications.inbox) - before) / count


@pytest.mark.parametrize("seed", range(4))
def test_thirty_percent_loss_both_ways(seed: int) -> None:
    mesh = over(replace(UPLINK, loss=0.3), seed, count=4)
    mesh.wait_all_up(30 * SECOND)
    a, b, *_ = mesh.hosts.values()
    assert deliver(mesh, a, b, 200) > 0.55


@pytest.mark.parametrize("seed", range(3))
def test_rekeying_under_thirty_percent_loss_interrupts_nothing(seed: int) -> None:
    mesh = over(replace(UPLINK, loss=0.3), seed)
    mesh.wait_all_up(30 * SECOND)
    a, b = mesh.hosts.values()
    keys = mesh.invariants.nonces.keys()
    arrived = [deliver(mesh, a, b, 50, gap=SECOND) for _ in range(12)]
    assert mesh.invariants.nonces.keys() > keys + 6
    assert min(arrived) > 0.4
    assert sum(arrived) / len(arrived) > 0.6


def test_duplicates_and_disorder_reach_no_application() -> None:
    mesh = over(replace(UPLINK, duplication=0.3, reordering=0.3, jitter=5 * MILLISECOND), 5)
    mesh.wait_all_up(5 * SECOND)
    a, b = mesh.hosts.values()
    # The inner ledger fails on a packet that comes twice.
    assert deliver(mesh, a, b, 300, gap=2 * MILLISECOND) == 1.0


def test_damaged_packets_are_lost_packets() -> None:
    mesh = over(replace(UPLINK, corruption=0.2), 6)
    mesh.wait_all_up(10 * SECOND)
    a, b = mesh.hosts.values()
    assert 0.6 < deliver(mesh, a, b, 300) < 0.95


@pytest.mark.parametrize("seed", range(6))
def test_both_initiate_in_the_same_instant(seed: int) -> None:
    mesh = over(replace(UPLINK, latency=20 * MILLISECOND), seed)
    mesh.wait_all_up(5 * SECOND)
    mesh.run_for(5 * SECOND)
    for host in mesh.hosts.values():
        host.crash()
    mesh.run_for(SECOND)
    for host in mesh.hosts.values():
        host.start()
    mesh.wait_all_up(2 * SECOND)
    mesh.everybody_pings()
    a, b = mesh.hosts.values()
    for _ in range(10):
        assert deliver(mesh, a, b, 20) == deliver(mesh, b, a, 20) == 1.0
        mesh.run_for(30 * SECOND)


def test_one_line_loses_everything_in_one_direction_and_ipv6_is_used_instead() -> None:
    mesh = over(UPLINK, 7)
    mesh.wait_all_up(5 * SECOND)
    a, b = mesh.hosts.values()
    for _ in range(20):
        deliver(mesh, a, b, 2)
    used = a.path_to(b)
    assert used is not None
    broken = used.remote.host

    def lose(packet: UdpPacket) -> tuple[UdpPacket, ...]:
        return () if packet.destination.host == broken else (packet,)

    a.plug.on_path = lose
    deliver(mesh, a, b, 250)
    now_used = a.path_to(b)
    assert now_used is not None
    assert now_used.remote.host != broken
    assert deliver(mesh, a, b, 50) == 1.0


@pytest.mark.parametrize("mtu", [1280, 1400])
def test_lines_with_a_small_mtu_carry_handshakes_and_small_packets(mtu: int) -> None:
    mesh = over(replace(UPLINK, mtu=mtu), 8, count=3)
    mesh.wait_all_up(5 * SECOND)
    mesh.everybody_pings()


def test_a_slow_line_with_a_long_queue() -> None:
    mesh = over(Link(latency=20 * MILLISECOND, rate=256_000, backlog=2 * SECOND), 9)
    mesh.wait_all_up(5 * SECOND)
    a, b = mesh.hosts.values()
    deliver(mesh, a, b, 1000, gap=5 * MILLISECOND)
    mesh.run_for(5 * SECOND)
    mesh.wait_all_up(10 * SECOND)
    mesh.everybody_pings()


def test_a_round_trip_of_two_seconds() -> None:
    mesh = Mesh(10)
    alpha = mesh.add_host("alpha")
    moon = mesh.add_host("moon", link=Link(latency=980 * MILLISECOND))
    mesh.found(alpha)
    mesh.enrol(moon, alpha)
    mesh.wait_all_up(20 * SECOND)
    mesh.run_for(300 * SECOND)
    mesh.everybody_pings(within=5 * SECOND)
