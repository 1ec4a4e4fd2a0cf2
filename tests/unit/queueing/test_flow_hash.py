import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.queueing.flow_hash import CONTROL_TAG, SPARSE_TAG, UNTAGGED, FlowTagger, flow_key

A4, B4 = bytes([10, 77, 0, 1]), bytes([10, 77, 0, 2])
A6, B6 = bytes.fromhex("fd00" + "11" * 14), bytes.fromhex("fd00" + "22" * 14)
PORTS = struct.pack(">HH", 50_000, 443)
REST = bytes(40)


def ipv4(protocol, transport, *, fragment=0, options=b"", source=A4):
    header = struct.pack(
        ">BBHHHBBH",
        0x45 + len(options) // 4,
        0,
        20 + len(options) + len(transport),
        7,
        fragment,
        64,
        protocol,
        0,
    )
    return header + source + B4 + options + transport


def ipv6(protocol, transport, *, source=A6):
    return struct.pack(">IHBB", 6 << 28, len(transport), protocol, 64) + source + B6 + transport


def extension(following, length=0):
    return bytes([following, length]) + bytes(6 + 8 * length)


@pytest.mark.parametrize("protocol", [6, 17, 33, 132])
def test_ports_tell_flows_apart(protocol):
    assert flow_key(ipv4(protocol, PORTS + REST)) == A4 + B4 + PORTS + bytes([protocol])
    assert flow_key(ipv6(protocol, PORTS + REST)) == A6 + B6 + PORTS + bytes([protocol])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_will_do_and_the_beginning_is_enough(kind):
    for packet in (
        ipv4(6, PORTS + REST),
        ipv6(6, PORTS + REST),
        ipv4(1, bytes(8)),
        ipv6(58, b"\x80" + bytes(7)),
    ):
        key = flow_key(kind(packet))
        assert type(key) is bytes
        assert key == flow_key(packet) == flow_key(kind(packet[:48]))


def test_what_the_header_says_besides_does_not_matter():
    packet = bytearray(ipv4(6, PORTS + REST))
    key = flow_key(packet)
    for offset in (1, 3, 5, 8, 11, 30):  # TOS, length, identification, TTL, checksum, sequence number
        packet[offset] ^= 0xFF
    packet[6] |= 0x40  # Don't Fragment
    assert flow_key(packet) == key


def test_ipv4_options_are_skipped():
    assert flow_key(ipv4(17, PORTS + REST, options=bytes(8))) == A4 + B4 + PORTS + b"\x11"


@pytest.mark.parametrize("fragment", [0x2000, 0x0001, 0x1FFF, 0x2010])
def test_fragments_have_no_ports(fragment):
    assert flow_key(ipv4(17, PORTS + REST, fragment=fragment)) == A4 + B4 + b"\x11"
    assert flow_key(ipv4(17, PORTS + REST, fragment=fragment, options=bytes(4))) == A4 + B4 + b"\x11"


def test_echoes_are_told_apart_by_their_identifier():
    for kind in (0, 8):
        assert flow_key(ipv4(1, bytes([kind, 0, 9, 9, 0x12, 0x34, 0, 1]))) == A4 + B4 + b"\x12\x34\x01"
    for kind in (128, 129):
        assert flow_key(ipv6(58, bytes([kind, 0, 9, 9, 0x12, 0x34, 0, 1]))) == A6 + B6 + b"\x12\x34\x3a"
    assert flow_key(ipv4(1, bytes([3, 0, 9, 9, 0x12, 0x34, 0, 1]))) == A4 + B4 + b"\x01"
    assert flow_key(ipv4(1, bytes([8, 0, 9, 9, 0x12]))) == A4 + B4 + b"\x01"
    assert flow_key(ipv6(58, bytes([135, 0, 9, 9, 0x12, 0x34, 0, 1]))) == A6 + B6 + b"\x3a"


def test_other_protocols_are_one_flow_for_two_hosts():
    assert flow_key(ipv4(47, PORTS + REST)) == A4 + B4 + b"\x2f"
    assert flow_key(ipv6(50, PORTS + REST)) == A6 + B6 + b"\x32"


@pytest.mark.parametrize(
    ("first", "headers"),
    [
        (0, extension(6)),
        (43, extension(6, 2)),
        (60, extension(6, 1)),
        (51, extension(6, 1)[: (1 + 2) * 4]),
        (44, extension(6)),  # a fragment header of a packet that is whole
        (44, bytes([6, 0, 0, 6, 0, 0, 0, 9])),  # and with reserved bits
        (0, extension(60) + extension(43) + extension(44) + extension(6)),
        (0, extension(60) * 7 + extension(6)),
    ],
)
def test_ipv6_extension_headers_are_walked(first, headers):
    assert flow_key(ipv6(first, headers + PORTS + REST)) == A6 + B6 + PORTS + b"\x06"


def test_ipv6_extension_headers_are_not_walked_for_ever():
    assert flow_key(ipv6(60, extension(60) * 8 + extension(6) + PORTS)) == A6 + B6 + b"\x06"
    assert flow_key(ipv6(60, extension(60) * 180)) == A6 + B6 + b"\x3c"


