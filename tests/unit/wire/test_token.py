"""Tokens: one line of text that survives a person, or says what is wrong with it."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.values import BadPacket
from meshnode.wire.token import Token, parse_token_untrusted
from tests.unit.wire.samples import KEY, OTHER_KEY, TOKEN

TEXT = TOKEN.encode()
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)
hosts = st.sampled_from(["home.example", "192.0.2.1", "[2001:db8::1]", "a"])
endpoints = st.builds("{}:{}".format, hosts, st.integers(1, 0xFFFF))
keys = st.binary(min_size=32, max_size=32)


@settings(max_examples=60, deadline=None)
@given(
    token=st.builds(
        Token,
        keys,
        keys,
        st.binary(min_size=16, max_size=16),
        st.integers(0, 2**64 - 1),
        names,
        st.lists(endpoints, max_size=16).map(tuple),
    )
)
def test_tokens_come_back(token: Token) -> None:
    text = token.encode()
    assert text.isascii()
    assert text.isprintable()
    assert parse_token_untrusted(text) == token


def test_whitespace_around_it_is_ignored() -> None:
    assert parse_token_untrusted(f" \n\t{TEXT}\r\n") == TOKEN


def raw(token: Token) -> bytes:
    """The bytes inside a token."""
    text = token.encode()[3:]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def sealed(body: bytes) -> str:
    """A token with a right check, whatever is in it."""
    check = hashlib.blake2s(b"meshnode token" + body, digest_size=4).digest()
    return "mn1" + base64.urlsafe_b64encode(body + check).decode().rstrip("=")


BODY = raw(TOKEN)[:-4]


def test_the_layout_by_hand() -> None:
    name = b"\x04home"
    assert BODY[:81] == b"\x01" + KEY + OTHER_KEY + bytes(range(16))
    assert BODY[81:] == (1_800_000_000).to_bytes(8, "big") + name + b"\x02" + (
        b"\x11home.example:4655" + b"\x12[2001:db8::1]:4655"
    )
    assert sealed(BODY) == TEXT


@pytest.mark.parametrize(
    "text", ["", "mn", "hello", "MN1abc", "mn0" + TEXT[3:], "m n1", "http://mn1", "mn1" + "A" * 7000, "mnx"]
)
def test_what_is_not_a_token(text: str) -> None:
    with pytest.raises(BadPacket, match="not a token"):
        parse_token_untrusted(text)


@pytest.mark.parametrize("text", ["mn2" + TEXT[3:], "mn9", sealed(b"\x02" + BODY[1:]), sealed(b"\xff")])
def test_what_a_newer_program_made(text: str) -> None:
    with pytest.raises(BadPacket, match="token too new"):
        parse_token_untrusted(text)


def test_a_part_is_missing() -> None:
    for length in range(3, len(TEXT)):
        with pytest.raises(BadPacket, match="mistyped token"):
            parse_token_untrusted(TEXT[:length])


def test_any_other_character_in_any_place() -> None:
    for position in range(3, len(TEXT)):
        other = "A" if TEXT[position] != "A" else "B"
        for wrong in (other, "=", "+", "ä", " ", "\n", "\0"):
            with pytest.raises(BadPacket, match="mistyped token"):
                parse_token_untrusted(TEXT[:position] + wrong + TEXT[position + 1 :] + "A")
            if position < len(TEXT) - 1 or wrong not in " \n":
                with pytest.raises(BadPacket, match="mistyped token"):
                    parse_token_untrusted(TEXT[:position] + wrong + TEXT[position + 1 :])


def test_two_characters_change_places() -> None:
    for position in range(3, len(TEXT) - 1):
        pair = TEXT[position : position + 2]
        if pair[0] != pair[1]:
            with pytest.raises(BadPacket, match="mistyped token"):
                parse_token_untrusted(TEXT[:position] + pair[::-1] + TEXT[position + 2 :])


def test_stray_bits_in_the_last_character_are_a_mistake() -> None:
    text = next(t for t in (replace(TOKEN, name="x" * n).encode() for n in range(1, 4)) if len(t) % 4 != 3)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    neighbour = alphabet[alphabet.index(text[-1]) ^ 1]
    with pytest.raises(BadPacket, match="mistyped token"):
        parse_token_untrusted(text[:-1] + neighbour)


@pytest.mark.parametrize(
    "body",
    [
        b"\0" + BODY[1:],  # a version before the first
        b"\x01",
        BODY[:-1],
        BODY + b"\0",
        BODY.replace(b"home.example", b"home/example"),
        BODY.replace(b"home.example:4655", b"home.example;4655"),
        BODY.replace(b":4655", b":0655"),
        BODY.replace(b"\x11home.example:4655", b"\x12home.example:65536"),
        BODY.replace(b"[2001", b"]2001"),
        BODY.replace(b"\x04home", b"\x04h me"),
        BODY.replace(b"\x04home", b"\x04h\xc3\xb6m"),
        BODY.replace(b"\x04home", b"\x00"),
        BODY[:94] + b"\x11" + b"\x03a:1" * 17,
    ],
)
def test_what_has_a_right_check_and_a_wrong_content(body: bytes) -> None:
    with pytest.raises(BadPacket, match="malformed token"):
        parse_token_untrusted(sealed(body))


@pytest.mark.parametrize(
    "token",
    [
        replace(TOKEN, name="no blanks"),
        replace(TOKEN, name="ä"),
        replace(TOKEN, name="x" * 256),
        replace(TOKEN, endpoints=("home.example",)),
        replace(TOKEN, endpoints=("home.example:0",)),
        replace(TOKEN, endpoints=("2001:db8::1:4655",)),
        replace(TOKEN, endpoints=("a:1",) * 17),
        replace(TOKEN, endpoints=("a" * 300 + ":1",)),
        replace(TOKEN, secret=bytes(15)),
    ],
)
def test_nothing_is_encoded_that_a_joiner_would_refuse(token: Token) -> None:
    with pytest.raises(ValueError, match=r"."):
        token.encode()


def test_the_longest_token() -> None:
    longest = replace(TOKEN, name="x" * 63, endpoints=("a" * 249 + ":65535",) * 16)
    assert parse_token_untrusted(longest.encode()) == longest


def test_the_secret_is_not_shown() -> None:
    assert "secret" not in repr(TOKEN)
