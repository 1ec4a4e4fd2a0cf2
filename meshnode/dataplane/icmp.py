"""The ICMP messages that tell a sender how large its packets may be (RFC 1191, RFC 4443 section 3.2).

Whether one may be sent at all is part of it: never about an ICMP error, a fragment that is not the first, or
a packet that did not come from one host or did not go to one (RFC 1812 4.3.2.7, RFC 4443 2.4 e). The rate
limit is the caller's.
"""

from __future__ import annotations

import struct

from meshnode.wire.ip import Packet, checksum, ones_sum

IPV4_FLOOR = 576
"""IPv4 hosts need not be told less: Linux never believes a smaller path MTU than 552 (RFC 791: 576 must
pass)."""

IPV6_FLOOR = 1280
"""No IPv6 host sends smaller packets, whatever it is told (RFC 8200, section 5)."""

_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_IPV6 = struct.Struct(">IHBB16s16s")
_HOP_LIMIT = 64
_ICMP, _ICMPV6 = 1, 58
_IPV4_QUOTE = 548
"""The whole answer has at most 576 bytes (RFC 1812, 4.3.2.3)."""
_IPV6_QUOTE = IPV6_FLOOR - 48
_IPV4_ERRORS = (3, 4, 5, 11, 12)
"""Destination unreachable, source quench, redirect, time exceeded, parameter problem."""


def may_fragment(packet: Packet) -> bool:
    """Whether a packet that is too long has to be carried in pieces, for its sender would not or could not
    shrink it."""
    if packet[0] >> 4 == 4:
        return len(packet) <= IPV4_FLOOR or not packet[6] & 0x40 or packet[16] >= 224
    return len(packet) <= IPV6_FLOOR or packet[24] == 0xFF


def too_big(packet: Packet, mtu: int) -> bytes | None:
    """What to tell the sender of a well-formed `packet` so that it uses at most `mtu`; None if it must not be told.

    The message seems to come from the packet's destination. An address of our own would be a router's honest one, but
    kernels drop packets from a TUN that bear a local address (a martian source); the destination they expect there.
    """
    if packet[0] >> 4 == 4:
        return _fragmentation_needed(packet, max(mtu, IPV4_FLOOR))
    return _packet_too_big(packet, max(mtu, IPV6_FLOOR))


def _fragmentation_needed(packet: Packet, mtu: int) -> bytes | None:
    offset = (packet[0] & 0x0F) * 4
    source, to = bytes(packet[12:16]), bytes(packet[16:20])
    follows = (packet[6] << 8 | packet[7]) & 0x1FFF
    is_error = packet[9] == _ICMP and (len(packet) <= offset or packet[offset] in _IPV4_ERRORS)
    if follows or is_error or source[0] in (0, 127) or source[0] >= 224 or to[0] >= 224:
        return None
    body = struct.pack(">BBHHH", 3, 4, 0, 0, mtu) + bytes(packet[:_IPV4_QUOTE])
    body = _with_checksum(body, checksum(body))
    head = _IPV4.pack(0x45, 0, 20 + len(body), 0, 0, _HOP_LIMIT, _ICMP, 0, to, source)
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + body


def _packet_too_big(packet: Packet, mtu: int) -> bytes | None:
    source, to = bytes(packet[8:24]), bytes(packet[24:40])
    is_error = packet[6] == _ICMPV6 and (len(packet) < 41 or packet[40] < 128)
    if is_error or 0xFF in (source[0], to[0]) or source == bytes(16):
        return None
    body = struct.pack(">BBHI", 2, 0, 0, mtu) + bytes(packet[:_IPV6_QUOTE])
    pseudo = ones_sum(to + source, _ICMPV6 + len(body))
    body = _with_checksum(body, checksum(body, pseudo))
    return _IPV6.pack(6 << 28, len(body), _ICMPV6, _HOP_LIMIT, to, source) + body


def _with_checksum(body: bytes, value: int) -> bytes:
    return body[:2] + value.to_bytes(2, "big") + body[4:]
