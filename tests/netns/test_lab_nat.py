"""Each kind of NAT against real UDP sockets: what it maps to what, whom it lets in, when it forgets.

That a datagram does *not* arrive is shown without waiting: one that must arrive is sent after it, the same way.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from meshnode.lab import Lab, Nat, lan
from meshnode.lab.node import Core, Host, Node, Router
from meshnode.lab.ping import reaches

pytestmark = pytest.mark.netns

PORT = 5000
FILTERING = [Nat.CONE, Nat.SYMMETRIC]
Address = tuple[str, int]


@pytest.fixture
def bind() -> Iterator[Callable[..., socket.socket]]:
    """bind(node, port): a UDP socket in the node, closed at the end of the test."""
    with ExitStack() as stack:

        def make(
            node: Node, port: int = PORT, family: socket.AddressFamily = socket.AF_INET
        ) -> socket.socket:
            made = stack.enter_context(node.socket(family))
            made.settimeout(10)
            made.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
            return made

        yield make


@dataclass
class World:
    """One host behind a NAT, and strangers with public addresses."""

    core: Core
    router: Router
    inside: Host
    strangers: list[Host] = field(default_factory=list)


def build(lab: Lab, nat: Nat, strangers: int = 2) -> World:
    core = lab.core()
    router = core.router("router", nat=nat)
    return World(core, router, router.host("inside"), [core.host(f"stranger{i}") for i in range(strangers)])


def at(node: Node, port: int = PORT) -> Address:
    return str(node.address4), port


def mapping(inside: socket.socket, stranger: socket.socket, where: Address) -> Address:
    """The source that a stranger sees when we send to it."""
    inside.sendto(b"who am I", where)
    data, source = stranger.recvfrom(100)
    assert data == b"who am I"
    return source[0], source[1]


def received_before(sock: socket.socket, marker: bytes) -> list[bytes]:
    """What arrives before the marker."""
    seen = []
    while (data := sock.recv(100)) != marker:
        seen.append(data)
    return seen


@pytest.mark.parametrize("nat", [Nat.CONE, Nat.FULL_CONE])
def test_a_cone_has_one_mapping_for_all_destinations_and_keeps_the_port(
    lab: Lab, bind: Callable[..., socket.socket], nat: Nat
) -> None:
    world = build(lab, nat)
    inside = bind(world.inside)
    seen = {mapping(inside, bind(each), at(each)) for each in world.strangers}
    assert seen == {at(world.router)}


def test_a_symmetric_nat_has_a_mapping_for_each_destination(
    lab: Lab, bind: Callable[..., socket.socket]
) -> None:
    world = build(lab, Nat.SYMMETRIC, strangers=4)
    inside = bind(world.inside)
    seen = [mapping(inside, bind(each), at(each)) for each in world.strangers]
    assert {address for address, _ in seen} == {str(world.router.address4)}
    assert len({port for _, port in seen}) > 1  # by chance all alike: once in 10^13


@pytest.mark.parametrize("nat", FILTERING)
def test_the_filter_lets_in_only_the_address_and_port_that_we_sent_to(
    lab: Lab, bind: Callable[..., socket.socket], nat: Nat
) -> None:
    world = build(lab, nat)
    friend, other = world.strangers
    inside, known, unknown = bind(world.inside), bind(friend), bind(other)
    outside = mapping(inside, known, at(friend))
    unknown.sendto(b"another address", outside)
    bind(friend, PORT + 1).sendto(b"another port", outside)
    known.sendto(b"the answer", outside)
    assert received_before(inside, b"the answer") == []


def test_a_full_cone_lets_everybody_in(lab: Lab, bind: Callable[..., socket.socket]) -> None:
    world = build(lab, Nat.FULL_CONE)
    friend, other = world.strangers
    inside, known, unknown = bind(world.inside), bind(friend), bind(other)
    outside = mapping(inside, known, at(friend))
    unknown.sendto(b"another address", outside)
    assert inside.recv(100) == b"another address"


@pytest.mark.parametrize("nat", [Nat.NONE, Nat.FULL_CONE])
def test_without_a_filter_a_stranger_may_come_first(
    lab: Lab, bind: Callable[..., socket.socket], nat: Nat
) -> None:
    world = build(lab, nat)
    inside, stranger = bind(world.inside), bind(world.strangers[0])
    stranger.sendto(b"hello", at(world.router if nat.translates else world.inside))
    data, source = inside.recvfrom(100)
    assert (data, source) == (b"hello", at(world.strangers[0]))
    inside.sendto(b"welcome", source)
    assert stranger.recv(100) == b"welcome"


def test_a_firewall_keeps_strangers_out_and_translates_nothing(
    lab: Lab, bind: Callable[..., socket.socket]
) -> None:
    world = build(lab, Nat.FIREWALL)
    inside, stranger = bind(world.inside), bind(world.strangers[0])
    stranger.sendto(b"uninvited", at(world.inside))
    assert mapping(inside, stranger, at(world.strangers[0])) == at(world.inside)
    stranger.sendto(b"the answer", at(world.inside))
    assert received_before(inside, b"the answer") == []


@pytest.mark.parametrize("nat", FILTERING)
def test_ipv6_is_filtered_and_not_translated(lab: Lab, bind: Callable[..., socket.socket], nat: Nat) -> None:
    world = build(lab, nat)
    host = world.strangers[0]
    inside, stranger = (bind(each, family=socket.AF_INET6) for each in (world.inside, host))
    stranger.sendto(b"uninvited", (str(world.inside.address6), PORT))
    source = mapping(inside, stranger, (str(host.address6), PORT))
    assert source == (str(world.inside.address6), PORT)
    stranger.sendto(b"the answer", source)
    assert received_before(inside, b"the answer") == []


def test_a_packet_that_comes_too_early_does_not_cost_the_mapping_its_port(
    lab: Lab, bind: Callable[..., socket.socket]
) -> None:
    world = build(lab, Nat.CONE)
    inside, stranger = bind(world.inside), bind(world.strangers[0])
    stranger.sendto(b"too early", at(world.router))
    assert mapping(inside, stranger, at(world.strangers[0])) == at(world.router)


def test_two_cones_can_be_punched(lab: Lab, bind: Callable[..., socket.socket]) -> None:
    core = lab.core()
    routers = [core.router(name, nat=Nat.CONE) for name in ("left", "right")]
    left, right = (bind(router.host(f"behind-{router.label}")) for router in routers)
    left.sendto(b"punch", at(routers[1]))  # dropped: the right side has not sent yet
    right.sendto(b"punch", at(routers[0]))
    assert left.recv(100) == b"punch"
    left.sendto(b"through", at(routers[1]))
    assert received_before(right, b"through") == []


def test_a_symmetric_nat_and_a_cone_cannot_be_punched(lab: Lab, bind: Callable[..., socket.socket]) -> None:
    core = lab.core()
    routers = [core.router("left", nat=Nat.CONE), core.router("right", nat=Nat.SYMMETRIC)]
    meeting = core.host("meeting-point")
    point = bind(meeting)
    left, right = (bind(router.host(f"behind-{router.label}")) for router in routers)
    addresses = [mapping(each, point, at(meeting)) for each in (left, right)]
    for _ in range(2):
        left.sendto(b"punch", addresses[1])
        right.sendto(b"punch", addresses[0])
    for sock, address in zip((left, right), addresses, strict=True):
        point.sendto(b"the end", address)
        assert received_before(sock, b"the end") == []


def test_two_nats_in_a_row_filter_like_one(lab: Lab, bind: Callable[..., socket.socket]) -> None:
    core = lab.core()
    carrier = core.router("carrier", nat=Nat.CONE)
    home = carrier.router("home", nat=Nat.CONE)
    host, friend, other = home.host("host"), core.host("friend"), core.host("other")
    inside, known, unknown = bind(host), bind(friend), bind(other)
    outside = mapping(inside, known, at(friend))
    assert outside == at(carrier)
    unknown.sendto(b"uninvited", outside)
    known.sendto(b"the answer", outside)
    assert received_before(inside, b"the answer") == []
    assert reaches(host, friend.address6)


def test_a_nat_that_forgot_lets_nobody_in_until_we_send_again(
    lab: Lab, bind: Callable[..., socket.socket]
) -> None:
    world = build(lab, Nat.CONE)
    friend = world.strangers[0]
    inside, known = bind(world.inside), bind(friend)
    outside = mapping(inside, known, at(friend))
    world.router.forget()
    known.sendto(b"forgotten", outside)
    again = mapping(inside, known, at(friend))
    known.sendto(b"the answer", again)
    assert received_before(inside, b"the answer") == []


def test_a_symmetric_nat_that_forgot_maps_anew(lab: Lab, bind: Callable[..., socket.socket]) -> None:
    world = build(lab, Nat.SYMMETRIC)
    friend = world.strangers[0]
    inside, known = bind(world.inside), bind(friend)
    seen = set()
    for _ in range(4):
        seen.add(mapping(inside, known, at(friend)))
        world.router.forget()
    assert len(seen) > 1


def test_an_idle_mapping_can_be_made_to_expire(lab: Lab, bind: Callable[..., socket.socket]) -> None:
    world = build(lab, Nat.CONE)
    friend = world.strangers[0]
    inside, known = bind(world.inside), bind(friend)
    world.router.set_udp_timeout(3)
    mapping(inside, known, at(friend))
    flows = world.router.run(["conntrack", "-L", "-p", "udp"]).stdout.split()
    assert 0 <= int(flows[2]) <= 3  # protocol, its number, seconds left


def test_the_kind_of_nat_can_change(lab: Lab, bind: Callable[..., socket.socket]) -> None:
    world = build(lab, Nat.CONE)
    world.router.set_nat(Nat.FULL_CONE)
    inside, stranger = bind(world.inside), bind(world.strangers[0])
    stranger.sendto(b"hello", at(world.router))
    assert inside.recv(100) == b"hello"


def test_blocked_udp_takes_only_udp_away(lab: Lab, bind: Callable[..., socket.socket]) -> None:
    world = build(lab, Nat.CONE)
    friend = world.strangers[0]
    inside, known = bind(world.inside), bind(friend)
    for _ in range(2):
        world.router.block_udp()
        inside.sendto(b"blocked", at(friend))
        assert reaches(world.inside, friend.address4)
        world.router.unblock_udp()
        world.router.unblock_udp()  # harmless
        inside.sendto(b"free", at(friend))
        assert received_before(known, b"free") == []


def test_a_host_can_block_its_own_udp(lab: Lab, bind: Callable[..., socket.socket]) -> None:
    a, b = lan(lab, "ab")
    one, other = bind(a), bind(b)
    b.block_udp()
    one.sendto(b"blocked", at(b))
    b.unblock_udp()
    one.sendto(b"free", at(b))
    assert received_before(other, b"free") == []
