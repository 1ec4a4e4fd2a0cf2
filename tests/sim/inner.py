"""The packets that applications exchange inside the tunnel: ICMP echo and UDP, over IPv4 and IPv6, checksums
right.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

ICMP, UDP, ICMPV6 = 1, 17, 58
_ECHO_REQUEST = {ICMP: 8, ICMPV6: 128}
_ECHO_REPLY = {ICMP: 0, ICMPV6: 129}


class Inner(NamedTuple):
    """An inner packet, taken apart. `body` is what follows the IP header; `ecn` its two bits."""

    source: bytes
    destination: bytes
    protocol: int
    ecn: int
    body: bytes


def ip_packet(source: bytes, destination: bytes, protocol: int, body: bytes, ecn: int = 0) -> bytes:
    """An IPv4 or IPv6 packet, by the length of its addresses; IPv4 with don't-fragment, as Linux sends it."""
    if len(source) == 16:
        return (
            struct.pack("!IHBB", 6 << 28 | ecn << 20, len(body), protocol, 64) + source + destination + body
        )
    header = struct.pack("!BBHHHBBH", 0x45, ecn, 20 + len(body), 0, 0x4000, 64, protocol, 0)
    header += source + destination
    return header[:10] + _fold(header).to_bytes(2, "big") + header[12:] + body


def udp(source: bytes, destination: bytes, ports: tuple[int, int], payload: bytes, ecn: int = 0) -> bytes:
    """A UDP packet from port `ports[0]` to port `ports[1]`."""
    head = struct.pack("!HHHH", *ports, 8 + len(payload), 0)
    checksum = _fold(_pseudo(source, destination, UDP, 8 + len(payload)) + head + payload) or 0xFFFF
    body = head[:6] + checksum.to_bytes(2, "big") + payload
    return ip_packet(source, destination, UDP, body, ecn)


def echo_request(source: bytes, destination: bytes, identifier: int, sequence: int, payload: bytes) -> bytes:
    """A ping."""
    protocol = ICMPV6 if len(source) == 16 else ICMP
    body = struct.pack("!BBHHH", _ECHO_REQUEST[protocol], 0, 0, identifier, sequence) + payload
    return ip_packet(source, destination, protocol, _with_icmp_checksum(source, destination, protocol, body))


def echo_reply(inner: Inner) -> bytes | None:
    """What a kernel answers to a ping; None if `inner` is none."""
    if inner.protocol not in _ECHO_REQUEST or inner.body[:1] != bytes((_ECHO_REQUEST[inner.protocol],)):
        return None
    body = bytes((_ECHO_REPLY[inner.protocol], 0, 0, 0)) + inner.body[4:]
    body = _with_icmp_checksum(inner.destination, inner.source, inner.protocol, body)
    return ip_packet(inner.destination, inner.source, inner.protocol, body)


def echo_answered(inner: Inner) -> tuple[int, int] | None:
    """(identifier, sequence) of the ping that `inner` answers; None if it answers none."""
    if inner.protocol not in _ECHO_REPLY or inner.body[:1] != bytes((_ECHO_REPLY[inner.protocol],)):
        return None
    identifier, sequence = struct.unpack("!HH", inner.body[4:8])
    return identifier, sequence


def is_too_big(inner: Inner) -> bool:
    """Whether a router says that a packet does not fit (RFC 1191, RFC 4443 section 3.2)."""
    if inner.protocol == ICMPV6:
        return inner.body[0] == 2
    return inner.protocol == ICMP and inner.body[:2] == bytes((3, 4))


def parse(packet: bytes) -> Inner:
    """Take a packet apart. ValueError if its lengths or IPv4 header checksum are wrong: nobody should have
    let it pass.
    """
    version = packet[0] >> 4
    if version == 6:
        first, length, protocol, _ = struct.unpack("!IHBB", packet[:8])
        if 40 + length != len(packet):
            raise ValueError("IPv6 length")
        return Inner(packet[8:24], packet[24:40], protocol, first >> 20 & 3, packet[40:])
    header = 4 * (packet[0] & 15)
    if int.from_bytes(packet[2:4], "big") != len(packet):
        raise ValueError("IPv4 length")
    if _fold(packet[:header]):
        raise ValueError("IPv4 header checksum")
    return Inner(packet[12:16], packet[16:20], packet[9], packet[1] & 3, packet[header:])


def checksum_is_right(inner: Inner) -> bool:
    """Whether the checksum of a UDP or ICMP packet is right."""
    if inner.protocol == ICMP:
        return _fold(inner.body) == 0
    return _fold(_pseudo(inner.source, inner.destination, inner.protocol, len(inner.body)) + inner.body) == 0


def _with_icmp_checksum(source: bytes, destination: bytes, protocol: int, body: bytes) -> bytes:
    pseudo = _pseudo(source, destination, protocol, len(body)) if protocol == ICMPV6 else b""
    return body[:2] + _fold(pseudo + body).to_bytes(2, "big") + body[4:]


def _pseudo(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    shape = "!IxxxB" if len(source) == 16 else "!xBH"
    order = (length, protocol) if len(source) == 16 else (protocol, length)
    return source + destination + struct.pack(shape, *order)


def _fold(data: bytes) -> int:
    """The Internet checksum (RFC 1071); 0 over data that holds its own right checksum."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1]))
    total += data[-1] << 8 if len(data) & 1 else 0
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
