"""The three handshake datagrams and the payloads inside them (docs/protocol.md, 3).

The outside is fixed-layout, because strangers write it. The sealed payloads end in fields of type, length and
value, so that a newer node can say more.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from meshnode.values import BadPacket, Capability, Suite
from meshnode.wire.cursor import Cursor
from meshnode.wire.header import MAX_INITIATION as MAX_INITIATION
from meshnode.wire.header import VERSION, MessageType, message_type_untrusted

MAC_SIZE = 16
KEY_SIZE = 32
MAX_STATEMENT = 512
INVITATION_ID_SIZE = 16

_KNOWN_CAPABILITIES = sum(Capability)
_INITIATION = struct.Struct(">BBHI32s48s")
_RESPONSE = struct.Struct(">BBHII32s")
_COOKIE = struct.Struct(">BBHI24s32s")
_INITIATION_PAYLOAD = struct.Struct(">QII")
_RESPONSE_PAYLOAD = struct.Struct(">IIB")
_FIELD = struct.Struct(">BH")
_SUITES, _GRANT, _INVITATION = 1, 2, 3


def prologue(network_id: bytes) -> bytes:
    """The Noise prologue: other versions and other networks fail the first tag."""
    return b"meshnode" + bytes([VERSION]) + network_id


# --- Datagrams ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Initiation:
    """Message 1. Sizes: ephemeral 32, sealed_static 48, sealed_payload the payload and 16."""

    sender_index: int
    ephemeral: bytes
    sealed_static: bytes
    sealed_payload: bytes

    def pack(self) -> bytes:
        """All bytes before the two macs, which the caller appends."""
        kind = MessageType.INITIATION
        return (
            _INITIATION.pack(kind, VERSION, 0, self.sender_index, self.ephemeral, self.sealed_static)
            + self.sealed_payload
        )


@dataclass(frozen=True, slots=True)
class Response:
    """Message 2. Sizes as in Initiation."""

    sender_index: int
    receiver_index: int
    ephemeral: bytes
    sealed_payload: bytes

    def pack(self) -> bytes:
        """All bytes before the two macs, which the caller appends."""
        kind = MessageType.RESPONSE
        return (
            _RESPONSE.pack(kind, VERSION, 0, self.sender_index, self.receiver_index, self.ephemeral)
            + self.sealed_payload
        )


@dataclass(frozen=True, slots=True)
class CookieReply:
    """Message 3: nonce 24, sealed_cookie 32. It carries no macs of its own."""

    receiver_index: int
    nonce: bytes
    sealed_cookie: bytes

    def pack(self) -> bytes:
        """The whole datagram."""
        kind = MessageType.COOKIE
        return _COOKIE.pack(kind, VERSION, 0, self.receiver_index, self.nonce, self.sealed_cookie)


def parse_initiation_untrusted(data: bytes | memoryview) -> Initiation:
    """Message 1 with its macs (which are not looked at)."""
    _expect(data, MessageType.INITIATION)
    _, _, _, sender_index, ephemeral, sealed_static = _INITIATION.unpack_from(data)
    return Initiation(sender_index, ephemeral, sealed_static, bytes(data[_INITIATION.size : -2 * MAC_SIZE]))


def parse_response_untrusted(data: bytes | memoryview) -> Response:
    """Message 2 with its macs (which are not looked at)."""
    _expect(data, MessageType.RESPONSE)
    _, _, _, sender_index, receiver_index, ephemeral = _RESPONSE.unpack_from(data)
    return Response(sender_index, receiver_index, ephemeral, bytes(data[_RESPONSE.size : -2 * MAC_SIZE]))


def parse_cookie_untrusted(data: bytes | memoryview) -> CookieReply:
    """Message 3."""
    _expect(data, MessageType.COOKIE)
    _, _, _, receiver_index, nonce, sealed_cookie = _COOKIE.unpack(data)
    return CookieReply(receiver_index, nonce, sealed_cookie)


def split_macs(data: bytes | memoryview) -> tuple[bytes, bytes, bytes]:
    """`(body, mac1, mac2)` of a whole message 1 or 2. mac1 covers body, mac2 covers body + mac1.

    For datagrams that `message_type_untrusted` has passed: no length is checked here.
    """
    whole = bytes(data)
    return whole[: -2 * MAC_SIZE], whole[-2 * MAC_SIZE : -MAC_SIZE], whole[-MAC_SIZE:]


def _expect(data: bytes | memoryview, wanted: MessageType) -> None:
    if message_type_untrusted(data) is not wanted:
        raise BadPacket("datagram type")


# --- Payloads -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InitiationPayload:
    """What the initiator says under the seal of message 1.

    `timestamp` is in nanoseconds since 1970. `suites` are the known ones of the offer, most wanted first (it
    may be empty: then there is nothing in common). `grants` are whole statements of at most 512 bytes, not
    parsed here. `invitation` is the 16-byte id of the invitation that a joiner redeems.
    """

    timestamp: int
    psk_epoch: int
    capabilities: Capability
    suites: tuple[Suite, ...]
    grants: tuple[bytes, ...] = ()
    invitation: bytes | None = None

    def pack(self) -> bytes:
        """The plaintext of the sealed payload."""
        parts = [_INITIATION_PAYLOAD.pack(self.timestamp, self.psk_epoch, self.capabilities)]
        parts.append(_pack_field(_SUITES, bytes(self.suites)))
        parts.extend(_pack_field(_GRANT, grant) for grant in self.grants)
        if self.invitation is not None:
            parts.append(_pack_field(_INVITATION, self.invitation))
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class ResponsePayload:
    """What the responder says under the seal of message 2: its capabilities and the one suite it picked."""

    psk_epoch: int
    capabilities: Capability
    suite: Suite

    def pack(self) -> bytes:
        """The plaintext of the sealed payload."""
        return _RESPONSE_PAYLOAD.pack(self.psk_epoch, self.capabilities, self.suite)


def parse_initiation_payload_untrusted(plaintext: bytes | memoryview) -> InitiationPayload:
    """The opened payload of message 1. Unknown fields, suites and capabilities are skipped."""
    if len(plaintext) > MAX_INITIATION:
        raise BadPacket("payload length")
    cursor = Cursor(plaintext)
    timestamp, psk_epoch, capabilities = _INITIATION_PAYLOAD.unpack(cursor.take(_INITIATION_PAYLOAD.size))
    suites: tuple[Suite, ...] | None = None
    grants: list[bytes] = []
    invitation: bytes | None = None
    for kind, value in _fields(cursor):
        if kind == _GRANT and 0 < len(value) <= MAX_STATEMENT:
            grants.append(value)
        elif kind == _SUITES and suites is None:
            suites = _known_suites(value)
        elif kind == _INVITATION and invitation is None and len(value) == INVITATION_ID_SIZE:
            invitation = value
        elif kind in (_SUITES, _GRANT, _INVITATION):
            raise BadPacket("payload field")
    known = Capability(capabilities & _KNOWN_CAPABILITIES)
    return InitiationPayload(timestamp, psk_epoch, known, suites or (), tuple(grants), invitation)


def parse_response_payload_untrusted(plaintext: bytes | memoryview) -> ResponsePayload:
    """The opened payload of message 2. That the suite was offered is for the initiator to check."""
    cursor = Cursor(plaintext)
    psk_epoch, capabilities, number = _RESPONSE_PAYLOAD.unpack(cursor.take(_RESPONSE_PAYLOAD.size))
    for _ in _fields(cursor):
        pass  # none is defined yet, but their lengths have to add up
    try:
        suite = Suite(number)
    except ValueError:
        raise BadPacket("unknown suite") from None
    return ResponsePayload(psk_epoch, Capability(capabilities & _KNOWN_CAPABILITIES), suite)


def _pack_field(kind: int, value: bytes) -> bytes:
    return _FIELD.pack(kind, len(value)) + value


def _fields(cursor: Cursor) -> Iterator[tuple[int, bytes]]:
    while cursor.remaining:
        kind, length = _FIELD.unpack(cursor.take(_FIELD.size))
        yield kind, cursor.take(length)


def _known_suites(offer: bytes) -> tuple[Suite, ...]:
    numbers = {suite.value for suite in Suite}
    if len(frozenset(offer)) != len(offer):
        raise BadPacket("payload field")
    return tuple(Suite(number) for number in offer if number in numbers)
