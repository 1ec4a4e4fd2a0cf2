"""Statements and records (docs/protocol.md, 2): what is signed, and spreads until everybody knows it.

A signature covers the bytes as they came, so a parsed statement keeps them: `raw` is what is stored, hashed
and passed on. Nothing here verifies a signature; `parse_statement_untrusted` only says what somebody claims.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntFlag
from typing import Any

from meshnode.values import BadPacket, Endpoint, Prefix
from meshnode.wire.address import pack_endpoint, read_endpoint
from meshnode.wire.cursor import Cursor

MAX_STATEMENT = 512
MAX_NAME = 63
MAX_PREFIXES = 8
MAX_ENDPOINTS = 16
MAX_VERSIONS = 16

_HEADER = struct.Struct(">BH")
_SIGNER_SIZE = 32
_SIGNATURE_SIZE = 64
MINIMUM_STATEMENT = _HEADER.size + _SIGNER_SIZE + _SIGNATURE_SIZE
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_NO_ADDRESS = bytes(4)
_RELAYS = 1
_GENESIS = struct.Struct(">32sQ4sB")
_GRANT = struct.Struct(">32s32sIQQB4s")
_REVOCATION = struct.Struct(">32sQ")
_SUCCESSION = struct.Struct(">32sQ")
_RECORD = struct.Struct(">QB")


class Role(IntFlag):
    """What a grant allows beyond being a member. Unknown bits are ignored."""

    NONE = 0
    ADMIN = 1
    ROUTER = 2


_KNOWN_ROLES = sum(Role)


@dataclass(frozen=True, slots=True)
class Genesis:
    """The beginning of a network: its first root key (32), when (s), its IPv4 prefix and its name."""

    root: bytes
    created: int
    prefix: Prefix
    name: str


@dataclass(frozen=True, slots=True)
class Grant:
    """`subject` (identity, 32) with `static` (32) is a member.

    From `not_before` to `not_after` (s since 1970, 0: no end). `ipv4` is its packed address or None,
    `prefixes` what it may originate. The highest `serial` counts.
    """

    subject: bytes
    static: bytes
    serial: int
    not_before: int
    not_after: int
    roles: Role
    ipv4: bytes | None
    name: str
    prefixes: tuple[Prefix, ...] = ()


@dataclass(frozen=True, slots=True)
class Revocation:
    """`subject` (identity, 32) is no member any more, since `at` (s)."""

    subject: bytes
    at: int


@dataclass(frozen=True, slots=True)
class Succession:
    """`root` (32) is a root key too, since `at` (s)."""

    root: bytes
    at: int


@dataclass(frozen=True, slots=True)
class Record:
    """What a node says of itself: where it listens, whether it relays. The highest `sequence` counts."""

    sequence: int
    relays: bool
    versions: tuple[int, ...]
    endpoints: tuple[Endpoint, ...]


Body = Genesis | Grant | Revocation | Succession | Record


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A parsed statement, its signature not verified. `raw` are all its bytes."""

    body: Body
    signer: bytes
    signature: bytes
    raw: bytes

    @property
    def hash(self) -> bytes:
        """BLAKE2s-16 of all bytes, for digests."""
        return hashlib.blake2s(self.raw, digest_size=16).digest()

    def signed_bytes(self, network_id: bytes) -> bytes:
        """What `signature` must cover for this network."""
        return to_be_signed(network_id, self.raw[:-_SIGNATURE_SIZE])


def valid_name(name: str) -> bool:
    """Whether this may name a node or a network: 1 to 63 of `a-z A-Z 0-9 . _ -`, a letter or digit first."""
    return _NAME.fullmatch(name) is not None


def to_be_signed(network_id: bytes, unsigned: bytes) -> bytes:
    """The bytes that the signer signs, of what `pack_unsigned` gave."""
    return b"meshnode statement" + network_id + unsigned


def pack_unsigned(body: Body, signer: bytes) -> bytes:
    """Every byte of a statement before its signature. Raises ValueError where other nodes would refuse it."""
    kind, pack = _PACKERS[type(body)]
    try:
        packed = pack(body)
        unsigned = _HEADER.pack(kind, len(packed)) + packed + signer
        parse_statement_untrusted(unsigned + bytes(_SIGNATURE_SIZE))
    except (struct.error, OverflowError) as error:
        raise ValueError(f"a value of this statement is out of range: {error}") from None
    except BadPacket as error:
        raise ValueError(f"this statement is against the protocol: {error.reason}") from None
    return unsigned


def parse_statement_untrusted(raw: bytes | memoryview) -> SignedStatement:
    """One whole statement or record within its limits; signature and dates are for the caller to check."""
    if len(raw) > MAX_STATEMENT:
        raise BadPacket("statement length")
    cursor = Cursor(raw)
    kind, length = _HEADER.unpack(cursor.take(_HEADER.size))
    packed = Cursor(cursor.take(length))
    signer, signature = cursor.take(_SIGNER_SIZE), cursor.take(_SIGNATURE_SIZE)
    if cursor.remaining:
        raise BadPacket("statement length")
    parse = _PARSERS.get(kind)
    if parse is None:
        raise BadPacket("statement kind")
    # What the parser leaves of the body is a tail of newer fields: signed, kept in raw, ignored.
    body = parse(packed)
    if isinstance(body, Genesis) and body.root != signer:
        raise BadPacket("genesis signer")
    return SignedStatement(body, signer, signature, bytes(raw))


