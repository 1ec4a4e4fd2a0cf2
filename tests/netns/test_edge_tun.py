"""The TUN device in a real kernel: superpackets and plain packets, refusals, and that nothing is left behind."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshnode.dataplane.api import TunPacket
from meshnode.edge import tun as tun_module
from meshnode.edge.errors import EdgeError
from meshnode.edge.netlink import Interface, Route
from meshnode.edge.tun import PLAIN_HEADER, OffloadRefused, Tun
from tests.netns.space import Space, spaces

pytestmark = pytest.mark.netns

MTU = 1380
LINK_LOCAL = [bytes.fromhex(f"fe80{0:024x}{number:04x}") for number in (1, 2)]
IPV4 = [bytes([10, 77, 0, number]) for number in (1, 2)]
IPV6 = [bytes.fromhex(f"fd77{0:024x}{number:04x}") for number in (1, 2)]


@pytest.fixture
def space(require: Callable[..., None]) -> Iterator[Space]:
    require()
    with spaces(1, "tun") as (only,):
        yield only


@pytest.fixture
def two(require: Callable[..., None]) -> Iterator[list[Space]]:
    require()
    with spaces(2, "tun") as made:
        yield made


def opened(space: Space, number: int, offload: bool) -> Tun:
    """A TUN in `space` with the addresses of node `number`, and routes to the other node."""
    with space.entered():
        tun = Tun.open("mesh-t", MTU, offload=offload)
        interface = Interface(tun.name, tun.index)
        assert interface.configure(MTU, [IPV4[number], IPV6[number]], LINK_LOCAL[number]) == []
        assert interface.add_member_routes([IPV4[1 - number], IPV6[1 - number]]) == []
    return tun


def content(packet: TunPacket) -> bytes:
    """The IP packet in one piece."""
    return b"".join(packet.data) if isinstance(packet.data, list) else bytes(packet.data)


def user_packets(tun: Tun, port: int) -> list[TunPacket]:
    """What waits in the ring and is UDP to `port` (the kernel sends neighbour discovery of its own)."""
    return [one for one in tun.read_batch() if content(one)[22:24] == port.to_bytes(2, "big")]


def test_an_interface_lives_as_long_as_its_object(space: Space) -> None:
    with space.entered():
        tun = Tun.open("mesh-t", MTU, queue_length=123)
        assert tun.index == socket.if_nametoindex("mesh-t")
        shown = space.ip("link show dev mesh-t")
        assert f"mtu {MTU} " in shown
        assert "qlen 123" in shown
        tun.close()
        tun.close()
        assert "mesh-t" not in space.ip("link show")


def test_the_kernel_grants_its_offloads_and_takes_them_back(space: Space) -> None:
    with space.entered():
        tun = Tun.open("mesh-t", MTU)
        assert tun.offloads["tun_checksum"]
        assert tun.offloads["tun_tso4"]
        assert tun.offloads["tun_uso4"] == tun.offloads["tun_uso6"]
        tun.set_offload(False)
        assert not any(tun.offloads.values())
        tun.set_offload(True)
        assert tun.offloads["tun_tso4"]
        tun.close()
        plain = Tun.open("mesh-t", MTU, offload=False)
        assert not any(plain.offloads.values())
        plain.close()


def test_a_kernel_without_uso_still_gives_tso(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tun_module.fcntl.ioctl  # type: ignore[attr-defined]

    def before_6_2(descriptor: int, request: int, argument: object) -> object:
        if request == 0x4004_54D0 and isinstance(argument, int) and argument & 0x60:
            raise OSError(22, "Invalid argument")
        return real(descriptor, request, argument)

    monkeypatch.setattr("fcntl.ioctl", before_6_2)
    with space.entered():
        tun = Tun.open("mesh-t", MTU)
    assert {name for name, granted in tun.offloads.items() if not granted} == {"tun_uso4", "tun_uso6"}
    tun.close()


@pytest.mark.parametrize("offload", [False, True])
def test_packets_cross_both_ways(two: list[Space], offload: bool) -> None:
    near, far = (opened(space, number, offload) for number, space in enumerate(two))
    with two[0].entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with two[1].entered():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("10.77.0.2", 5000))
        server.settimeout(5)
    client.sendto(b"over the tunnel", ("10.77.0.2", 5000))
    (packet,) = user_packets(near, 5000)
    assert len(packet.header) == (10 if offload else 0)
    whole = content(packet)
    assert whole[:1] == b"\x45"
    assert far.write(packet)
    assert server.recv(100) == b"over the tunnel"
    # In pieces, as a joined train comes from the data plane.
    assert far.write(TunPacket(packet.header, [whole[:20], memoryview(whole)[20:28], whole[28:]]))
    assert server.recv(100) == b"over the tunnel"
    assert [two[0].checksum_errors(), two[1].checksum_errors()] == [0, 0]
    close(client, server, near, far)


def test_a_udp_superpacket_crosses_whole(two: list[Space]) -> None:
    near, far = (opened(space, number, offload=True) for number, space in enumerate(two))
    if not near.offloads["tun_uso4"]:
        pytest.skip("this kernel has no USO on TUN (Linux 6.2)")
    with two[0].entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with two[1].entered():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("10.77.0.2", 5000))
        server.settimeout(5)
    data = os.urandom(1000 * 9 + 7)
    client.sendmsg([data], [(socket.IPPROTO_UDP, 103, struct.pack("@H", 1000))], 0, ("10.77.0.2", 5000))
    (packet,) = user_packets(near, 5000)
    assert len(packet.data) == 28 + len(data)
    assert far.write(packet)
    assert b"".join(server.recv(2000) for _ in range(10)) == data
    assert two[1].checksum_errors() == 0
    close(client, server, near, far)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("offload", ["on", "off", "switched off half-way"])
def test_a_tcp_stream_crosses_unharmed(two: list[Space], family: int, offload: str) -> None:
    tuns = [opened(space, number, offload != "off") for number, space in enumerate(two)]
    host = "10.77.0.2" if family == socket.AF_INET else "fd77::2"
    with two[1].entered():
        listener = socket.create_server((host, 5000), family=socket.AddressFamily(family))
    with two[0].entered():
        client = socket.socket(family, socket.SOCK_STREAM)
    data = os.urandom(1 << 20) * 4
    largest = [0]

    def carry() -> None:
        """Carry what the two kernels have for each other, without a look at it."""
        for source, sink in (tuns, tuns[::-1]):
            for packet in source.read_batch():
                largest[0] = max(largest[0], len(packet.data))
                if not is_multicast(packet):
                    sink.write(packet)

    received = _transfer(
        client, listener, (host, 5000), data, carry, tuns, offload == "switched off half-way"
    )
    assert received == data
    assert [space.checksum_errors() for space in two] == [0, 0]
    assert (largest[0] > MTU) is (offload != "off")
    close(listener, client, *tuns)


def close(*opened: Tun | socket.socket) -> None:
    for each in opened:
        each.close()


def is_multicast(packet: TunPacket) -> bool:
    """What the kernel says to its neighbours when an interface comes up."""
    whole = content(packet)
    return whole[0] >> 4 == 6 and whole[24] == 0xFF


def _transfer(
    client: socket.socket,
    listener: socket.socket,
    address: tuple[str, int],
    data: bytes,
    carry: Callable[[], None],
    tuns: list[Tun],
    switch: bool,
) -> bytes:
    """Send `data` from client to listener with `carry` as the wire between them."""
    client.setblocking(False)
    client.connect_ex(address)
    listener.setblocking(False)
    server: socket.socket | None = None
    received, sent = bytearray(), 0
    while len(received) < len(data):
        waiting: list[Tun | socket.socket] = [*tuns, server or listener]
        readable, _, _ = select.select(waiting, [client] if sent < len(data) else [], [], 10)
        carry()
        if server is None and listener in readable:
            server, _ = listener.accept()
            server.setblocking(False)
        elif server is not None and server in readable:
            received += server.recv(1 << 20)
        try:
            sent += client.send(memoryview(data)[sent : sent + (1 << 18)]) if sent < len(data) else 0
        except (BlockingIOError, BrokenPipeError):
            pass  # full, or not connected yet
        if switch and len(received) > len(data) // 2:
            switch = False
            for tun in tuns:
                tun.set_offload(False)
    assert server is not None
    server.close()
    return bytes(received)


def test_a_bad_virtio_header_asks_for_the_plain_way(space: Space) -> None:
    tun = opened(space, 0, offload=True)
    packet = bytes([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, *IPV4[1], *IPV4[0]]) + bytes(20)
    absurd = struct.pack("<BBHHHH", 1, 5, 0, 16, 0xFF00, 0xFF00)
    with pytest.raises(OffloadRefused):
        tun.write(TunPacket(absurd, packet))
    assert tun.write(TunPacket(PLAIN_HEADER, packet))
    assert tun.write(TunPacket(b"", packet))
    assert not tun.counters
    tun.close()


def test_a_plain_interface_takes_no_superpacket(space: Space) -> None:
    tun = opened(space, 0, offload=False)
    packet = bytes([0x45, 0, 0, 20, 0, 0, 0, 0, 64, 6, 0, 0, *IPV4[1], *IPV4[0]])
    with pytest.raises(OffloadRefused):
        tun.write(TunPacket(struct.pack("<BBHHHH", 1, 0, 0, 0, 20, 16), packet))
    assert tun.write(TunPacket(PLAIN_HEADER, packet))
    tun.close()


def test_what_the_kernel_refuses_is_counted(space: Space) -> None:
    tun = opened(space, 0, offload=True)
    assert not tun.write(TunPacket(b"", b"\x99" + bytes(40)))
    assert tun.counters == {"tun_write_invalid": 1}
    space.ip("link set mesh-t down")
    assert not tun.write(TunPacket(b"", b"\x45" + bytes(40)))
    assert tun.counters["tun_write_down"] == 1
    tun.close()


def test_an_interface_that_is_taken_away_is_one_clear_line(space: Space) -> None:
    tun = opened(space, 0, offload=True)
    space.ip("link del mesh-t")
    with pytest.raises(EdgeError, match="mesh-t was taken away"):
        tun.read_batch()
    with pytest.raises(EdgeError, match="mesh-t was taken away"):
        tun.write(TunPacket(b"", b"\x45" + bytes(40)))
    tun.close()


@pytest.mark.parametrize("kind", ["type bridge", "type veth peer name other", "tuntap"])
def test_a_foreign_interface_of_that_name_is_left_alone(space: Space, kind: str) -> None:
    space.ip("tuntap add mesh-t mode tun" if kind == "tuntap" else f"link add mesh-t {kind}")
    with space.entered(), pytest.raises(EdgeError, match=r"mesh-t exists already.*--interface") as caught:
        Tun.open("mesh-t", MTU)
    assert "\n" not in str(caught.value)
    assert "mesh-t" in space.ip("link show")


@pytest.mark.parametrize("name", ["", "a" * 16, "a/b", "a b", "ä" * 8])
def test_names_that_the_kernel_would_refuse(name: str) -> None:
    with pytest.raises(EdgeError, match="cannot name an interface"):
        Tun.open(name, MTU)


def test_a_bad_mtu_leaves_no_interface(space: Space) -> None:
    with space.entered(), pytest.raises(EdgeError, match="MTU of 99999999"):
        Tun.open("mesh-t", 99_999_999)
    assert "mesh-t" not in space.ip("link show")


NODE = """
import sys, time
from meshnode.edge.netlink import Interface
from meshnode.edge.tun import Tun
from meshnode.edge.underlay import Underlay
tun = Tun.open("mesh-t", 1380)
interface = Interface(tun.name, tun.index)
interface.configure(1380, [bytes([10, 77, 0, 1])], bytes.fromhex("fe80" + 28 * "1"))
interface.add_member_routes([bytes([10, 77, 0, 2])])
Underlay(tun.index).protect()
print("up", flush=True)
sys.stdin.read()
"""


def test_a_killed_node_leaves_no_interface_and_the_next_one_starts(space: Space) -> None:
    root = str(Path(__file__).parents[2])
    command = space.command(sys.executable, "-c", NODE)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as node:
        assert node.stdout is not None
        assert node.stdout.readline() == b"up\n"
        assert "10.77.0.2" in space.ip("route show proto 77")
        node.send_signal(signal.SIGKILL)
    assert "mesh-t" not in space.ip("link show")
    assert space.ip("route show proto 77") == ""
    tun = opened(space, 0, offload=True)
    with space.entered():
        assert Interface(tun.name, tun.index).routes() == [Route((IPV4[1], 32)), Route((IPV6[1], 128))]
    tun.close()
