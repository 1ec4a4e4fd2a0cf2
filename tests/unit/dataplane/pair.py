"""Two data planes with a session between them, in one process: what one sends, the other gets, if the test
wants."""

from __future__ import annotations

from collections.abc import Iterable

from meshnode.crypto import suites
from meshnode.dataplane.api import Batch, TunPacket
from meshnode.dataplane.config import PlaneConfig
from meshnode.dataplane.plane import Plane
from meshnode.dataplane.session import AeadFactory
from meshnode.values import (
    MILLISECOND,
    SECOND,
    AdmitPeer,
    Capability,
    Datagram,
    Endpoint,
    InstallSession,
    Nanos,
    Now,
    Path,
    PathKind,
    PeerId,
    Prefix,
    ProvePaths,
    SessionKeys,
    Suite,
    UsePath,
    UseSession,
)
from tests.sim.entropy import SeededEntropy

ALL = (
    Capability.ECN | Capability.PARTIAL_CHECKSUM | Capability.SEGMENT | Capability.FRAGMENT | Capability.RELAY
)
START = Now(1000 * SECOND, 1_700_000_000 * SECOND)


def address(number: int, version: int = 4) -> bytes:
    """The inner address of node `number`."""
    return bytes((10, 77, 0, number)) if version == 4 else bytes((0xFD, 1)) + bytes(13) + bytes((number,))


def link_local(number: int) -> bytes:
    return b"\xfe\x80" + bytes(13) + bytes((number,))


def peer_id(number: int) -> PeerId:
    return PeerId(bytes((number,)) * 16)


def udp_path(number: int) -> Path:
    """The path to node `number`, over IPv4 below 100 and IPv6 from there on."""
    host = f"192.0.2.{number}" if number < 100 else f"2001:db8::{number}"
    return Path(PathKind.UDP, Endpoint(host, 4655))


def keys(local: int, remote: int, initiator: bool, capabilities: Capability = ALL) -> SessionKeys:
    """One end of the session between the indices `local` and `remote`."""
    first, second = b"\x01" * 32, b"\x02" * 32
    send, receive = (first, second) if initiator else (second, first)
    return SessionKeys(local, remote, Suite.AES_256_GCM, send, receive, initiator, capabilities)


class Mill:
    """One plane with its clock, and what came out of it."""

    def __init__(
        self, number: int, config: PlaneConfig | None = None, aead: AeadFactory = suites.aead
    ) -> None:
        self.number = number
        self.id = peer_id(number)
        self.now = START
        config = config or PlaneConfig((address(number), address(number, 6)), link_local(number))
        self.plane = Plane(config, SeededEntropy(number, "plane"), self.now, aead)

    def advance(self, time: Nanos) -> None:
        self.now = Now(self.now.boot + time, self.now.wall + time)

    def admit(self, number: int, router: bool = False, prefixes: tuple[Prefix, ...] = ()) -> None:
        addresses = (address(number), address(number, 6))
        command = AdmitPeer(peer_id(number), link_local(number), addresses, prefixes, router)
        self.plane.apply(command, self.now)

    def connect(self, number: int, session: SessionKeys, mtu: int = 1500, ecn: bool = True) -> None:
        peer, path = peer_id(number), udp_path(number)
        self.plane.apply(InstallSession(peer, session), self.now)
        self.plane.apply(UseSession(peer, session.local_index), self.now)
        self.plane.apply(UsePath(peer, path, mtu, ecn), self.now)
        self.plane.apply(ProvePaths(peer, (path,)), self.now)

    def push(self, *packets: bytes, header: bytes = b"") -> None:
        self.plane.push_packets([TunPacket(header, packet) for packet in packets], self.now)

    def run(self, budget: Nanos = 1000 * MILLISECOND) -> bool:
        return self.plane.work(self.now, budget)

    def batches(self) -> list[Batch]:
        self.run()
        return self.plane.take_datagrams()

    def receive(self, batches: Iterable[Batch], sender: int, ecn: int | None = None) -> None:
        """Datagrams as the sockets give them, one by one, with the outer ECN bits they were sent with."""
        path = udp_path(sender)
        for batch in batches:
            bits = batch.dscp_ecn & 3 if ecn is None else ecn
            for data in batch.datagrams():
                self.plane.push_datagrams([Datagram(bytes(data), path, self.now.boot, bits)], self.now)

    def receive_merged(self, batches: Iterable[Batch], sender: int) -> None:
        """The same as UDP_GRO gives them: a batch is one read."""
        for batch in batches:
            size = batch.segment_size if len(batch.data) > batch.segment_size else 0
            one = Datagram(bytes(batch.data), udp_path(sender), self.now.boot, batch.dscp_ecn & 3, size)
            self.plane.push_datagrams([one], self.now)

    def packets(self) -> list[bytes]:
        """What goes to the TUN, without headers."""
        return [join(packet) for packet in self.tun()]

    def tun(self) -> list[TunPacket]:
        self.run()
        return self.plane.take_packets()


def join(packet: TunPacket) -> bytes:
    """The packet's bytes in one piece."""
    return b"".join(packet.data) if isinstance(packet.data, list) else bytes(packet.data)


def pair(
    config_a: PlaneConfig | None = None,
    config_b: PlaneConfig | None = None,
    capabilities: Capability = ALL,
    mtu: int = 1500,
    ecn: bool = True,
) -> tuple[Mill, Mill]:
    """Nodes 1 and 2, plain members of each other."""
    a, b = Mill(1, config_a), Mill(2, config_b)
    a.admit(2)
    b.admit(1)
    a.connect(2, keys(11, 22, True, capabilities), mtu, ecn)
    b.connect(1, keys(22, 11, False, capabilities), mtu, ecn)
    return a, b
