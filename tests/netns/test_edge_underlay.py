"""Our own datagrams on a real wire: they keep out of the tunnel, are never cut, and wait no longer than they should."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from meshnode.dataplane.api import Batch
from meshnode.edge.netlink import Interface
from meshnode.edge.tun import Tun
from meshnode.edge.udp import SendResult, UdpSocket
from meshnode.edge.underlay import MARK, TABLE, Underlay
from meshnode.values import Endpoint, Path, PathKind, PeerId
from tests.netns.space import Space, spaces

pytestmark = pytest.mark.netns

MTU = 1380
PEER = PeerId(bytes(16))
FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
NEAR_THERE = {socket.AF_INET: "192.0.2.2", socket.AF_INET6: "2001:db8::2"}
FAR_AWAY = {socket.AF_INET: "203.0.113.9", socket.AF_INET6: "2001:db8:9::9"}


@pytest.fixture
def wired(require: Callable[..., None]) -> Iterator[tuple[Space, Space]]:
    """Two namespaces with a cable between them; the first has its default routes into it."""
    require("tc")
    with spaces(2, "wire") as (near, far):
        near.ip(f"link add wan0 type veth peer name wan0 netns {far.name}")
        for number, each in enumerate((near, far), 1):
            each.ip(f"addr add 192.0.2.{number}/24 dev wan0")
            each.ip(f"addr add 2001:db8::{number}/64 dev wan0 nodad")
            each.ip("link set wan0 up")
        near.ip("route add default via 192.0.2.2")
        near.ip("-6 route add default via 2001:db8::2")
        far.ip("addr add 203.0.113.9/32 dev lo")
        far.ip("addr add 2001:db8:9::9/128 dev lo nodad")
        yield near, far


@pytest.fixture
def node(wired: tuple[Space, Space]) -> Iterator[tuple[Space, Space, Tun]]:
    """A node in the first namespace, without protection yet."""
    near, far = wired
    with near.entered():
        tun = opened("mesh-t")
        yield near, far, tun
    tun.close()


def opened(name: str) -> Tun:
    tun = Tun.open(name, MTU)
    addresses = [ip_address(text).packed for text in ("10.77.0.1", "fd77::1")]
    assert Interface(name, tun.index).configure(MTU, addresses, ip_address("fe80::7").packed) == []
    return tun


def lead_into_the_mesh(space: Space) -> None:
    """Default routes and longer ones, in the main table and in another that comes first."""
    for version, network in (("-4", "203.0.113.0/24"), ("-6", "2001:db8:9::/64")):
        space.ip(f"{version} route add default dev mesh-t metric 1")
        space.ip(f"{version} route add {network} dev mesh-t")
        space.ip(f"{version} route add default dev mesh-t table 100")
        space.ip(f"{version} rule add pref 100 lookup 100")


def sockets(wired: tuple[Space, Space], family: socket.AddressFamily) -> tuple[UdpSocket, UdpSocket]:
    """One at each end of the wire; the first has the mark."""
    near, far = wired
    with near.entered():
        here = UdpSocket(family, 0, mark=MARK)
    with far.entered():
        there = UdpSocket(family, 4655)
    return here, there


def received(target: UdpSocket, datagrams: int) -> list[bytes]:
    """The datagrams that arrive until there are so many."""
    got: list[bytes] = []
    while len(got) < datagrams:
        assert select.select([target], [], [], 5)[0], "nothing arrives"
        for one in target.receive_batch():
            step = one.segment_size or len(one.data)
            got += [bytes(one.data[at : at + step]) for at in range(0, len(one.data), step)]
    return got


def tunnelled(tun: Tun) -> bytes:
    """All that the kernel sent into the tunnel."""
    return b"".join(bytes(one.data) for one in tun.read_batch() if not isinstance(one.data, list))


# --- keeping out of the tunnel --------------------------------------------------------------------------------------


@FAMILIES
def test_our_datagrams_never_enter_the_tunnel(
    node: tuple[Space, Space, Tun], family: socket.AddressFamily
) -> None:
    near, far, tun = node
    guard = Underlay(tun.index)
    guard.protect()
    lead_into_the_mesh(near)
    ours, peer = sockets((near, far), family)
    others = UdpSocket(family, 0)
    assert ours.marked
    assert not others.marked
    path = Path(PathKind.UDP, Endpoint(FAR_AWAY[family], 4655))
    assert ours.send_one(path, b"sealed") == SendResult(1)
    assert received(peer, 1) == [b"sealed"]
    assert b"sealed" not in tunnelled(tun)
    others.send_one(path, b"a program's")
    assert b"a program's" in tunnelled(tun)
    for each in (ours, others, peer):
        each.close()


@FAMILIES
def test_without_a_way_outside_our_datagrams_stop(
    node: tuple[Space, Space, Tun], family: socket.AddressFamily
) -> None:
    near, far, tun = node
    for version in ("-4", "-6"):
        near.ip(f"{version} route del default")
    lead_into_the_mesh(near)
    Underlay(tun.index).protect()
    ours, peer = sockets((near, far), family)
    path = Path(PathKind.UDP, Endpoint(FAR_AWAY[family], 4655))
    assert ours.send_one(path, b"sealed") == SendResult(1, "unreachable")
    assert ours.send_one(Path(PathKind.UDP, Endpoint(NEAR_THERE[family], 4655)), b"next door") == SendResult(
        1
    )
    assert received(peer, 1) == [b"next door"]
    assert b"sealed" not in tunnelled(tun)
    for each in (ours, peer):
        each.close()


def test_the_table_follows_the_machine(node: tuple[Space, Space, Tun]) -> None:
    near, _, tun = node
    guard = Underlay(tun.index)
    guard.protect()
    near.ip("route replace default via 192.0.2.77")
    near.ip("route add 198.51.100.0/24 nexthop dev mesh-t nexthop via 192.0.2.8 dev wan0")
    near.ip("route add 198.51.101.0/24 via inet6 2001:db8::8")
    near.ip("-6 route add 2001:db8:a::/48 from 2001:db8::/64 via 2001:db8::9")
    guard.synchronize()
    for destination, gateway in (
        ("198.18.0.1", "via 192.0.2.77 dev wan0"),
        ("198.51.100.1", "via 192.0.2.8 dev wan0"),
        ("198.51.101.1", "via inet6 2001:db8::8 dev wan0"),
        ("2001:db8:a::1 from 2001:db8::1", "via 2001:db8::9 dev wan0"),
    ):
        assert gateway in near.ip(f"route get {destination} mark {MARK}")
    before = near.ip(f"route show table {TABLE}")
    near.ip("route del default via 192.0.2.77")
    guard.synchronize()
    assert near.ip(f"route show table {TABLE}") == before.replace(
        "default via 192.0.2.77 dev wan0 proto 77 \n", ""
    )


def test_rules_are_made_once_and_leave_nothing(node: tuple[Space, Space, Tun]) -> None:
    near, _, tun = node
    before = everything(near)
    for _ in range(2):
        Underlay(tun.index).protect()  # the second finds what a killed node left
    assert [near.ip(f"{version} rule").count("0x4d000000") for version in ("-4", "-6")] == [2, 2]
    assert f"lookup {TABLE}" in near.ip("rule").splitlines()[1]
    for _ in range(2):
        Underlay(tun.index).close()
    assert everything(near) == before


def test_the_last_of_two_nodes_takes_the_rules_away(node: tuple[Space, Space, Tun]) -> None:
    near, _, tun = node
    other = opened("mesh-u")
    Underlay(tun.index).protect()
    Underlay(other.index).protect()
    assert "mesh-" not in near.ip(f"route show table {TABLE}") + near.ip(f"-6 route show table {TABLE}")
    Underlay(other.index).close()
    other.close()
    assert "0x4d000000" in near.ip("rule")
    Underlay(tun.index).close()
    assert "0x4d000000" not in near.ip("rule")


def test_a_machine_with_a_large_table_is_copied_in_part(
    node: tuple[Space, Space, Tun], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, _, tun = node
    monkeypatch.setattr("meshnode.edge.underlay.MAX_ROUTES", 3)
    for number in range(3):
        near.ip(f"route add 198.51.{number}.0/24 via 192.0.2.2")
    Underlay(tun.index).protect()
    copied = [line.split()[0] for line in near.ip(f"route show table {TABLE}").splitlines()]
    assert copied == ["default", "192.0.2.0/24"]


def everything(space: Space) -> str:
    """Rules and routes of all tables."""
    tables = [f"{version} {what}" for version in ("-4", "-6") for what in ("rule", "route show table all")]
    return "".join(map(space.ip, tables))


# --- on the wire ----------------------------------------------------------------------------------------------------


@FAMILIES
def test_headers_on_the_wire(wired: tuple[Space, Space], family: socket.AddressFamily) -> None:
    """ECN and DSCP bits, the flow label, and the Don't Fragment bit."""
    here, there = sockets(wired, family)
    with wired[1].entered():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        tap.bind(("wan0", 0))
        tap.settimeout(5)
    path = Path(PathKind.UDP, Endpoint(NEAR_THERE[family], 4655))
    assert here.send(Batch(PEER, path, b"x" * 100, 100, 0xB9, 0xABCDE)) == SendResult(1)
    while True:
        packet = tap.recv(2000)
        if packet.endswith(b"x" * 100):
            break
    if family == socket.AF_INET:
        assert packet[1] == 0xB9
        assert packet[6] & 0x40
    else:
        assert struct.unpack_from("!I", packet)[0] == 6 << 28 | 0xB9 << 20 | 0xABCDE
    for each in (here, there, tap):
        each.close()


