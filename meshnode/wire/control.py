"""Control messages (docs/protocol.md, 5): one msgpack array each, checked against the table SCHEMA.

A new kind is a dataclass and a line in SCHEMA, its fields in the order of the dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from meshnode.values import BadPacket
from meshnode.wire import schema
from meshnode.wire.schema import Field, binary, boolean, each, integer, text
from meshnode.wire.statement import MAX_ENDPOINTS, MAX_STATEMENT, MINIMUM_STATEMENT, valid_name

MAX_CONTROL = 1200
"""The bytes of one control message."""

MAX_DEPTH = 4
"""Arrays and maps within each other, the message itself included."""

MAX_CODE = 32
MAX_TEXT = 200


@dataclass(frozen=True, slots=True)
class Redeem:
    """A joiner's first sealed message: the token's secret (16), its identity (32), a signature by it (64).

    `explicit` says that a person chose `name`, so a taken one is an error and gets no number.
    """

    secret: bytes = field(repr=False)
    identity: bytes
    signature: bytes
    name: str
    explicit: bool


@dataclass(frozen=True, slots=True)
class EnrolledAnswer:
    """The answer to a joiner: whole statements, the genesis and then the chain of the new grant."""

    statements: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """The other answer: `code` for the program, `text` for the person."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Digest:
    """The hash (16) and the number of all statements and records that the sender knows."""

    hash: bytes
    count: int


@dataclass(frozen=True, slots=True)
class Statements:
    """Whole statements and records, each of at most 512 bytes."""

    items: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class GoodbyeMessage:
    """The sender stops: the session ends here and now."""

    reason: str


@dataclass(frozen=True, slots=True)
class Buckets:
    """One hash (8) for each of the 32 buckets into which the first byte of their hash sorts all items, modulo 32."""

    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """The short hashes (8) of the items in one bucket, where the two sides differ."""

    bucket: int
    items: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Want:
    """Short hashes (8) of items that the sender lacks."""

    items: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Punch:
    """Where the sender can be reached as far as it knows: both sides probe all of the other's endpoints at once.

    Each endpoint is family u8, port u16, address. `answer`: this is the answer to one, and wants none.
    """

    endpoints: tuple[bytes, ...]
    answer: bool


ControlMessage = (
    Redeem
    | EnrolledAnswer
    | Refused
    | Digest
    | Statements
    | GoodbyeMessage
    | Buckets
    | Summary
    | Want
    | Punch
)

_NAME = text(63, valid_name)
_STATEMENT = binary(MINIMUM_STATEMENT, MAX_STATEMENT)
_SHORTS = each(binary(8), 100)
_STATEMENTS = each(_STATEMENT, MAX_CONTROL // MINIMUM_STATEMENT)

SCHEMA: dict[int, tuple[type[ControlMessage], tuple[Field[Any], ...]]] = {
    1: (Redeem, (binary(16), binary(32), binary(64), _NAME, boolean)),
    2: (EnrolledAnswer, (_STATEMENTS,)),
    3: (Refused, (text(MAX_CODE), text(MAX_TEXT))),
    4: (Digest, (binary(16), integer(0, 2**32 - 1))),
    5: (Statements, (_STATEMENTS,)),
    6: (GoodbyeMessage, (text(MAX_TEXT),)),
    7: (Buckets, (_SHORTS,)),
    8: (Summary, (integer(0, 31), _SHORTS)),
    9: (Want, (_SHORTS,)),
    10: (Punch, (each(binary(7, 19), MAX_ENDPOINTS), boolean)),
}
"""kind -> the message and its fields. Fields after these are a newer node's and ignored."""

_KINDS: dict[type[ControlMessage], int] = {message: kind for kind, (message, _) in SCHEMA.items()}


def pack_control(message: ControlMessage) -> bytes:
    """The body of a control frame. Raises ValueError where the other side would refuse it."""
    values = (getattr(message, each_field.name) for each_field in fields(message))
    body = schema.pack((_KINDS[type(message)], *values))
    try:
        parse_control_untrusted(body)
    except BadPacket as error:
        raise ValueError(f"this {type(message).__name__} is against the protocol: {error.reason}") from None
    return body


def parse_control_untrusted(body: bytes | memoryview) -> ControlMessage | None:
    """One message; None for a kind that this version does not know, which the caller counts."""
    if len(body) > MAX_CONTROL:
        raise BadPacket("control length")
    array = schema.unpack_untrusted(body, MAX_DEPTH)
    if not array or type(array[0]) is not int:
        raise BadPacket("malformed fields")
    known = SCHEMA.get(array[0])
    if known is None:
        return None
    message, checks = known
    values = array[1 : 1 + len(checks)]
    if len(values) < len(checks):
        raise BadPacket("malformed fields")
    return message(*(check(value) for check, value in zip(checks, values, strict=True)))
