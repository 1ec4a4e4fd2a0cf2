"""Raw packets: header fields, the sixteen cells of RFC 6040, and checksums against a slow reference."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.values import BadPacket, Ecn
from meshnode.wire import ip
from meshnode.wire.ip import TCP, UDP
from tests.unit.wire.samples import IPV4, IPV6

NOT_ECT, ECT1, ECT0, CE = Ecn.NOT_ECT, Ecn.ECT1, Ecn.ECT0, Ecn.CE


def slow_sum(data: bytes | bytearray) -> int:
    """RFC 1071 by the book: add 16-bit words, then fold the carries."""
    padded = data + b"\0" * (len(data) % 2)
    words: tuple[int, ...] = struct.unpack(f">{len(padded) // 2}H", padded)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ipv4(protocol: int, payload: bytes, options: bytes = b"", tos: int = 0, fragment: int = 0) -> bytes:
    length = 20 + len(options) + len(payload)
    header = struct.pack(
        ">BBHHHBBH4s4s",
        0x45 + len(options) // 4,
        tos,
        length,
        1,
        fragment,
        64,
        protocol,
        0,
        b"\n\0\0\1",
        b"\n\0\0\2",
    )
    header += options
    check = ~slow_sum(header) & 0xFFFF
    return header[:10] + check.to_bytes(2, "big") + header[12:] + payload


def ipv6(protocol: int, payload: bytes, traffic_class: int = 0, flow_label: int = 0) -> bytes:
    first = 6 << 28 | traffic_class << 20 | flow_label
    header = struct.pack(">IHBB", first, len(payload), protocol, 64)
    return header + bytes(range(16)) + bytes(range(16, 32)) + payload


# --- Fields ----------------------------------------------------------------------------------------------------


def test_fields_of_ipv4() -> None:
    packet = ipv4(UDP, b"payload", tos=0b10111001)
    assert ip.check_packet_untrusted(packet) == ip.version(packet) == 4
    assert (ip.source(packet), ip.destination(packet)) == (b"\n\0\0\1", b"\n\0\0\2")
    assert (ip.dscp(packet), ip.ecn(packet)) == (0b101110, 0b01)
    assert ip.transport(packet) == (UDP, 20)
    assert ip.transport(ipv4(TCP, b"", options=bytes(8))) == (TCP, 28)


def test_fields_of_ipv6() -> None:
    packet = ipv6(TCP, b"payload", traffic_class=0b10111001, flow_label=0xFFFFF)
    assert ip.check_packet_untrusted(packet) == ip.version(packet) == 6
    assert (ip.source(packet), ip.destination(packet)) == (bytes(range(16)), bytes(range(16, 32)))
    assert (ip.dscp(packet), ip.ecn(packet)) == (0b101110, 0b01)
    assert ip.transport(packet) == (TCP, 40)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"", "empty packet"),
        (b"\x00" * 40, "ip version"),
        (b"\x50" * 40, "ip version"),
        (b"\xf0" * 40, "ip version"),
        (b"\x45", "ipv4 length"),
        (IPV4[:19], "ipv4 length"),
        (IPV4 + b"\0", "ipv4 length"),
        (b"\x44" + IPV4[1:], "ipv4 length"),  # a header of 16 bytes
        (b"\x4f" + IPV4[1:], "ipv4 length"),  # a header of 60 bytes in 32
        (b"\x60", "ipv6 length"),
        (IPV6[:39], "ipv6 length"),
        (IPV6 + b"\0", "ipv6 length"),
        (IPV6[:-1], "ipv6 length"),
    ],
)
def test_packets_that_are_not_what_they_say(packet: bytes, reason: str) -> None:
    with pytest.raises(BadPacket, match=reason):
        ip.check_packet_untrusted(packet)


# --- ECN -------------------------------------------------------------------------------------------------------

# RFC 6040, figure 4, row by row as printed: inner, then the result for outer Not-ECT, ECT(0), ECT(1), CE.
FIGURE_4: list[tuple[Ecn, list[Ecn | None]]] = [
    (NOT_ECT, [NOT_ECT, NOT_ECT, NOT_ECT, None]),
    (ECT0, [ECT0, ECT0, ECT1, CE]),
    (ECT1, [ECT1, ECT1, ECT1, CE]),
    (CE, [CE, CE, CE, CE]),
]


@pytest.mark.parametrize(
    ("inner", "outer", "result"),
    [
        (inner, outer, result)
        for inner, row in FIGURE_4
        for outer, result in zip((NOT_ECT, ECT0, ECT1, CE), row, strict=True)
    ],
)
def test_decapsulation(inner: Ecn, outer: Ecn, result: Ecn | None) -> None:
    assert ip.decapsulate_ecn(inner, outer) == result


@settings(deadline=None)
@given(tos=st.integers(0, 255), bits=st.integers(0, 3), noise=st.binary(min_size=4, max_size=4))
def test_ipv4_bits_and_their_checksum(tos: int, bits: int, noise: bytes) -> None:
    packet = bytearray(ipv4(UDP, b"payload", options=noise, tos=tos))
    before = bytes(packet)
    ip.apply_ecn(packet, bits)
    assert (ip.ecn(packet), ip.dscp(packet)) == (bits, tos >> 2)
    # A header with a right checksum sums up to 0xFFFF.
    assert slow_sum(bytes(packet[:24])) == 0xFFFF
    assert packet[2:10] + packet[12:] == before[2:10] + before[12:]


@given(traffic_class=st.integers(0, 255), label=st.integers(0, 2**20 - 1), bits=st.integers(0, 3))
def test_ipv6_bits(traffic_class: int, label: int, bits: int) -> None:
    packet = bytearray(ipv6(UDP, b"payload", traffic_class, label))
    ip.apply_ecn(packet, bits)
    assert packet == ipv6(UDP, b"payload", traffic_class & 0xFC | bits, label)


def with_identification(word: int, tos: int) -> bytes:
    header = bytearray(ipv4(UDP, b"", tos=tos))
    header[4:6] = word.to_bytes(2, "big")
    header[10:12] = bytes(2)
    header[10:12] = (~slow_sum(header) & 0xFFFF).to_bytes(2, "big")
    return bytes(header)


def test_the_corner_of_rfc_1624() -> None:
    # Section 4: where a checksum has to become 0x0000, the older equation gives 0xFFFF. Through every value:
    for word in range(0x10000):
        packet = bytearray(with_identification(word, tos=0))
        ip.set_ce(packet)
        if packet != with_identification(word, tos=CE):
            pytest.fail(f"identification {word:#06x}")


def test_ce_on_both_versions() -> None:
    for packet in (bytearray(IPV4), bytearray(IPV6)):
        ip.set_ce(packet)
        assert ip.ecn(packet) == CE


# --- Checksums -------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200) | st.integers(0, 99).map(bytes), initial=st.integers(0, 2**20))
def test_sums_against_the_book(data: bytes, initial: int) -> None:
    words = (initial >> 16).to_bytes(2, "big") + (initial & 0xFFFF).to_bytes(2, "big")
    assert ip.ones_sum(data, initial) == slow_sum(words + data)
    assert ip.checksum(data, initial) == ~slow_sum(words + data) & 0xFFFF


def test_sums_at_the_edge() -> None:
    assert ip.ones_sum(b"") == ip.ones_sum(bytes(100)) == 0
    assert ip.ones_sum(b"\xff\xff") == ip.ones_sum(b"\xff\xfe\0\x01") == 0xFFFF
    assert ip.ones_sum(b"\x01") == 0x0100
    assert (
        ip.checksum(b"\0\x01\xf2\x03\xf4\xf5\xf6\xf7") == ~0xDDF2 & 0xFFFF
    )  # the example of RFC 1071, section 3


def pseudo_header(packet: bytes, protocol: int, length: int) -> bytes:
    return ip.source(packet) + ip.destination(packet) + struct.pack(">IxxxB", length, protocol)


FIELD = {TCP: 16, UDP: 6}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [TCP, UDP])
@settings(max_examples=40, deadline=None)
@given(payload=st.binary(min_size=20, max_size=120), options=st.sampled_from([b"", bytes(4), b"\1" * 40]))
def test_partial_checksums_are_finished(version: int, protocol: int, payload: bytes, options: bytes) -> None:
    start = FIELD[protocol]

    def build(check: int) -> bytes:
        l4 = payload[:start] + check.to_bytes(2, "big") + payload[start + 2 :]
        return ipv4(protocol, l4, options) if version == 4 else ipv6(protocol, l4)

    whole = build(0)
    header = pseudo_header(whole, protocol, len(payload))
    partial = ip.pseudo_header_sum(ip.source(whole), ip.destination(whole), protocol, len(payload))
    assert partial == slow_sum(header)
    packet = bytearray(build(partial))
    ip.finish_partial_checksum(packet)
    offset = len(whole) - len(payload)
    wanted = ~slow_sum(header + whole[offset:]) & 0xFFFF
    if protocol == UDP:
        wanted = wanted or 0xFFFF
    assert packet == build(wanted)
    # What a receiver does: all words together make 0xFFFF.
    assert slow_sum(header + bytes(packet[offset:])) == 0xFFFF


def test_a_udp_checksum_of_zero_is_sent_as_ones() -> None:
    packet = bytearray(ipv4(UDP, bytes(6) + b"\xff\xff"))
    ip.finish_partial_checksum(packet)
    assert packet[26:28] == b"\xff\xff"
    packet = bytearray(ipv4(TCP, bytes(16) + b"\xff\xff" + bytes(2)))
    ip.finish_partial_checksum(packet)
    assert packet[36:38] == b"\0\0"


@pytest.mark.parametrize(
    "packet",
    [
        ipv4(1, bytes(40)),  # ICMP
        ipv6(44, bytes(40)),  # a fragment header
        ipv6(0, bytes(40)),  # hop-by-hop options
        ipv4(TCP, bytes(19)),
        ipv4(UDP, bytes(7)),
        ipv6(TCP, bytes(19)),
        ipv6(UDP, bytes(7)),
        ipv4(UDP, bytes(40), fragment=0x2000),
        ipv4(UDP, bytes(40), fragment=1),
    ],
)
def test_packets_that_can_have_no_partial_checksum(packet: bytes) -> None:
    with pytest.raises(BadPacket, match="partial checksum"):
        ip.finish_partial_checksum(bytearray(packet))


def test_dont_fragment_is_no_fragment() -> None:
    ip.finish_partial_checksum(bytearray(ipv4(UDP, bytes(40), fragment=0x4000)))