@FAMILIES
def test_too_big_for_the_wire_is_counted_and_the_offload_stays(
    wired: tuple[Space, Space], family: socket.AddressFamily
) -> None:
    here, there = sockets(wired, family)
    wired[0].ip("link set wan0 mtu 1400")
    path = Path(PathKind.UDP, Endpoint(NEAR_THERE[family], 4655))
    assert here.send(Batch(PEER, path, bytes(1450 * 4), 1450, 0, 0)) == SendResult(4, "too_big")
    assert here.send_one(path, bytes(1450)) == SendResult(1, "too_big")
    assert all(here.offloads.values())
    assert here.counters == {"udp_send_too_big": 5}
    assert here.send(Batch(PEER, path, bytes(1300 * 4), 1300, 0, 0)) == SendResult(4)
    assert len(received(there, 4)) == 4
    for each in (here, there):
        each.close()


@FAMILIES
@pytest.mark.parametrize("offload", [True, False])
def test_a_slow_wire_is_back_pressure(
    wired: tuple[Space, Space], family: socket.AddressFamily, offload: bool
) -> None:
    here, there = sockets(wired, family)
    here.set_offload(offload)
    near = wired[0]
    near.run("tc qdisc add dev wan0 root tbf rate 20mbit burst 16k latency 1000ms")
    here.set_send_buffer(9000)
    path = Path(PathKind.UDP, Endpoint(NEAR_THERE[family], 4655))
    data = b"".join(bytes([number]) * 1300 for number in range(40))
    batches = [
        Batch(PEER, path, data[at : at + 10 * 1300], 1300, 0, 0) for at in range(0, len(data), 10 * 1300)
    ]
    blocked = 0
    for batch in batches:
        done = 0
        while (result := here.send(batch, done)).done < 10:
            assert result.error is None
            blocked += 1
            assert here.unsent() > 0
            assert select.select([], [here], [], 5)[1]
            done = result.done
    assert blocked
    assert b"".join(received(there, 40)) == data
    assert not here.counters
    for each in (here, there):
        each.close()


def test_a_device_without_checksums_costs_the_offload_and_no_datagram(wired: tuple[Space, Space]) -> None:
    near, _ = wired
    with near.entered():
        plain = Tun.open("plain0", MTU, offload=False)
        near.ip("link set plain0 up")
        near.ip("route add 198.51.100.0/24 dev plain0")
        here = UdpSocket(socket.AF_INET, 0)
    path = Path(PathKind.UDP, Endpoint("198.51.100.1", 4655))
    assert here.send(Batch(PEER, path, b"a" * 1000 + b"b" * 1000 + b"c", 1000, 0, 0)) == SendResult(3)
    sent = [bytes(one.data)[28:] for one in plain.read_batch() if not isinstance(one.data, list)]
    assert [payload for payload in sent if payload[:1] in b"abc"] == [b"a" * 1000, b"b" * 1000, b"c"]
    assert not here.counters
    here.close()
    plain.close()
