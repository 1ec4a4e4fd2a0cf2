"""What waits to be sealed: a packet, or a train: a TCP or UDP superpacket that leaves as one datagram per
segment.

The kernel gives us up to 64 KB of one flow at a time, and everything that is done once per train instead of
once per packet is won. So a train is never cut up before it is sealed: it is one header, the *template*, and
a view of its payload. Pieces of a train (`first` to `last`) share both, whatever the queue makes of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshnode.dataplane.api import TunPacket
from meshnode.dataplane.template import Template, l4_header_size_untrusted
from meshnode.dataplane.vnet import (
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    NEEDS_CSUM,
    PLAIN,
    TCP_CHECKSUM_OFFSET,
    UDP_CHECKSUM_OFFSET,
    VnetHeader,
    checksum_place,
    parse_vnet_untrusted,
)
from meshnode.queueing.flow_hash import flow_key
from meshnode.values import BadPacket, Ecn
from meshnode.wire.ip import (
    TCP,
    UDP,
    Packet,
    apply_ecn,
    check_packet_untrusted,
    checksum,
    finish_partial_checksum,
)

NO_PAYLOAD = memoryview(b"")


class Train:
    """One element of the queue before the seal.

    A plain packet is `packet`, and `template` is None. Of a superpacket `packet` is only the header, `template`
    knows how to make segments of it, `payload` is what follows the header, and this element stands for the
    segments `first` to `end` (exclusive). `partial`: the L4 checksum is the pseudo-header's sum. `tos`: the IP
    header's DSCP and ECN bits.
    """

    __slots__ = ("end", "first", "flow", "packet", "partial", "payload", "template", "tos")

    relayed = False
    """Whether this is somebody else's datagram (relaying.py)."""

    def __init__(
        self,
        packet: Packet,
        flow: bytes,
        tos: int,
        partial: bool,
        template: Template | None = None,
        payload: memoryview = NO_PAYLOAD,
        first: int = 0,
        end: int = 1,
    ) -> None:
        self.packet = packet
        self.flow = flow
        self.tos = tos
        self.partial = partial
        self.template = template
        self.payload = payload
        self.first = first
        self.end = end

    @property
    def size(self) -> int:
        """Bytes of all the packets that this stands for."""
        template = self.template
        if template is None:
            return len(self.packet)
        begin, stop = self.first * template.segment_size, self.end * template.segment_size
        return (self.end - self.first) * len(self.packet) + min(stop, template.payload_size) - begin

    def copy(self) -> Train:
        """The same for another peer's queue: whatever marks one leaves the other alone."""
        return self.part(self.first, self.end)

    def part(self, first: int, end: int) -> Train:
        """Only the segments `first` to `end` (exclusive), sharing header and payload."""
        return Train(self.packet, self.flow, self.tos, self.partial, self.template, self.payload, first, end)

    def pieces(self, count: int) -> Iterator[Train]:
        """The train in trains of at most `count` segments."""
        for first in range(self.first, self.end, count):
            yield self.part(first, min(first + count, self.end))

    def packets(self) -> Iterator[Train]:
        """The train as plain packets with complete checksums."""
        template = self.template
        assert template is not None
        for index in range(self.first, self.end):
            start = index * template.segment_size
            packet = template.packet(index, self.payload[start : start + template.segment_size])
            yield Train(packet, self.flow, self.tos, False)

    def mark(self) -> bool:
        """Set CE on an ECN-capable packet (or all of the train: Linux marks a superpacket as one, too)."""
        ecn = self.tos & 3
        if ecn == Ecn.NOT_ECT:
            return False
        if ecn != Ecn.CE:
            marked = bytearray(self.packet)
            apply_ecn(marked, Ecn.CE)
            self.packet = marked
            self.tos |= Ecn.CE
            if self.template is not None:
                self.template = self.template.with_header(bytes(marked))
        return True


def read_train_untrusted(header: bytes, packet: Packet) -> Train:
    """What one TUN read gave. Raises BadPacket for what is no packet, or contradicts its header."""
    version = check_packet_untrusted(packet)
    flow = flow_key(packet) or b""  # a packet with whole addresses has one
    tos = packet[1] if version == 4 else (packet[0] << 4 | packet[1] >> 4) & 0xFF
    if not header or header == PLAIN:
        return Train(packet, flow, tos, False)
    vnet = parse_vnet_untrusted(header)
    if not vnet.flags & NEEDS_CSUM:
        return Train(packet, flow, tos, False)
    if vnet.gso_type != GSO_NONE:
        template = _template_untrusted(packet, vnet)
        if template.payload_size > template.segment_size:
            payload = memoryview(packet)[len(template.header) :]
            return Train(template.header, flow, tos, True, template, payload, 0, template.last + 1)
    if checksum_place(packet) == (vnet.csum_start, vnet.csum_offset):
        return Train(packet, flow, tos, True)
    return Train(finish_any_checksum(packet, vnet), flow, tos, False)


def split_superpacket(packet: TunPacket) -> list[TunPacket]:
    """The packets of a superpacket that a kernel would not take, each with a complete checksum; nothing is lost."""
    whole = packet.data if not isinstance(packet.data, list) else b"".join(packet.data)
    train = read_train_untrusted(packet.header, whole)
    pieces = [train] if train.template is None else train.packets()
    return [TunPacket(PLAIN, _finished(piece)) for piece in pieces]


def _finished(piece: Train) -> Packet:
    if not piece.partial:
        return piece.packet
    finished = bytearray(piece.packet)
    finish_partial_checksum(finished)
    return finished


def _template_untrusted(packet: Packet, vnet: VnetHeader) -> Template:
    """The header of a superpacket. BadPacket where packet and virtio-net header contradict each other."""
    version, l4 = packet[0] >> 4, vnet.csum_start
    kind = vnet.gso_type & ~GSO_ECN
    protocol = UDP if kind == GSO_UDP_L4 else TCP
    offset = UDP_CHECKSUM_OFFSET if protocol == UDP else TCP_CHECKSUM_OFFSET
    if (
        (kind == GSO_TCPV4 and version != 4)
        or (kind == GSO_TCPV6 and version != 6)
        or vnet.csum_offset != offset
    ):
        raise BadPacket("vnet gso type")
    if version == 4:
        fragment = (packet[6] << 8 | packet[7]) & 0x3FFF
        if l4 != (packet[0] & 0x0F) * 4 or packet[9] != protocol or fragment:
            raise BadPacket("vnet gso packet")
    elif l4 < 40 or (l4 == 40 and packet[6] != protocol):
        raise BadPacket("vnet gso packet")
    size = l4 + l4_header_size_untrusted(packet, l4, protocol)
    return Template(bytes(packet[:size]), l4, protocol, vnet.gso_size)


def finish_any_checksum(packet: Packet, vnet: VnetHeader) -> bytearray:
    """A copy of `packet` with the checksum done that its header asks for, whatever protocol it is."""
    start, field = vnet.csum_start, vnet.csum_start + vnet.csum_offset
    if field + 2 > len(packet):
        raise BadPacket("vnet checksum")
    finished = bytearray(packet)
    value = checksum(memoryview(finished)[start:])
    if value == 0 and vnet.csum_offset == UDP_CHECKSUM_OFFSET:
        value = 0xFFFF  # zero would mean "none" (RFC 768), and to all other protocols both are the same
    finished[field : field + 2] = value.to_bytes(2, "big")
    return finished
