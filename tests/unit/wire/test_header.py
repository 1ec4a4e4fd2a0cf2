"""Datagram headers: the layout of docs/protocol.md 3 and 4, byte by byte."""

from __future__ import annotations

import struct

import pytest

from meshnode.values import BadPacket
from meshnode.wire.header import (
    COOKIE_SIZE,
    MAX_INITIATION,
    MINIMUM_DATA,
    MINIMUM_INITIATION,
    MINIMUM_RESPONSE,
    DataHeader,
    MessageType,
    message_type_untrusted,
    pack_data_header,
    parse_data_header_untrusted,
)

SIZES = {
    MessageType.INITIATION: (MINIMUM_INITIATION, MAX_INITIATION),
    MessageType.RESPONSE: (MINIMUM_RESPONSE, MAX_INITIATION),
    MessageType.COOKIE: (COOKIE_SIZE, COOKIE_SIZE),
    MessageType.DATA: (MINIMUM_DATA, 0xFFFF),
}


def test_the_data_header_is_sixteen_bytes_in_network_order() -> None:
    packed = pack_data_header(1, 0xABCD, 0x01020304, 0x1122334455667788)
    assert packed.hex() == "0401abcd010203041122334455667788"
    assert parse_data_header_untrusted(packed + bytes(20)) == DataHeader(
        1, 0xABCD, 0x01020304, 0x1122334455667788
    )


def test_a_data_header_out_of_range_is_a_bug() -> None:
    with pytest.raises(struct.error):
        pack_data_header(0, 0, 0, 2**64)


def test_unknown_flags_are_kept() -> None:
    assert parse_data_header_untrusted(pack_data_header(0xFE, 0, 0, 0) + bytes(20)).flags == 0xFE


def test_a_data_datagram_has_room_for_a_time_and_a_tag() -> None:
    assert MINIMUM_DATA == 36
    with pytest.raises(BadPacket, match="datagram length"):
        parse_data_header_untrusted(pack_data_header(0, 0, 0, 0) + bytes(19))


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 5, 255])
def test_only_type_four_is_data(kind: int) -> None:
    with pytest.raises(BadPacket, match="datagram type"):
        parse_data_header_untrusted(bytes([kind, 1]) + bytes(40))


@pytest.mark.parametrize("kind", list(MessageType))
def test_lengths_of_each_type(kind: MessageType) -> None:
    low, high = SIZES[kind]
    start = bytes([kind, 1, 0, 0])
    for size in (low, high):
        assert message_type_untrusted(start.ljust(size, b"\0")) is kind
    for size in (4, low - 1, high + 1):
        with pytest.raises(BadPacket, match="datagram length"):
            message_type_untrusted(start.ljust(size, b"\0"))


@pytest.mark.parametrize("size", range(4))
def test_less_than_a_header(size: int) -> None:
    with pytest.raises(BadPacket, match="datagram length"):
        message_type_untrusted(bytes(size))


@pytest.mark.parametrize("kind", [0, *range(5, 256)])
def test_types_that_do_not_exist(kind: int) -> None:
    with pytest.raises(BadPacket, match="datagram type"):
        message_type_untrusted(bytes([kind, 1]).ljust(200, b"\0"))


@pytest.mark.parametrize("kind", [MessageType.INITIATION, MessageType.RESPONSE, MessageType.COOKIE])
@pytest.mark.parametrize("version", [0, 2, 255])
def test_other_versions_are_dropped(kind: MessageType, version: int) -> None:
    size, _ = SIZES[kind]
    with pytest.raises(BadPacket, match="protocol version"):
        message_type_untrusted(bytes([kind, version]).ljust(size, b"\0"))


@pytest.mark.parametrize("kind", [MessageType.INITIATION, MessageType.RESPONSE, MessageType.COOKIE])
@pytest.mark.parametrize("reserved", [b"\0\1", b"\1\0"])
def test_reserved_bytes_are_zero(kind: MessageType, reserved: bytes) -> None:
    size, _ = SIZES[kind]
    with pytest.raises(BadPacket, match="reserved bytes"):
        message_type_untrusted((bytes([kind, 1]) + reserved).ljust(size, b"\0"))
