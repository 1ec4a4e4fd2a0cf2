"""Raw IP packets: the few header fields that matter here, ECN across a tunnel, and the Internet checksum.

The readers trust the packet's length: call `check_packet_untrusted` first.
"""

from __future__ import annotations

from meshnode.values import BadPacket, Ecn

Packet = bytes | bytearray | memoryview

TCP = 6
UDP = 17

_IPV4_HEADER = 20
_IPV6_HEADER = 40
_MORE_OR_OFFSET = 0x3FFF
_L4_CHECKSUM = {TCP: (16, 20), UDP: (6, 8)}
"""protocol -> (offset of the checksum in its header, least length of the header)."""


def check_packet_untrusted(packet: Packet) -> int:
    """4 or 6, for a packet whose header is all there and whose length field says what it has."""
    size = len(packet)
    if size == 0:
        raise BadPacket("empty packet")
    version_ = packet[0] >> 4
    if version_ == 4:
        header = (packet[0] & 0x0F) * 4
        if header < _IPV4_HEADER or size < header or (packet[2] << 8 | packet[3]) != size:
            raise BadPacket("ipv4 length")
        return 4
    if version_ == 6:
        if size < _IPV6_HEADER or (packet[4] << 8 | packet[5]) + _IPV6_HEADER != size:
            raise BadPacket("ipv6 length")
        return 6
    raise BadPacket("ip version")


def version(packet: Packet) -> int:
    """4 or 6."""
    return packet[0] >> 4


def source(packet: Packet) -> bytes:
    """The packed source address, 4 or 16 bytes."""
    return bytes(packet[12:16] if packet[0] >> 4 == 4 else packet[8:24])


def destination(packet: Packet) -> bytes:
    """The packed destination address, 4 or 16 bytes."""
    return bytes(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40])


def ecn(packet: Packet) -> int:
    """The two ECN bits (RFC 3168)."""
    return packet[1] & 3 if packet[0] >> 4 == 4 else packet[1] >> 4 & 3


def dscp(packet: Packet) -> int:
    """The six DSCP bits (RFC 2474)."""
    if packet[0] >> 4 == 4:
        return packet[1] >> 2
    return (packet[0] & 0x0F) << 2 | packet[1] >> 6


# --- ECN ----------------------------------------------------------------------------------------------------

# RFC 6040, figure 4: the inner packet's bits and the outer ones when a tunnel ends. None: drop the packet,
# for a queue signalled congestion to a flow that cannot hear it.
_DECAPSULATE: dict[int, tuple[int | None, ...]] = {
    # outer:       Not-ECT       ECT(1)       ECT(0)       CE        (in the order of the bits: 00 01 10 11)
    Ecn.NOT_ECT: (Ecn.NOT_ECT, Ecn.NOT_ECT, Ecn.NOT_ECT, None),
    Ecn.ECT1: (Ecn.ECT1, Ecn.ECT1, Ecn.ECT1, Ecn.CE),
    Ecn.ECT0: (Ecn.ECT0, Ecn.ECT1, Ecn.ECT0, Ecn.CE),
    Ecn.CE: (Ecn.CE, Ecn.CE, Ecn.CE, Ecn.CE),
}


def decapsulate_ecn(inner: int, outer: int) -> int | None:
    """The ECN bits of a packet that leaves the tunnel (RFC 6040, 4.2); None where it must be dropped."""
    return _DECAPSULATE[inner][outer]


def set_ce(packet: bytearray | memoryview) -> None:
    """Mark congestion experienced."""
    apply_ecn(packet, Ecn.CE)


def apply_ecn(packet: bytearray | memoryview, ecn: int) -> None:
    """Write the two ECN bits; an IPv4 header checksum is brought in line by RFC 1624, equation 3."""
    if packet[0] >> 4 == 6:
        packet[1] = packet[1] & 0xCF | ecn << 4
        return
    old = packet[1]
    new = old & 0xFC | ecn
    if new == old:
        return
    packet[1] = new
    # HC' = ~(~HC + ~m + m'); only the low byte of the first word changes, so its high byte cancels out.
    total = (~(packet[10] << 8 | packet[11]) & 0xFFFF) + (~old & 0xFFFF) + new
    total = (total & 0xFFFF) + (total >> 16)
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    packet[10] = total >> 8
    packet[11] = total & 0xFF


# --- Checksums ----------------------------------------------------------------------------------------------


def ones_sum(data: Packet, initial: int = 0) -> int:
    """The folded ones' complement sum of big-endian 16-bit words (RFC 1071), 16 bits, not complemented."""
    total = int.from_bytes(data, "big")
    if len(data) % 2:
        total <<= 8
    total += initial
    # 2^16 is 1 modulo 0xFFFF, so the remainder of the whole number is the sum of its words with end-around
    # carry. What it cannot tell apart is zero and 0xFFFF: the sum of words is only 0 where all of them are.
    return total % 0xFFFF or (0xFFFF if total else 0)


def checksum(data: Packet, initial: int = 0) -> int:
    """The Internet checksum over `data`, starting with a sum of other words."""
    return ~ones_sum(data, initial) & 0xFFFF


def pseudo_header_sum(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """The folded sum of the pseudo-header (RFC 793, RFC 8200 8.1); `length` counts header and payload."""
    return ones_sum(source + destination, protocol + (length >> 16) + (length & 0xFFFF))


def transport(packet: Packet) -> tuple[int, int]:
    """`(protocol, offset)` of what follows the IP header. IPv6 extension headers are not looked behind."""
    if packet[0] >> 4 == 4:
        return packet[9], (packet[0] & 0x0F) * 4
    return packet[6], _IPV6_HEADER


def finish_partial_checksum(packet: bytearray | memoryview) -> None:
    """Turn a partial TCP or UDP checksum (the pseudo-header's sum) into the whole one, in place.

    Raises BadPacket on a packet that can have none: another protocol, a fragment, one that is cut short.
    """
    protocol, offset = transport(packet)
    field, least = _L4_CHECKSUM.get(protocol, (0, 0))
    fragment = packet[0] >> 4 == 4 and (packet[6] << 8 | packet[7]) & _MORE_OR_OFFSET
    if not least or fragment or len(packet) < offset + least:
        raise BadPacket("partial checksum")
    result = checksum(memoryview(packet)[offset:])
    if result == 0 and protocol == UDP:
        result = 0xFFFF  # a UDP checksum of zero says that there is none (RFC 768)
    position = offset + field
    packet[position] = result >> 8
    packet[position + 1] = result & 0xFF
