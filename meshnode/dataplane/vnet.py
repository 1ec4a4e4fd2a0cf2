"""The virtio-net header in front of every packet of a TUN with IFF_VNET_HDR (virtio 1.2, section 5.1.6).

It says what the kernel left undone: the L4 checksum holds the pseudo-header's sum only (NEEDS_CSUM), or the
packet is a superpacket that stands for many (gso_type, gso_size). All fields are in the machine's byte order.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from meshnode.values import BadPacket
from meshnode.wire.ip import TCP, UDP, Packet

HEADER_SIZE = 10
PLAIN = bytes(HEADER_SIZE)
"""Nothing left undone."""

NEEDS_CSUM = 1
DATA_VALID = 2
RSC_INFO = 4

GSO_NONE = 0
GSO_TCPV4 = 1
GSO_TCPV6 = 4
GSO_UDP_L4 = 5
GSO_ECN = 0x80
"""A flag beside the type: the superpacket has CWR set, which belongs to its first segment only."""

TCP_CHECKSUM_OFFSET = 16
UDP_CHECKSUM_OFFSET = 6

_TCP_FLAGS = 13
_CWR = 0x80

_HEADER = struct.Struct("=BBHHHH")


class Offload(NamedTuple):
    """What the TUN does for us: virtio-net headers and checksums, and superpackets of TCP and of UDP."""

    headers: bool = False
    tcp: bool = False
    udp: bool = False


NO_OFFLOAD = Offload()


class VnetHeader(NamedTuple):
    """The header's fields. `header_size` (hdr_len) is a hint that may be wrong: nobody here relies on it."""

    flags: int
    gso_type: int
    header_size: int
    gso_size: int
    csum_start: int
    csum_offset: int

    def pack(self) -> bytes:
        return _HEADER.pack(*self)


def parse_vnet_untrusted(header: bytes) -> VnetHeader:
    """The fields of a header that makes sense by itself; whether it fits its packet is still to be seen."""
    if len(header) != HEADER_SIZE:
        raise BadPacket("vnet length")
    fields = VnetHeader(*_HEADER.unpack(header))
    if fields.flags & ~(NEEDS_CSUM | DATA_VALID):
        raise BadPacket("vnet flags")
    kind = fields.gso_type & ~GSO_ECN
    if kind not in (GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4):
        raise BadPacket("vnet gso type")
    if kind != GSO_NONE and (not fields.flags & NEEDS_CSUM or fields.gso_size == 0):
        raise BadPacket("vnet gso size")
    return fields


def checksum_place(packet: Packet) -> tuple[int, int] | None:
    """Where the L4 header of a TCP or UDP packet begins and where in it the checksum is; None for all others.

    Fragments have no checksum of their own, and IPv6 extension headers are not looked behind.
    """
    if packet[0] >> 4 == 4:
        if (packet[6] << 8 | packet[7]) & 0x3FFF:
            return None
        protocol, start = packet[9], (packet[0] & 0x0F) * 4
    else:
        protocol, start = packet[6], 40
    if protocol == TCP and len(packet) >= start + 20:
        return start, TCP_CHECKSUM_OFFSET
    if protocol == UDP and len(packet) >= start + 8:
        return start, UDP_CHECKSUM_OFFSET
    return None


def partial_header_untrusted(packet: Packet) -> bytes:
    """The header of one packet whose TCP or UDP checksum the kernel is to finish. BadPacket if it can have none."""
    place = checksum_place(packet)
    if place is None:
        raise BadPacket("partial checksum")
    return _HEADER.pack(NEEDS_CSUM, GSO_NONE, 0, 0, *place)


def superpacket_header(header: Packet, l4: int, protocol: int, segment_size: int) -> bytes:
    """The virtio-net header of a superpacket whose IP and L4 headers are `header`."""
    if protocol == UDP:
        return _HEADER.pack(NEEDS_CSUM, GSO_UDP_L4, len(header), segment_size, l4, UDP_CHECKSUM_OFFSET)
    kind = GSO_TCPV4 if header[0] >> 4 == 4 else GSO_TCPV6
    if header[l4 + _TCP_FLAGS] & _CWR:
        kind |= GSO_ECN
    return _HEADER.pack(NEEDS_CSUM, kind, len(header), segment_size, l4, TCP_CHECKSUM_OFFSET)
