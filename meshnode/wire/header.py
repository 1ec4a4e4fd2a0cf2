"""The first bytes of every datagram (docs/protocol.md, 3 and 4): what it is, and the header of sealed data.

Nothing here is authenticated. The order on receipt is length, type, index, replay pre-check, tag; only then
may anything move.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from meshnode.values import BadPacket


class MessageType(IntEnum):
    """The first byte of a datagram."""

    INITIATION = 1
    RESPONSE = 2
    COOKIE = 3
    DATA = 4


VERSION = 1
"""The protocol version, the second byte of the handshake messages and part of the prologue."""

DATA_HEADER_SIZE = 16
TAG_SIZE = 16
TRANSMIT_TIME_SIZE = 4
MINIMUM_DATA = DATA_HEADER_SIZE + TRANSMIT_TIME_SIZE + TAG_SIZE
"""The size of a keepalive: a data datagram without frames."""

FLAG_ECN = 1
"""Data flag: the inner packets are ECN-capable, so a queue may mark instead of dropping."""

UNTAGGED = 0
SPARSE_TAG = 0xFFFE
CONTROL_TAG = 0xFFFF

DATA_HEADER = struct.Struct(">BBHIQ")
"""type, flags, flow tag, receiver index, counter."""

MAX_INITIATION = 1200
MINIMUM_INITIATION = 152
MINIMUM_RESPONSE = 101
COOKIE_SIZE = 64

_DATA = int(MessageType.DATA)
_new = tuple.__new__  # what DataHeader(…) comes down to, at half the price
_HANDSHAKE_PREFIX = struct.Struct(">BBH")
_SIZES = {
    MessageType.INITIATION: (MINIMUM_INITIATION, MAX_INITIATION),
    MessageType.RESPONSE: (MINIMUM_RESPONSE, MAX_INITIATION),
    MessageType.COOKIE: (COOKIE_SIZE, COOKIE_SIZE),
    MessageType.DATA: (MINIMUM_DATA, 0xFFFF),
}


class DataHeader(NamedTuple):
    """The header of a data datagram, all of it associated data. Unknown flags are kept as they came."""

    flags: int
    tag: int
    receiver_index: int
    counter: int


def parse_data_header_untrusted(data: bytes | memoryview) -> DataHeader:
    """The header of a data datagram that is long enough to hold a transmit time and a tag."""
    if len(data) < MINIMUM_DATA:
        raise BadPacket("datagram length")
    fields = DATA_HEADER.unpack_from(data)
    if fields[0] != _DATA:
        raise BadPacket("datagram type")
    return _new(DataHeader, fields[1:])


def pack_data_header(flags: int, tag: int, receiver_index: int, counter: int) -> bytes:
    """The 16 bytes before the sealed part. A value out of range is a struct.error: a bug of the caller."""
    return DATA_HEADER.pack(_DATA, flags, tag, receiver_index, counter)


def message_type_untrusted(data: bytes | memoryview) -> MessageType:
    """What this datagram claims to be; its length is sane, and so are a handshake's version and zeroes."""
    if len(data) < _HANDSHAKE_PREFIX.size:
        raise BadPacket("datagram length")
    kind, version, reserved = _HANDSHAKE_PREFIX.unpack_from(data)
    try:
        message_type = MessageType(kind)
    except ValueError:
        raise BadPacket("datagram type") from None
    low, high = _SIZES[message_type]
    if not low <= len(data) <= high:
        raise BadPacket("datagram length")
    if message_type is not MessageType.DATA:
        if version != VERSION:
            raise BadPacket("protocol version")
        if reserved != 0:
            raise BadPacket("reserved bytes")
    return message_type