# --- Bodies -------------------------------------------------------------------------------------------------


def _pack_genesis(body: Genesis) -> bytes:
    address, length = body.prefix
    return _GENESIS.pack(body.root, body.created, address, length) + _pack_name(body.name)


def _parse_genesis(cursor: Cursor) -> Genesis:
    root, created, address, length = _GENESIS.unpack(cursor.take(_GENESIS.size))
    return Genesis(root, created, _checked_prefix(address, length), _read_name(cursor))


def _pack_grant(body: Grant) -> bytes:
    fixed = _GRANT.pack(
        body.subject,
        body.static,
        body.serial,
        body.not_before,
        body.not_after,
        body.roles,
        _NO_ADDRESS if body.ipv4 is None else body.ipv4,
    )
    prefixes = (bytes([length, 4 if len(address) == 4 else 6]) + address for address, length in body.prefixes)
    return b"".join((fixed, _pack_name(body.name), bytes([len(body.prefixes)]), *prefixes))


def _parse_grant(cursor: Cursor) -> Grant:
    subject, static, serial, not_before, not_after, roles, ipv4 = _GRANT.unpack(cursor.take(_GRANT.size))
    name = _read_name(cursor)
    count = _read_count(cursor, MAX_PREFIXES)
    prefixes = tuple(_read_prefix(cursor) for _ in range(count))
    return Grant(
        subject,
        static,
        serial,
        not_before,
        not_after,
        Role(roles & _KNOWN_ROLES),
        None if ipv4 == _NO_ADDRESS else ipv4,
        name,
        prefixes,
    )


def _pack_revocation(body: Revocation) -> bytes:
    return _REVOCATION.pack(body.subject, body.at)


def _parse_revocation(cursor: Cursor) -> Revocation:
    return Revocation(*_REVOCATION.unpack(cursor.take(_REVOCATION.size)))


def _pack_succession(body: Succession) -> bytes:
    return _SUCCESSION.pack(body.root, body.at)


def _parse_succession(cursor: Cursor) -> Succession:
    return Succession(*_SUCCESSION.unpack(cursor.take(_SUCCESSION.size)))


def _pack_record(body: Record) -> bytes:
    return b"".join(
        (
            _RECORD.pack(body.sequence, _RELAYS if body.relays else 0),
            bytes([len(body.versions), *body.versions]),
            bytes([len(body.endpoints)]),
            *(pack_endpoint(endpoint) for endpoint in body.endpoints),
        )
    )


def _parse_record(cursor: Cursor) -> Record:
    sequence, flags = _RECORD.unpack(cursor.take(_RECORD.size))
    versions = tuple(cursor.take(_read_count(cursor, MAX_VERSIONS)))
    count = _read_count(cursor, MAX_ENDPOINTS)
    endpoints = tuple(read_endpoint(cursor) for _ in range(count))
    return Record(sequence, bool(flags & _RELAYS), versions, endpoints)


def _pack_name(name: str) -> bytes:
    encoded = name.encode()
    return bytes([len(encoded)]) + encoded


def _read_name(cursor: Cursor) -> str:
    # Latin-1 decodes any byte, and valid_name then lets none pass that is not ASCII.
    name = cursor.short().decode("latin-1")
    if not valid_name(name):
        raise BadPacket("statement name")
    return name


def _read_count(cursor: Cursor, high: int) -> int:
    count = cursor.integer(1)
    if count > high:
        raise BadPacket("statement list")
    return count


def _read_prefix(cursor: Cursor) -> Prefix:
    length, family = cursor.integer(1), cursor.integer(1)
    if family not in (4, 6):
        raise BadPacket("address family")
    return _checked_prefix(cursor.take(4 if family == 4 else 16), length)


def _checked_prefix(address: bytes, length: int) -> Prefix:
    """A prefix whose host bits are zero, so that one prefix has one encoding."""
    host_bits = 8 * len(address) - length
    if host_bits < 0 or int.from_bytes(address, "big") & ((1 << host_bits) - 1):
        raise BadPacket("statement prefix")
    return address, length


_PACKERS: dict[type[Body], tuple[int, Callable[[Any], bytes]]] = {
    Genesis: (1, _pack_genesis),
    Grant: (2, _pack_grant),
    Revocation: (3, _pack_revocation),
    Succession: (4, _pack_succession),
    Record: (16, _pack_record),
}
_PARSERS: dict[int, Callable[[Cursor], Body]] = {
    1: _parse_genesis,
    2: _parse_grant,
    3: _parse_revocation,
    4: _parse_succession,
    16: _parse_record,
}
