"""Control messages: they come back, and what is against the schema does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.values import BadPacket
from meshnode.wire import schema
from meshnode.wire.control import (
    MAX_CONTROL,
    SCHEMA,
    Buckets,
    ControlMessage,
    Digest,
    EnrolledAnswer,
    GoodbyeMessage,
    Redeem,
    Refused,
    Statements,
    Summary,
    Want,
    pack_control,
    parse_control_untrusted,
)
from tests.unit.wire.samples import CONTROLS, KEY, NO_SIGNATURE

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)
printable = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=100)
key16, key32 = st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32)
shorts = st.lists(st.binary(min_size=8, max_size=8), max_size=100).map(tuple)
lists = st.lists(st.binary(min_size=99, max_size=250), max_size=4).map(tuple)
messages: st.SearchStrategy[ControlMessage] = st.one_of(
    st.builds(Redeem, key16, key32, st.binary(min_size=64, max_size=64), names, st.booleans()),
    st.builds(EnrolledAnswer, lists),
    st.builds(Refused, printable.map(lambda text: text[:32]), printable),
    st.builds(Digest, key16, st.integers(0, 2**32 - 1)),
    st.builds(Statements, lists),
    st.builds(GoodbyeMessage, printable),
    st.builds(Buckets, shorts),
    st.builds(Summary, st.integers(0, 31), shorts),
    st.builds(Want, shorts),
)


@settings(max_examples=100, deadline=None)
@given(message=messages)
def test_messages_come_back(message: ControlMessage) -> None:
    assert parse_control_untrusted(pack_control(message)) == message


def test_every_kind_has_a_sample() -> None:
    assert [type(message) for message in CONTROLS] == [message for message, _ in SCHEMA.values()]


def test_the_layout_is_an_array_that_begins_with_the_kind() -> None:
    assert pack_control(GoodbyeMessage("bye")) == b"\x92\x06\xa3bye"
    assert pack_control(Digest(bytes(16), 7)) == b"\x93\x04\xc4\x10" + bytes(16) + b"\x07"


@pytest.mark.parametrize("kind", [0, 200, 2**40, -1])
def test_an_unknown_kind_is_nothing(kind: int) -> None:
    assert parse_control_untrusted(schema.pack([kind, "whatever", {"a": [1]}])) is None


def test_newer_fields_are_ignored() -> None:
    assert parse_control_untrusted(schema.pack([6, "bye", 5, {"a": [None]}])) == GoodbyeMessage("bye")


@pytest.mark.parametrize(
    "array",
    [
        [],
        ["6", "bye"],
        [True, b""],
        [None],
        [6],
        [6, b"bye"],
        [6, "x" * 201],
        [6, "two\nlines"],
        [4, bytes(15), 1],
        [4, bytes(16), -1],
        [4, bytes(16), 2**32],
        [4, bytes(16), True],
        [5, bytes(99)],
        [5, [bytes(98)]],
        [5, [bytes(513)]],
        [5, [bytes(99)] * 9 + ["text"]],
        [5, {}],
        [3, "x" * 33, ""],
        [7, [bytes(7)]],
        [8, 64, []],
        [9, [bytes(8)] * 101],
        [1, bytes(16), KEY, NO_SIGNATURE, "../../etc", True],
        [1, bytes(16), KEY, NO_SIGNATURE, "", True],
        [1, bytes(16), KEY, NO_SIGNATURE, "name", 1],
        [1, bytes(16), KEY, NO_SIGNATURE, "name"],
        [1, bytes(17), KEY, NO_SIGNATURE, "name", True],
        [1, bytes(16), KEY[1:], NO_SIGNATURE, "name", True],
        [1, bytes(16), KEY, NO_SIGNATURE[1:], "name", True],
    ],
)
def test_fields_that_are_against_the_schema(array: list[Any]) -> None:
    with pytest.raises(BadPacket, match="malformed fields"):
        parse_control_untrusted(schema.pack(array))


def test_the_greatest_message() -> None:
    exact = schema.pack([200, bytes(MAX_CONTROL - 6)])
    assert len(exact) == MAX_CONTROL
    assert parse_control_untrusted(exact) is None
    with pytest.raises(BadPacket, match="control length"):
        parse_control_untrusted(schema.pack([200, bytes(MAX_CONTROL - 5)]))


@pytest.mark.parametrize("array", [[200, 1.5], [200, [[[[]]]]], [6, "bye", {"a": {"b": {"c": {}}}}]])
def test_depth_and_types_hold_for_what_is_ignored_too(array: list[Any]) -> None:
    with pytest.raises(BadPacket, match="malformed msgpack"):
        parse_control_untrusted(schema.pack(array))


@pytest.mark.parametrize(
    "message",
    [
        GoodbyeMessage("x" * 201),
        GoodbyeMessage("a\nb"),
        Refused("x" * 33, ""),
        Digest(bytes(15), 0),
        Statements((bytes(400),) * 4),
        Redeem(bytes(16), KEY, NO_SIGNATURE, "no blanks", False),
    ],
)
def test_nothing_is_packed_that_the_other_side_would_refuse(message: ControlMessage) -> None:
    with pytest.raises(ValueError, match="against the protocol"):
        pack_control(message)


def test_the_secret_is_not_shown() -> None:
    assert "secret" not in repr(CONTROLS[0])
