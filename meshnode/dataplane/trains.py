"""What waits to be sealed: a packet, or a train: a TCP or UDP superpacket that leaves as one datagram per
segment.

The kernel gives us up to 64 KB of one flow at a time, and everything that is done once per train instead of
once per packet is won. So a train is never cut up before it is sealed: it is one header, the *template*, and
a view of its payload. Pieces of a train (`first` to `last`) share both, whatever the queue makes of them.
"""

from __future__ import annotations

from meshnode.dataplane.vnet import (
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    NEEDS_CSUM,
    PLAIN,
    UDP_CHECKSUM_OFFSET,
    VnetHeader,
    checksum_place,
    parse_vnet_untrusted,
)
from meshnode.queueing.flow_hash import flow_key
from meshnode.values import BadPacket, Ecn
from meshnode.wire.ip import TCP, Packet, apply_ecn, check_packet_untrusted, checksum

_GSO_PROTOCOL = {GSO_TCPV4: (4, TCP), GSO_TCPV6: (6, TCP)}


NO_PAYLOAD = memoryview(b"")


class Train:
    """One element of the queue before the seal.

    A plain packet is `packet` itself, and `segment_size` is 0. Of a superpacket `packet` is the header (IP
    and TCP or UDP), `payload` what follows, and this train is its segments `first` to `last` (exclusive) of
    `segment_size` bytes, the superpacket's very last may be shorter. `partial`: the L4 checksum is the
    pseudo-header's sum only. `tos`: the IP header's DSCP and ECN bits.
    """

    __slots__ = ("first", "flow", "last", "packet", "partial", "payload", "segment_size", "tos")

    def __init__(
        self,
        packet: Packet,
        flow: bytes,
        tos: int,
        partial: bool,
        payload: memoryview = NO_PAYLOAD,
        segment_size: int = 0,
        first: int = 0,
        last: int = 1,
    ) -> None:
        self.packet = packet
        self.flow = flow
        self.tos = tos
        self.partial = partial
        self.payload = payload
        self.segment_size = segment_size
        self.first = first
        self.last = last

    def copy(self) -> Train:
        """The same for another peer's queue: whatever marks one leaves the other alone."""
        return Train(
            self.packet,
            self.flow,
            self.tos,
            self.partial,
            self.payload,
            self.segment_size,
            self.first,
            self.last,
        )

    def travels_with(self, other: Train) -> bool:
        """Whether `other`, a packet that is short enough, may share the datagram: one DSCP and ECN value for
        both."""
        return other.tos == self.tos and not other.segment_size

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
        return True


def read_train_untrusted(header: bytes, packet: Packet) -> Train:
    """What one TUN read gave. The packet's length is right and its flow is known, or it is no packet:
    BadPacket."""
    version = check_packet_untrusted(packet)
    flow = flow_key(packet)
    if flow is None:
        raise BadPacket("no flow")
    tos = packet[1] if version == 4 else (packet[0] << 4 | packet[1] >> 4) & 0xFF
    if not header or header == PLAIN:
        return Train(packet, flow, tos, False)
    vnet = parse_vnet_untrusted(header)
    if vnet.gso_type & ~GSO_ECN == GSO_NONE:
        if not vnet.flags & NEEDS_CSUM:
            return Train(packet, flow, tos, False)
        if checksum_place(packet) == (vnet.csum_start, vnet.csum_offset):
            return Train(packet, flow, tos, True)
        return Train(finish_any_checksum(packet, vnet), flow, tos, False)
    raise BadPacket("vnet gso type")


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
