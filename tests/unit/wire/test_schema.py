"""Strict msgpack: what is refused before any schema looks at it, and what each field lets pass."""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.values import BadPacket
from meshnode.wire import schema

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=9)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


def depth(value: object) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 0


@settings(max_examples=100, deadline=None)
@given(value=st.lists(plain, max_size=4), limit=st.integers(1, 6))
def test_plain_values_up_to_a_depth(value: list[Any], limit: int) -> None:
    packed = schema.pack(value)
    if depth(value) <= limit:
        assert schema.unpack_untrusted(packed, limit) == value
    else:
        with pytest.raises(BadPacket, match="malformed msgpack"):
            schema.unpack_untrusted(packed, limit)


def nested(levels: int) -> bytes:
    return b"\x91" * levels + b"\xc0"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x91",  # cut short
        b"\x90\x90",  # something after the array
        b"\xc1",  # a byte that msgpack never uses
        nested(5),
        nested(600),
        nested(100_000),
        b"\x91\xcb" + bytes(8),  # a double
        b"\x91\xca\x7f\xc0\x00\x00",  # NaN
        b"\x91\xd4\x01\x00",  # an extension type
        b"\x91" + msgpack.packb(msgpack.Timestamp(1, 2)),
        b"\x91\xd6\xff" + bytes(3),  # half a timestamp
        b"\x91\xc7\x03\xff" + bytes(3),  # a timestamp of a length that none has
        b"\x91\x82\xa1a\x01\xa1a\x02",  # a key twice
        b"\x91\x82\xa1a\x01\xc4\x01a",  # cut short in a map
        b"\x91\x81\x01\x01",  # a key that is a number
        b"\x91\x81\x90\x01",  # a key that is an array
        b"\x91\xa1\xff",  # text that is not UTF-8
        b"\x91\xdd\xff\xff\xff\xff",  # four thousand million elements
        b"\x91\xc6\xff\xff\xff\xff",  # as many bytes
    ],
)
def test_what_msgpack_itself_would_let_pass_or_choke_on(data: bytes) -> None:
    with pytest.raises(BadPacket, match="malformed msgpack"):
        schema.unpack_untrusted(data, 4)


@pytest.mark.parametrize("data", [b"\xc0", b"\x05", b"\xa1a", b"\x80", b"\xc3"])
def test_only_an_array_is_a_message(data: bytes) -> None:
    with pytest.raises(BadPacket, match="malformed fields"):
        schema.unpack_untrusted(data, 4)


def test_numbers_that_do_not_fit_are_not_packed() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        schema.pack([2**64])


pair = schema.structure(lambda *values: values, schema.integer(0, 9), schema.text(3))


@pytest.mark.parametrize(
    ("field", "good"),
    [
        (schema.binary(2), b"ab"),
        (schema.binary(1, 3), b"abc"),
        (schema.integer(1, 5), 5),
        (schema.integer(), 2**64 - 1),
        (schema.text(3), "äöü"),
        (schema.text(3, str.isdigit), "123"),
        (schema.boolean, False),
        (schema.optional(schema.boolean), None),
        (schema.optional(schema.boolean), True),
    ],
)
def test_values_that_pass(field: schema.Field[Any], good: object) -> None:
    assert field(good) == good


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        (schema.binary(2), b"a"),
        (schema.binary(2), b"abc"),
        (schema.binary(1, 3), b""),
        (schema.binary(1, 3), b"abcd"),
        (schema.binary(1, 3), "ab"),
        (schema.integer(1, 5), 0),
        (schema.integer(1, 5), 6),
        (schema.integer(), -1),
        (schema.integer(), True),
        (schema.integer(), "1"),
        (schema.text(3), "abcd"),
        (schema.text(3), b"ab"),
        (schema.text(9), "a\nb"),
        (schema.text(9), "a\x1b[2J"),
        (schema.text(9), "a\u202eb"),
        (schema.text(3, str.isdigit), "12a"),
        (schema.boolean, 1),
        (schema.boolean, None),
        (schema.optional(schema.boolean), 0),
        (schema.each(schema.boolean, 2), [True, True, True]),
        (schema.each(schema.boolean, 2), [1]),
        (schema.each(schema.boolean, 2), {}),
        (pair, [1]),
        (pair, [1, "a", 2]),
        (pair, ["a", 1]),
        (pair, None),
    ],
)
def test_values_that_do_not(field: schema.Field[Any], bad: object) -> None:
    with pytest.raises(BadPacket, match="malformed fields"):
        field(bad)


def test_arrays_become_tuples() -> None:
    assert schema.each(pair, 2)([[1, "a"], [2, "b"]]) == ((1, "a"), (2, "b"))
