"""MSS clamping: TCP learns in its handshake how large a segment the tunnel carries, so that nothing has to be
refused.

The option is only ever lowered. A partial checksum covers the pseudo-header alone and stays as it is; a full
one is brought in line by RFC 1624, equation 3.
"""

from __future__ import annotations

from typing import TypeVar

from meshnode.wire.ip import TCP, Packet

P = TypeVar("P", bound=Packet)

_SYN = 0x02
_END, _NOP, _MSS = 0, 1, 2
_MSS_LENGTH = 4
_CHECKSUM = 16


def carries_mss(packet: Packet) -> bool:
    """Whether this is a TCP SYN: a cheap test that almost every packet fails. The packet is well formed as
    IP."""
    if packet[0] >> 4 == 4:
        if packet[9] != TCP or (packet[6] & 0x1F) | packet[7]:
            return False
        at = (packet[0] & 0x0F) * 4 + 13
    else:
        if packet[6] != TCP:
            return False
        at = 53
    return len(packet) > at and bool(packet[at] & _SYN)


def clamp_mss(packet: P, mtu: int, partial: bool) -> P | bytearray:
    """The SYN `packet`, or a copy of it whose MSS option fits IP packets of `mtu` bytes. Hostile options are
    left alone."""
    is_v4 = packet[0] >> 4 == 4
    start = (packet[0] & 0x0F) * 4 if is_v4 else 40
    limit = mtu - (40 if is_v4 else 60)
    at = _find_mss(packet, start)
    if at is None or limit <= 0:
        return packet
    old = packet[at] << 8 | packet[at + 1]
    if old <= limit:
        return packet
    clamped = bytearray(packet)
    clamped[at : at + 2] = limit.to_bytes(2, "big")
    if not partial:
        _adjust_checksum(clamped, start, at, old, limit)
    return clamped


def _find_mss(packet: Packet, start: int) -> int | None:
    """The position of the MSS value; None if there is none or the options make no sense."""
    if len(packet) < start + 20:
        return None
    end = start + (packet[start + 12] >> 4) * 4
    if end > len(packet):
        return None
    at = start + 20
    while at + 1 < end:
        kind, length = packet[at], packet[at + 1]
        if kind == _END:
            return None
        if kind == _NOP:
            at += 1
            continue
        if kind == _MSS and length == _MSS_LENGTH and at + _MSS_LENGTH <= end:
            return at + 2
        if length < 2:
            return None
        at += length
    return None


def _adjust_checksum(packet: bytearray, start: int, at: int, old: int, new: int) -> None:
    """HC' = ~(~HC + ~m + m'). An odd offset swaps the bytes of both words (RFC 1071, byte order
    independence)."""
    if (at - start) % 2:
        old, new = (_swap(old), _swap(new))
    field = start + _CHECKSUM
    total = (~(packet[field] << 8 | packet[field + 1]) & 0xFFFF) + (~old & 0xFFFF) + new
    total = (total & 0xFFFF) + (total >> 16)
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    packet[field : field + 2] = total.to_bytes(2, "big")


def _swap(word: int) -> int:
    return (word & 0xFF) << 8 | word >> 8
