"""The header that all segments of a train share, and the headers that its segments have (docs/protocol.md, Segment).

A superpacket is what the kernel would cut into packets at the last moment. We cut it at the very last: the template
crosses the tunnel unchanged, and the receiving side derives the header of segment `i`, or of a contiguous run of
segments, which is a superpacket again.
"""

from __future__ import annotations

from meshnode.values import BadPacket
from meshnode.wire.ip import TCP, UDP, Packet, checksum, destination, ones_sum, pseudo_header_sum, source

_FIN, _PSH, _CWR = 0x01, 0x08, 0x80
_SEQ, _TCP_FLAGS = 4, 13
_TCP_CHECKSUM, _UDP_CHECKSUM = 16, 6
MAX_PACKET = 65_535


class Template:
    """A superpacket's header: IP, then TCP or UDP at `l4`. `last` is the index of its last segment."""

    __slots__ = ("header", "l4", "last", "payload_size", "protocol", "segment_size")

    def __init__(self, header: bytes, l4: int, protocol: int, segment_size: int) -> None:
        total = header[2] << 8 | header[3] if header[0] >> 4 == 4 else (header[4] << 8 | header[5]) + 40
        self.header = header
        self.l4 = l4
        self.protocol = protocol
        self.segment_size = segment_size
        self.payload_size = total - len(header)
        self.last = (self.payload_size - 1) // segment_size

    def with_header(self, header: bytes) -> Template:
        """The same for a header that differs in its DSCP or ECN bits."""
        return Template(header, self.l4, self.protocol, self.segment_size)

    @property
    def has_plain_headers(self) -> bool:
        """Whether TCP or UDP follows the IP header at once, as the segment frame wants it."""
        return self.l4 == 40 or self.header[0] >> 4 == 4

    def size_of(self, index: int) -> int:
        """Payload bytes of segment `index`; past the last one zero or less."""
        return min(self.segment_size, self.payload_size - index * self.segment_size)

    def header_of(self, first: int, size: int) -> bytearray:
        """The header of `size` payload bytes from segment `first` on, in one packet, its L4 checksum partial.

        Identification, sequence number and flags are what the kernel would have given the first of these segments
        (FIN and PSH: the last).
        """
        header = bytearray(self.header)
        offset = first * self.segment_size
        if first and header[0] >> 4 == 4:
            identification = (header[4] << 8 | header[5]) + first
            header[4:6] = (identification & 0xFFFF).to_bytes(2, "big")
        if self.protocol == TCP:
            at = self.l4 + _SEQ
            sequence = int.from_bytes(header[at : at + 4], "big") + offset
            header[at : at + 4] = (sequence & 0xFFFFFFFF).to_bytes(4, "big")
            if first:
                header[self.l4 + _TCP_FLAGS] &= ~_CWR & 0xFF
            if offset + size < self.payload_size:
                header[self.l4 + _TCP_FLAGS] &= ~(_FIN | _PSH) & 0xFF
        set_lengths(header, self.l4, self.protocol, size)
        return header

    def packet(self, index: int, payload: Packet) -> bytearray:
        """Segment `index` as a packet of its own, its checksums complete."""
        packet = self.header_of(index, len(payload))
        field = self.l4 + (_TCP_CHECKSUM if self.protocol == TCP else _UDP_CHECKSUM)
        value = checksum(payload, ones_sum(memoryview(packet)[self.l4 :]))
        if value == 0 and self.protocol == UDP:
            value = 0xFFFF  # zero would say that there is no checksum (RFC 768)
        packet[field : field + 2] = value.to_bytes(2, "big")
        packet += payload
        return packet


def set_lengths(header: bytearray, l4: int, protocol: int, size: int) -> None:
    """Bring a header in line with a payload of `size` bytes: lengths, IPv4 checksum, partial L4 checksum."""
    total = len(header) + size
    if header[0] >> 4 == 4:
        header[2:4] = total.to_bytes(2, "big")
        header[10:12] = b"\0\0"
        header[10:12] = checksum(header[:l4]).to_bytes(2, "big")
    else:
        header[4:6] = (total - 40).to_bytes(2, "big")
    length = (total - l4).to_bytes(2, "big")
    partial = pseudo_header_sum(source(header), destination(header), protocol, total - l4)
    if protocol == TCP:
        at = l4 + _TCP_CHECKSUM
    else:
        header[l4 + 4 : l4 + 6] = length
        at = l4 + _UDP_CHECKSUM
    header[at : at + 2] = partial.to_bytes(2, "big")


def parse_template_untrusted(data: Packet, segment_size: int) -> Template:
    """The template at the front of a segment frame's `data`. Raises BadPacket for what is no header of a train."""
    size = len(data)
    if not segment_size:
        raise BadPacket("segment size")
    version = data[0] >> 4 if size else 0
    if version == 4 and size >= 20:
        l4, protocol = (data[0] & 0x0F) * 4, data[9]
        if l4 < 20 or (data[6] << 8 | data[7]) & 0x3FFF:
            raise BadPacket("segment header")
    elif version == 6 and size >= 40:
        l4, protocol = 40, data[6]
    else:
        raise BadPacket("segment header")
    header_size = l4 + l4_header_size_untrusted(data, l4, protocol)
    template = Template(bytes(data[:header_size]), l4, protocol, segment_size)
    if template.payload_size <= segment_size:
        raise BadPacket("segment train")  # a train has two segments at least
    return template


def l4_header_size_untrusted(data: Packet, l4: int, protocol: int) -> int:
    """The length of the TCP or UDP header at `l4`, all of which is there."""
    size = 0
    if protocol == UDP:
        size = 8
    elif protocol == TCP and len(data) > l4 + 12:
        size = (data[l4 + 12] >> 4) * 4
        if size < 20:
            raise BadPacket("segment header")
    if not size or len(data) < l4 + size:
        raise BadPacket("segment header")
    return size
