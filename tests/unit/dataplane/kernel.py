"""What a kernel does behind a TUN with virtio-net headers: it cuts superpackets up and finishes checksums.

Written by the book (virtio 1.2, RFC 9293), for a few bytes at a time and without any code of the data plane, to be
its judge.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from meshnode.dataplane.api import TunPacket
from tests.unit.dataplane.packets import CWR, FIN, PSH, pseudo, word_sum

TCPV4, TCPV6, UDP_L4, ECN = 1, 4, 5, 0x80


def vnet(gso: int, size: int, start: int, offset: int, flags: int = 1, header: int = 0) -> bytes:
    """A virtio-net header."""
    return struct.pack("=BBHHHH", flags, gso, header, size, start, offset)


def kernel_packets(packets: Iterable[TunPacket]) -> list[bytes]:
    """The packets that leave the kernel for what is written to the TUN."""
    result: list[bytes] = []
    for header, data in packets:
        result.extend(_receive(header, b"".join(data) if isinstance(data, list) else bytes(data)))
    return result


def _receive(header: bytes, packet: bytes) -> list[bytes]:
    if not header:
        return [packet]
    flags, gso, _, size, start, offset = struct.unpack("=BBHHHH", header)
    assert flags in (0, 1)
    if gso == 0:
        return [_finish(packet, start, offset)] if flags else [packet]
    assert flags == 1
    assert size > 0
    kind = gso & ~ECN
    version = packet[0] >> 4
    assert kind in ({4: (TCPV4, UDP_L4), 6: (TCPV6, UDP_L4)}[version])
    is_tcp = kind != UDP_L4
    assert offset == (16 if is_tcp else 6)
    assert start == ((packet[0] & 15) * 4 if version == 4 else 40)
    total = (
        struct.unpack_from("!H", packet, 2)[0]
        if version == 4
        else struct.unpack_from("!H", packet, 4)[0] + 40
    )
    assert total == len(packet)
    # The checksum field has to hold the sum of the superpacket's own pseudo-header.
    claimed = struct.unpack_from("!H", packet, start + offset)[0]
    assert claimed % 0xFFFF == _pseudo(packet, start) % 0xFFFF
    end = start + ((packet[start + 12] >> 4) * 4 if is_tcp else 8)
    if is_tcp:
        assert bool(gso & ECN) == bool(packet[start + 13] & CWR)
    payload = packet[end:]
    assert len(payload) > size
    return [
        _finish(
            _segment(packet[:end], payload[at : at + size], start, is_tcp, at, size, len(payload)),
            start,
            offset,
        )
        for at in range(0, len(payload), size)
    ]


def _segment(
    header: bytes, payload: bytes, start: int, is_tcp: bool, at: int, size: int, total: int
) -> bytes:
    """One segment, its checksum field holding the sum of its pseudo-header."""
    head = bytearray(header)
    length = len(head) + len(payload)
    if head[0] >> 4 == 4:
        ident = struct.unpack_from("!H", head, 4)[0]
        struct.pack_into("!HH", head, 2, length, (ident + at // size) % 65536)
        struct.pack_into("!H", head, 10, 0)
        struct.pack_into("!H", head, 10, ~word_sum(bytes(head[:start])) & 0xFFFF)
    else:
        struct.pack_into("!H", head, 4, length - 40)
    if is_tcp:
        sequence = struct.unpack_from("!I", head, start + 4)[0]
        struct.pack_into("!I", head, start + 4, (sequence + at) % 2**32)
        if at:
            head[start + 13] &= ~CWR
        if at + len(payload) < total:
            head[start + 13] &= ~(FIN | PSH)
        struct.pack_into("!H", head, start + 16, _pseudo(bytes(head) + payload, start))
    else:
        struct.pack_into("!H", head, start + 4, length - start)
        struct.pack_into("!H", head, start + 6, _pseudo(bytes(head) + payload, start))
    return bytes(head) + payload


def _pseudo(packet: bytes, start: int) -> int:
    if packet[0] >> 4 == 4:
        return pseudo(packet[12:16], packet[16:20], packet[9], len(packet) - start)
    return pseudo(packet[8:24], packet[24:40], packet[6], len(packet) - start)


def _finish(packet: bytes, start: int, offset: int) -> bytes:
    """Complete the checksum: over everything from `start`, the field's own content included."""
    value = ~word_sum(packet[start:]) & 0xFFFF
    if value == 0 and offset == 6:
        value = 0xFFFF
    at = start + offset
    return packet[:at] + value.to_bytes(2, "big") + packet[at + 2 :]
