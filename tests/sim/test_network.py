"""Routers, networks and what is plugged into them."""

from dataclasses import replace

from meshnode.values import SECOND, Endpoint
from tests.sim.link import Link, UdpPacket
from tests.sim.nat import FULL_CONE, PORT_RESTRICTED, NatKind
from tests.sim.network import Internet, Network, Plug
from tests.sim.world import World


class Socket:
    """A program that only sends and keeps what arrives."""

    def __init__(self, network: Network, name: str, families: str = "46", up: Link | None = None) -> None:
        self.received: list[UdpPacket] = []
        self.plug: Plug = network.plug_in(
            name, self.received.append, up or Link(latency=1), families=families
        )

    def endpoint(self, family: int = 4) -> Endpoint:
        return Endpoint(next(a for a in self.plug.addresses if (":" in a) == (family == 6)), 4655)

    def send(self, to: Endpoint, data: bytes = b"hello") -> bool:
        source = self.endpoint(6 if ":" in to.host else 4)
        return self.plug.send(UdpPacket(source, to, data, origin=self.plug.owner))

    def answer(self, data: bytes = b"welcome") -> bool:
        return self.send(self.received[-1].source, data)


def world_with_lan(kind: NatKind = PORT_RESTRICTED) -> tuple[World, Internet, Socket, Socket]:
    world = World()
    internet = Internet(world)
    lan, _ = internet.add_lan("home", kind)
    return world, internet, Socket(internet, "server"), Socket(lan, "laptop")


def test_a_server_sees_the_router_and_its_answer_comes_back() -> None:
    world, internet, server, laptop = world_with_lan()
    laptop.send(server.endpoint())
    world.run_for(SECOND)
    assert server.received[0].source.host != laptop.endpoint().host
    assert server.answer()
    world.run_for(SECOND)
    assert laptop.received[0].data == b"welcome"
    assert laptop.received[0].destination == laptop.endpoint()
    assert internet.gateway is None


def test_over_ipv6_there_is_no_nat_but_a_firewall() -> None:
    world, _, server, laptop = world_with_lan()
    server.send(laptop.endpoint(6))
    world.run_for(SECOND)
    assert laptop.received == []
    laptop.send(server.endpoint(6))
    world.run_for(SECOND)
    assert server.received[0].source == laptop.endpoint(6)
    server.answer()
    world.run_for(SECOND)
    assert len(laptop.received) == 1
    world.run_for(300 * SECOND)
    server.answer()
    world.run_for(SECOND)
    assert len(laptop.received) == 1


def test_hosts_of_one_lan_reach_each_other_without_the_router() -> None:
    world = World()
    internet = Internet(world)
    lan, router = internet.add_lan("home", PORT_RESTRICTED)
    router.blocks_udp = True
    a, b = Socket(lan, "a"), Socket(lan, "b")
    a.send(b.endpoint())
    world.run_for(SECOND)
    assert b.received[0].source == a.endpoint()


def test_blocked_udp_is_blocked_both_ways() -> None:
    world = World()
    internet = Internet(world)
    lan, router = internet.add_lan("office", FULL_CONE)
    server, laptop = Socket(internet, "server"), Socket(lan, "laptop")
    laptop.send(server.endpoint())
    world.run_for(SECOND)
    assert server.received
    router.blocks_udp = True
    server.answer()
    laptop.send(server.endpoint())
    world.run_for(SECOND)
    assert (len(server.received), laptop.received) == (1, [])


def test_two_nats_in_a_row_both_translate() -> None:
    world = World()
    internet = Internet(world)
    carrier, cgnat = internet.add_carrier("mobile", PORT_RESTRICTED)
    lan, home = internet.add_lan("home", PORT_RESTRICTED, outside=carrier)
    server, laptop = Socket(internet, "server"), Socket(lan, "laptop")
    laptop.send(server.endpoint())
    world.run_for(SECOND)
    assert server.received[0].source.host == cgnat.nat.address
    assert len(home.nat) == len(cgnat.nat) == 1
    server.answer()
    world.run_for(SECOND)
    assert laptop.received[0].data == b"welcome"
    assert not lan.has_ipv6


def test_hairpin_joins_two_inside_hosts_at_the_outside_address_or_not() -> None:
    for hairpin in (True, False):
        world = World()
        internet = Internet(world)
        lan, router = internet.add_lan("home", replace(FULL_CONE, hairpin=hairpin))
        server, a, b = Socket(internet, "server"), Socket(lan, "a"), Socket(lan, "b")
        b.send(server.endpoint())
        world.run_for(SECOND)
        outside = server.received[0].source
        a.send(outside)
        world.run_for(SECOND)
        assert [p.source.host for p in b.received] == ([router.nat.address] if hairpin else [])


def test_a_router_that_moves_or_forgets_cuts_what_it_carried() -> None:
    for fault in ("flush", "change_address"):
        world = World()
        internet = Internet(world)
        lan, router = internet.add_lan("home", FULL_CONE)
        server, laptop = Socket(internet, "server"), Socket(lan, "laptop")
        laptop.send(server.endpoint())
        world.run_for(SECOND)
        getattr(router, fault)()
        server.answer()
        world.run_for(SECOND)
        assert laptop.received == []
        laptop.send(server.endpoint())
        world.run_for(SECOND)
        server.answer()
        world.run_for(SECOND)
        assert len(laptop.received) == 1


def test_an_unplugged_or_renumbered_host_is_not_found_at_its_old_address() -> None:
    world, internet, server, laptop = world_with_lan()
    old = server.endpoint()
    internet.renumber(server.plug)
    laptop.send(old)
    laptop.send(server.endpoint())
    world.run_for(SECOND)
    assert len(server.received) == 1
    server.plug.connected = False
    laptop.send(server.endpoint())
    world.run_for(SECOND)
    assert len(server.received) == 1


def test_an_ipv6_packet_for_a_host_that_left_does_not_go_round_in_circles() -> None:
    world, _, server, laptop = world_with_lan()
    laptop.send(server.endpoint(6))
    world.run_for(SECOND)
    laptop.plug.network.unplug(laptop.plug)
    server.answer()
    world.run_for(SECOND)
    assert world.steps < 20


def test_only_ones_own_interface_says_that_a_packet_is_too_big() -> None:
    world = World()
    internet = Internet(world)
    teller = Socket(internet, "teller", up=Link(mtu=600, tells_too_big=True))
    hider = Socket(internet, "hider", up=Link(mtu=600))
    target = Socket(internet, "target")
    assert not teller.send(target.endpoint(), bytes(600))
    assert hider.send(target.endpoint(), bytes(600))
    assert teller.send(target.endpoint(), bytes(500))
    world.run_for(SECOND)
    assert len(target.received) == 1
