"""`direct_path_possible` is the truth that the protocol is held against, so an experiment checks it.

Two programs behind simulated NATs punch as well as one can: each sends to where an observer saw the other and
to every source from which something arrived. What they reach is what the formula must say.
"""

from itertools import product

import pytest

from meshnode.values import MILLISECOND, SECOND, Endpoint
from tests.sim.link import UdpPacket
from tests.sim.nat import FULL_CONE, PORT_RESTRICTED, SYMMETRIC, Dependence, NatKind
from tests.sim.network import Internet, Network
from tests.sim.reach import OPEN, Reach, Side, direct_path_possible, punchable
from tests.sim.world import World

SIDES = [Side(m, f) for m, f in product(Dependence, Dependence)]


class Puncher:
    """Probes and answers; `proven` once one of its own probes was answered."""

    def __init__(self, world: World, network: Network, name: str) -> None:
        self.world = world
        self.name = name
        self.proven = False
        self.seen_as = Endpoint("", 0)
        self.plug = network.plug_in(name, self.receive, families="4")

    def send(self, to: Endpoint, data: bytes) -> None:
        self.plug.send(UdpPacket(Endpoint(self.plug.addresses[0], 4655), to, data, origin=self.name))

    def receive(self, packet: UdpPacket) -> None:
        if packet.data.startswith(b"probe"):
            self.send(packet.source, b"echo of " + packet.data)
            self.send(packet.source, b"probe of " + self.name.encode())
        elif packet.data == b"echo of probe of " + self.name.encode():
            self.proven = True

    def punch(self, to: Endpoint, times: int = 10) -> None:
        self.send(to, b"probe of " + self.name.encode())
        if times and not self.proven:
            self.world.after(100 * MILLISECOND, lambda: self.punch(to, times - 1))


def punches_through(a: Side, b: Side) -> bool:
    world = World(seed=3)
    internet = Internet(world)
    punchers = []
    for name, side in (("a", a), ("b", b)):
        kind = NatKind(side.mapping, side.filtering, preserves_ports=False)
        lan, _ = internet.add_lan(f"lan {name}", kind)
        punchers.append(Puncher(world, lan, name))

    def observe(packet: UdpPacket) -> None:
        next(p for p in punchers if p.name == packet.origin).seen_as = packet.source

    observer = internet.plug_in("observer", observe)
    for puncher in punchers:
        puncher.send(Endpoint(observer.addresses[0], 1), b"here I am")
    world.run_for(SECOND)
    first, second = punchers
    first.punch(second.seen_as)
    second.punch(first.seen_as)
    world.run_for(5 * SECOND)
    return first.proven and second.proven


@pytest.mark.parametrize("a", SIDES, ids=lambda s: f"{s.mapping.name}/{s.filtering.name}")
def test_the_formula_agrees_with_an_experiment(a: Side) -> None:
    for b in SIDES:
        assert punches_through(a, b) is (punchable(a, b) is Reach.YES), (a, b)


def test_the_formula_is_symmetric() -> None:
    for a, b in product([*SIDES, OPEN], repeat=2):
        assert punchable(a, b) is punchable(b, a)


def test_symmetric_against_port_restricted_is_luck_and_two_symmetric_are_hopeless() -> None:
    hard = Side(SYMMETRIC.mapping, SYMMETRIC.filtering)
    cone = Side(PORT_RESTRICTED.mapping, PORT_RESTRICTED.filtering)
    assert punchable(hard, cone) is Reach.BY_CHANCE
    assert punchable(hard, hard) is Reach.NO
    assert punchable(cone, cone) is punchable(hard, OPEN) is Reach.YES


def nothing(packet: UdpPacket) -> None:
    """A host that does not listen."""


def test_topology_decides_before_nats_do() -> None:
    world = World()
    internet = Internet(world)
    home, home_router = internet.add_lan("home", SYMMETRIC)
    office, _ = internet.add_lan("office", SYMMETRIC)
    legacy, _ = internet.add_lan("legacy", SYMMETRIC, ipv6=False)
    a, b = home.plug_in("a", nothing), home.plug_in("b", nothing)
    c, d = office.plug_in("c", nothing), legacy.plug_in("d", nothing)
    server = internet.plug_in("server", nothing)
    old_server = internet.plug_in("old", nothing, families="4")
    new_server = internet.plug_in("new", nothing, families="6")
    assert direct_path_possible(a, b) is Reach.YES  # one LAN
    assert direct_path_possible(a, c) is Reach.YES  # IPv6
    assert direct_path_possible(a, d) is Reach.NO  # two symmetric NATs
    assert direct_path_possible(d, server) is Reach.YES  # a public address
    assert direct_path_possible(old_server, new_server) is Reach.NO  # no family in common
    home_router.blocks_udp = True
    assert direct_path_possible(a, b) is Reach.YES
    assert direct_path_possible(a, server) is Reach.NO
    b.connected = False
    assert direct_path_possible(a, b) is Reach.NO


def test_the_hardest_nat_of_a_chain_counts_and_one_carrier_is_a_matter_of_luck() -> None:
    world = World()
    internet = Internet(world)
    carrier, _ = internet.add_carrier("mobile", SYMMETRIC)
    home, _ = internet.add_lan("home", FULL_CONE, outside=carrier)
    other, _ = internet.add_lan("other", FULL_CONE, outside=carrier)
    far, _ = internet.add_lan("far", SYMMETRIC)
    plugs = [network.plug_in(name, nothing) for name, network in (("a", home), ("b", other), ("c", far))]
    assert direct_path_possible(plugs[0], plugs[2]) is Reach.NO
    assert direct_path_possible(plugs[0], plugs[1]) is Reach.BY_CHANCE