@pytest.mark.parametrize(("offset", "more"), [(0, 1), (8, 0), (8 * 300, 1)])
def test_ipv6_fragments_have_no_ports(offset, more):
    fragment = struct.pack(">BBHI", 17, 0, offset | more, 99)
    assert flow_key(ipv6(44, fragment + PORTS + REST)) == A6 + B6 + b"\x11"


def test_what_is_cut_off_falls_back_to_the_addresses():
    assert flow_key(ipv4(6, PORTS[:3])) == A4 + B4 + b"\x06"
    assert flow_key(ipv6(6, PORTS[:3])) == A6 + B6 + b"\x06"
    assert flow_key(ipv6(60, extension(6)[:5])) == A6 + B6 + b"\x3c"
    assert flow_key(ipv6(60, extension(6, 4)[:20])) == A6 + B6 + b"\x06"
    packet = bytearray(ipv4(6, PORTS + REST))
    packet[0] = 0x44  # a header of sixteen bytes
    assert flow_key(packet) == A4 + B4 + b"\x06"


def test_without_addresses_there_is_no_flow():
    assert flow_key(b"") is None
    assert flow_key(ipv4(6, b"")[:19]) is None
    assert flow_key(ipv6(6, b"")[:39]) is None
    for version in (0, 1, 5, 7, 15):
        assert flow_key(bytes([version << 4]) + bytes(60)) is None


HOSTILE = st.one_of(
    st.binary(max_size=120),
    st.builds(
        lambda first, rest: bytes([first]) + rest,
        st.sampled_from([0x45, 0x46, 0x4F, 0x60, 0x6F]),
        st.binary(max_size=120),
    ),
    st.builds(
        lambda first, headers, rest: ipv6(first, b"".join(headers) + rest),
        st.sampled_from([0, 43, 44, 51, 60]),
        st.lists(
            st.builds(lambda n, length: bytes([n, length]) + bytes(6), st.integers(0, 60), st.integers(0, 3)),
            max_size=12,
        ),
        st.binary(max_size=20),
    ),
)


@settings(max_examples=300)
@given(HOSTILE)
def test_nothing_makes_it_raise(packet):
    key = flow_key(packet)
    if key is None:
        assert len(packet) < 40 or packet[0] >> 4 not in (4, 6)
    else:
        addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
        assert key.startswith(addresses)
        assert len(key) - len(addresses) in (1, 3, 5)
        assert flow_key(memoryview(packet)) == key


def test_a_tag_is_a_keyed_hash_of_the_flow():
    flows = [flow_key(ipv4(6, struct.pack(">HH", port, 443) + REST)) for port in range(3000)]
    tagger = FlowTagger(bytes(range(32)))
    tags = [tagger.tag(flow) for flow in flows]
    assert tags == [tagger.tag(flow) for flow in flows]
    assert tags == [FlowTagger(bytes(range(32))).tag(flow) for flow in flows]
    assert not {UNTAGGED, SPARSE_TAG, CONTROL_TAG} & set(tags)
    assert all(0 < tag <= 0xFFFD for tag in tags)
    assert len(set(tags)) > 2900  # about 3000²/2/65533 = 69 pairs collide
    other = [FlowTagger(bytes(32)).tag(flow) for flow in flows]
    assert sum(a == b for a, b in zip(tags, other, strict=True)) < 5


def test_rekeying_changes_the_tags():
    tagger = FlowTagger(bytes(16))
    before = tagger.tag(b"flow")
    tagger.rekey(bytes(range(16)))
    assert tagger.tag(b"flow") == FlowTagger(bytes(range(16))).tag(b"flow") != before
    tagger.rekey(bytes(16))
    assert tagger.tag(b"flow") == before


def test_the_memory_of_tags_is_bounded_and_changes_nothing():
    small, large = FlowTagger(bytes(32), limit=10), FlowTagger(bytes(32))
    for number in range(100):
        flow = number.to_bytes(13, "big")
        assert small.tag(flow) == large.tag(flow)
        assert small.tag(flow) == large.tag(flow)
        assert len(small._tags) <= 10


def test_reserved_values_are_never_given(monkeypatch):
    class Digest:
        def __init__(self, value):
            self.digest = lambda: value.to_bytes(8, "big")

    for value, tag in ((0, 1), (0xFFFC, 0xFFFD), (0xFFFD, 1), (2**64 - 1, 1 + (2**64 - 1) % 0xFFFD)):
        monkeypatch.setattr(
            "meshnode.queueing.flow_hash.blake2s", lambda *_, value=value, **__: Digest(value)
        )
        assert FlowTagger(bytes(32)).tag(b"flow") == tag


@pytest.mark.parametrize("size", [0, 15, 33])
def test_a_key_has_the_right_size(size):
    with pytest.raises(ValueError, match="16 to 32 bytes"):
        FlowTagger(bytes(size))
