"""Superpackets in the making on their way to the TUN: contiguous segments of a train, or of a TCP flow.

Nothing waits for company: whatever has come together when the TUN is written is one superpacket. A superpacket that
the receiving kernel cuts up again gives exactly the packets that went in, so only such packets are joined.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from meshnode.dataplane.api import TunPacket
from meshnode.dataplane.template import MAX_PACKET, Template, set_lengths
from meshnode.dataplane.vnet import Offload, partial_header_untrusted, superpacket_header
from meshnode.wire.frames import FrameType
from meshnode.wire.ip import TCP, finish_partial_checksum

SEGMENT_HEAD = struct.Struct(">IBBHHH")
"""The plaintext of a datagram with one segment: transmit time, frame type, flags, length, index, segment size."""

MAX_JOINED = 64
"""Packets of a flow in one superpacket; a train has what the other side's kernel gave it."""

_NO_SIZE = -1 << 20
"""No payload has this size: nothing follows the last segment."""

_SEGMENT = int(FrameType.SEGMENT)
_ACK, _PSH, _ECE = 0x10, 0x08, 0x40


class SegmentRun:
    """Segments `first` to `next` (exclusive) of one train. `sent` is its header as it came, before RFC 6040."""

    __slots__ = ("_expected", "_head", "first", "next", "pieces", "sent", "size", "template")

    def __init__(self, sent: bytes, template: Template, index: int, payload: memoryview) -> None:
        self.sent = sent
        self.template = template
        self.first = index
        self.pieces: list[memoryview] = []
        self.size = 0
        self._head = SEGMENT_HEAD.size + len(sent)
        self._take(index, payload)

    def extend(self, arena: bytearray, view: memoryview, begin: int, end: int) -> bool:
        """Take the plaintext at `begin` to `end` of `arena` (and `view`) if it is the next segment, and nothing else.

        This is the whole work for nearly all segments of a train.
        """
        start = begin + self._head
        if end - start != self._expected:
            return False
        _, kind, _, length, index, segment_size = SEGMENT_HEAD.unpack_from(arena, begin)
        if (
            index != self.next
            or kind != _SEGMENT
            or segment_size != self.template.segment_size
            or length != end - begin - 8
            or not arena.startswith(self.sent, begin + SEGMENT_HEAD.size)
        ):
            return False
        self._take(index, view[start:end])
        return True

    def _take(self, index: int, payload: memoryview) -> None:
        self.pieces.append(payload)
        self.size += len(payload)
        self.next = index = index + 1
        template = self.template
        if index < template.last:
            self._expected = template.segment_size
        else:
            self._expected = template.size_of(index) if index == template.last else _NO_SIZE

    def append(self, sent: bytes, template: Template, index: int, payload: memoryview) -> bool:
        """Take one segment that was parsed the long way, if it comes next."""
        if index != self.next or sent != self.sent or template.header != self.template.header:
            return False
        if template.segment_size != self.template.segment_size:
            return False
        self._take(index, payload)
        return True

    def tun_packets(self, offload: Offload) -> Iterator[TunPacket]:
        """As one superpacket if the kernel takes it; else as packets whose checksums it or we finish."""
        template = self.template
        if len(self.pieces) > 1 and (offload.tcp if template.protocol == TCP else offload.udp):
            header = template.header_of(self.first, self.size)
            vnet = superpacket_header(header, template.l4, template.protocol, template.segment_size)
            yield TunPacket(vnet, [header, *self.pieces])
            return
        for index, payload in enumerate(self.pieces, self.first):
            if offload.headers:
                header = template.header_of(index, len(payload))
                yield TunPacket(partial_header_untrusted(header), [header, payload])
            else:
                yield TunPacket(b"", template.packet(index, payload))


