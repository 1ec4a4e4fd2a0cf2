"""TCP, UDP and other IP packets with right checksums, built plainly and checked plainly."""

import struct
from typing import NamedTuple

from tests.sim.inner import ip_packet

TCP, UDP = 6, 17
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << n for n in range(8))


def word_sum(data: bytes) -> int:
    """The ones' complement sum of 16-bit words, one at a time."""
    if len(data) % 2:
        data += b"\0"
    total = 0
    for (word,) in struct.iter_unpack("!H", data):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """The sum of the pseudo-header."""
    return word_sum(source + destination + struct.pack("!HH", protocol, length))


class Tcp(NamedTuple):
    """The fields of a TCP segment that matter here."""

    source: bytes
    destination: bytes
    seq: int = 1000
    ack: int = 500
    flags: int = ACK
    payload: bytes = b""
    ports: tuple[int, int] = (40000, 5001)
    window: int = 1024
    options: bytes = b""
    tos: int = 0
    ident: int = 0
    ttl: int = 64
    urgent: int = 0

    def header(self, checksum: int) -> bytes:
        offset = (20 + len(self.options)) // 4 << 4
        return (
            struct.pack(
                "!HHIIBBHHH",
                *self.ports,
                self.seq & 0xFFFFFFFF,
                self.ack & 0xFFFFFFFF,
                offset,
                self.flags,
                self.window,
                checksum,
                self.urgent,
            )
            + self.options
        )

    def build(self, partial: bool = False) -> bytes:
        """The packet; with `partial` its checksum is the pseudo-header's sum."""
        length = 20 + len(self.options) + len(self.payload)
        total = pseudo(self.source, self.destination, TCP, length)
        if not partial:
            total = word_sum(self.header(0) + self.payload) + total
            total = (total & 0xFFFF) + (total >> 16)
            total = ~total & 0xFFFF
        return with_ip(self, TCP, self.header(total) + self.payload)


class Udp(NamedTuple):
    """A UDP datagram."""

    source: bytes
    destination: bytes
    payload: bytes = b""
    ports: tuple[int, int] = (7000, 7001)
    tos: int = 0
    ident: int = 0
    ttl: int = 64

    def build(self, partial: bool = False) -> bytes:
        length = 8 + len(self.payload)
        total = pseudo(self.source, self.destination, UDP, length)
        head = struct.pack("!HHH", *self.ports, length)
        if not partial:
            total = word_sum(head + b"\0\0" + self.payload) + total
            total = (total & 0xFFFF) + (total >> 16)
            total = ~total & 0xFFFF or 0xFFFF
        return with_ip(self, UDP, head + struct.pack("!H", total) + self.payload)


def with_ip(fields: Tcp | Udp, protocol: int, body: bytes) -> bytes:
    """The IP header of `fields` in front of `body`."""
    if len(fields.source) == 16:
        first = struct.pack("!I", 6 << 28 | fields.tos << 20)
        return (
            first
            + struct.pack("!HBB", len(body), protocol, fields.ttl)
            + fields.source
            + fields.destination
            + body
        )
    return ipv4_header(fields, protocol, len(body)) + body


def ipv4_header(fields: Tcp | Udp, protocol: int, size: int) -> bytes:
    head = struct.pack(
        "!BBHHHBBH", 0x45, fields.tos, 20 + size, fields.ident, 0x4000, fields.ttl, protocol, 0
    )
    head += fields.source + fields.destination
    return head[:10] + (~word_sum(head) & 0xFFFF).to_bytes(2, "big") + head[12:]


def checksums_right(packet: bytes) -> bool:
    """Whether the IPv4 header sum and the TCP, UDP or ICMP sum of a packet are right."""
    if packet[0] >> 4 == 4:
        start = (packet[0] & 0x0F) * 4
        if word_sum(packet[:start]) != 0xFFFF:
            return False
        protocol, source, destination = packet[9], packet[12:16], packet[16:20]
    else:
        start, protocol, source, destination = 40, packet[6], packet[8:24], packet[24:40]
    body = packet[start:]
    total = word_sum(body)
    if protocol != 1:
        total += pseudo(source, destination, protocol, len(body))
        total = (total & 0xFFFF) + (total >> 16)
    return total in (0xFFFF, 0) and protocol in (1, 6, 17, 58)


__all__ = ["Tcp", "Udp", "checksums_right", "ip_packet", "pseudo", "word_sum"]
