"""What a node keeps on disk. A torn file is noticed: the last 16 bytes are a hash of the rest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from typing import Any

from meshnode.values import BadPacket, Endpoint, PeerId, Prefix
from meshnode.wire import schema
from meshnode.wire.address import address_text, pack_endpoint_address
from meshnode.wire.schema import binary, each, integer, optional, structure, text
from meshnode.wire.statement import MAX_ENDPOINTS, MAX_PREFIXES, MAX_STATEMENT, MINIMUM_STATEMENT, valid_name

STATE_VERSION = 1
MAX_STATE = 64 * 2**20
"""Bytes; a network of 100,000 statements has about 30 MB."""

_MAX_ENTRIES = 2**18
_CHECK_SIZE = 16
_DEPTH = 5


@dataclass(frozen=True, slots=True)
class StoredInvitation:
    """One invitation as its inviter keeps it.

    `id` (16), `psk` (32) and `redeem` (32) are hashes of the token's secret. `name` is what the joiner shall
    be called, if the inviter said so; `uses` how many keys may redeem it; `expires` (s since 1970); `roles`,
    `prefixes` and `valid_seconds` (0: for ever) go into the grants; `redeemed` are the identity and static
    keys that have redeemed it.
    """

    id: bytes
    psk: bytes = field(repr=False)
    redeem: bytes = field(repr=False)
    name: str | None
    uses: int
    expires: int
    roles: int
    prefixes: tuple[Prefix, ...] = ()
    valid_seconds: int = 0
    redeemed: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class StoredState:
    """All that survives a restart, except the keys, which have files of their own.

    `genesis`, `statements` and `records` are raw; `endpoints` where peers were last reached; `timestamps` the
    greatest initiation timestamp (ns) for each static key or invitation id; `own_timestamp` the least that
    this node may still use; `serial` the highest grant serial that it gave out.
    """

    genesis: bytes
    statements: tuple[bytes, ...] = ()
    records: tuple[bytes, ...] = ()
    invitations: tuple[StoredInvitation, ...] = ()
    endpoints: tuple[tuple[PeerId, tuple[Endpoint, ...]], ...] = ()
    timestamps: tuple[tuple[bytes, int], ...] = ()
    own_timestamp: int = 0
    serial: int = 0


def pack_state(state: StoredState) -> bytes:
    """The bytes of the file. Raises ValueError on a state that could not be read again."""
    body = schema.pack((STATE_VERSION, *(_plain(getattr(state, each.name)) for each in fields(state))))
    data = body + _check(body)
    try:
        parse_state_untrusted(data)
    except BadPacket as error:
        raise ValueError(f"this state cannot be stored: {error.reason}") from None
    return data


def parse_state_untrusted(data: bytes) -> StoredState:
    """What `pack_state` wrote. The reason is "state damaged", "state too new", or the schema's."""
    body, check = data[:-_CHECK_SIZE], data[-_CHECK_SIZE:]
    if len(data) > MAX_STATE or check != _check(body):
        raise BadPacket("state damaged")
    values = schema.unpack_untrusted(body, _DEPTH)
    if not values or type(values[0]) is not int:
        raise BadPacket("malformed fields")
    if values[0] != STATE_VERSION:
        raise BadPacket("state too new")
    return _STATE(values[1:])


def _check(body: bytes) -> bytes:
    return hashlib.blake2s(b"meshnode state" + body, digest_size=_CHECK_SIZE).digest()


def _plain(value: Any) -> Any:
    """Values as msgpack has them: dataclasses become tuples, subclasses of int and str their base."""
    if isinstance(value, StoredInvitation):
        return tuple(_plain(getattr(value, each.name)) for each in fields(value))
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return int(value) if isinstance(value, int) else value


def _prefix(address: bytes, length: int) -> Prefix:
    if len(address) not in (4, 16) or length > 8 * len(address):
        raise BadPacket("malformed fields")
    return address, length


def _endpoint(host: str, port: int) -> Endpoint:
    try:
        # The scope of a link-local address stays: the state never leaves this machine.
        _, percent, scope = host.partition("%")
        return Endpoint(address_text(pack_endpoint_address(host)) + percent + scope, port)
    except ValueError:
        raise BadPacket("malformed fields") from None


def _pair(first: Any, second: Any) -> tuple[Any, Any]:
    return first, second


_KEY = binary(32)
_STATEMENT = binary(MINIMUM_STATEMENT, MAX_STATEMENT)
_PREFIXES = each(structure(_prefix, binary(4, 16), integer(0, 128)), MAX_PREFIXES)
_ENDPOINTS = each(structure(_endpoint, text(64), integer(1, 0xFFFF)), MAX_ENDPOINTS)
_INVITATION = structure(
    StoredInvitation,
    binary(16),
    _KEY,
    _KEY,
    optional(text(63, valid_name)),
    integer(0, 2**32 - 1),
    integer(),
    integer(0, 0xFF),
    _PREFIXES,
    integer(),
    each(structure(_pair, _KEY, _KEY), _MAX_ENTRIES),
)
_STATE = structure(
    StoredState,
    _STATEMENT,
    each(_STATEMENT, _MAX_ENTRIES),
    each(_STATEMENT, _MAX_ENTRIES),
    each(_INVITATION, _MAX_ENTRIES),
    each(structure(_pair, binary(16), _ENDPOINTS), _MAX_ENTRIES),
    each(structure(_pair, binary(16, 32), integer()), _MAX_ENTRIES),
    integer(),
    integer(0, 2**32 - 1),
)
"""The fields in the order of the dataclasses."""