class PacketRun:
    """Packets of one TCP flow, each the continuation of the one before, all but the last of one size.

    Only packets with a partial checksum: these have never been on a wire, so no damage is covered up by a new one.
    """

    __slots__ = ("_l4", "_next_id", "_next_sequence", "_payload_at", "_size", "open", "packets", "size")

    def __init__(self, packet: bytearray | memoryview, l4: int) -> None:
        self._l4 = l4
        self._payload_at = l4 + (packet[l4 + 12] >> 4) * 4
        self._size = len(packet) - self._payload_at
        self.packets = [packet]
        self.size = len(packet)
        self.open = True
        self._expect(packet)

    def append(self, packet: bytearray | memoryview) -> bool:
        """Take a packet of the same flow, with a partial checksum, if it is just the continuation."""
        size = len(packet) - self._payload_at
        if (
            not 0 < size <= self._size
            or len(self.packets) >= MAX_JOINED
            or self.size + size > MAX_PACKET
            or not self._continues(packet)
        ):
            return False
        self.packets.append(packet)
        self.size += size
        self._expect(packet)
        self.open = size == self._size and not packet[self._l4 + 13] & _PSH
        return True

    def tun_packets(self, offload: Offload) -> Iterator[TunPacket]:
        """As one superpacket if the kernel takes it, else as they came."""
        if len(self.packets) > 1 and offload.tcp:
            header = bytearray(self.packets[0][: self._payload_at])
            header[self._l4 + 13] |= self.packets[-1][self._l4 + 13] & _PSH
            set_lengths(header, self._l4, TCP, self.size - self._payload_at)
            payloads = (memoryview(packet)[self._payload_at :] for packet in self.packets)
            yield TunPacket(superpacket_header(header, self._l4, TCP, self._size), [header, *payloads])
            return
        for packet in self.packets:
            if offload.headers:
                yield TunPacket(partial_header_untrusted(packet), packet)
            else:
                finish_partial_checksum(packet)
                yield TunPacket(b"", packet)

    def _expect(self, packet: bytearray | memoryview) -> None:
        sequence = int.from_bytes(packet[self._l4 + 4 : self._l4 + 8], "big")
        self._next_sequence = (sequence + len(packet) - self._payload_at) & 0xFFFFFFFF
        self._next_id = ((packet[4] << 8 | packet[5]) + 1) & 0xFFFF

    def _continues(self, packet: bytearray | memoryview) -> bool:
        """Whether all header fields are what a kernel that cuts a superpacket would have given this packet."""
        first, l4, end = self.packets[0], self._l4, self._payload_at
        if first[0] >> 4 == 4:
            same_ip = (
                packet[:2] == first[:2]
                and packet[6:10] == first[6:10]
                and packet[12:l4] == first[12:l4]
                and (packet[4] << 8 | packet[5]) == self._next_id
            )
        else:
            same_ip = packet[:4] == first[:4] and packet[6:40] == first[6:40]
        return (
            same_ip
            and packet[l4 : l4 + 4] == first[l4 : l4 + 4]
            and int.from_bytes(packet[l4 + 4 : l4 + 8], "big") == self._next_sequence
            and packet[l4 + 8 : l4 + 13] == first[l4 + 8 : l4 + 13]
            and packet[l4 + 13] & ~_PSH == first[l4 + 13]
            and packet[l4 + 14 : l4 + 16] == first[l4 + 14 : l4 + 16]
            and packet[l4 + 18 : end] == first[l4 + 18 : end]
        )


def may_start_run(packet: bytearray | memoryview) -> int:
    """The offset of the TCP header if a well-formed packet may be the first of a `PacketRun`, else 0."""
    l4 = (packet[0] & 0x0F) * 4 if packet[0] >> 4 == 4 else 40
    protocol = packet[9] if packet[0] >> 4 == 4 else packet[6]
    size = len(packet)
    if protocol != TCP or size < l4 + 20 or packet[l4 + 13] & ~_ECE != _ACK:
        return 0
    header = (packet[l4 + 12] >> 4) * 4
    return l4 if header >= 20 and size > l4 + header else 0
