"""Dialogues with a proxy, whole and byte by byte; what a proxy may say that is wrong; the setting's text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.edge.proxy import (
    MAX_REPLY,
    Proxy,
    ProxyDialogue,
    ProxyKind,
    ProxyRefused,
    open_dialogue,
    parse_proxy,
)
from meshnode.values import Endpoint

V4 = Endpoint("198.51.100.7", 4655)
V6 = Endpoint("2001:db8::7", 4655)
HTTP = Proxy(ProxyKind.HTTP, "192.0.2.1", 3128)
SOCKS = Proxy(ProxyKind.SOCKS5, "192.0.2.1", 1080)
WITH_USER = Proxy(ProxyKind.SOCKS5, "192.0.2.1", 1080, "me", "secret")
REPLY = bytes([5, 0, 0, 1, 10, 0, 0, 1, 0, 80])


def converse(dialogue: ProxyDialogue, words: bytes, piece: int) -> bytes:
    """Feed `words` in pieces; everything that was answered."""
    return b"".join(dialogue.feed_untrusted(words[at : at + piece]) for at in range(0, len(words), piece))


@pytest.mark.parametrize("piece", [1, 1000])
@pytest.mark.parametrize(("target", "text"), [(V4, "198.51.100.7:4655"), (V6, "[2001:db8::7]:4655")])
def test_http_connect(target: Endpoint, text: str, piece: int) -> None:
    dialogue = open_dialogue(HTTP, target)
    assert dialogue.greeting == f"CONNECT {text} HTTP/1.1\r\nHost: {text}\r\n\r\n".encode()
    words = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 Connection established\r\nVia: a\r\n\r\n"
    assert converse(dialogue, words, piece) == b""
    assert dialogue.done
    assert dialogue.surplus == b""


def test_http_credentials() -> None:
    dialogue = open_dialogue(Proxy(ProxyKind.HTTP, "192.0.2.1", 3128, "Aladdin", "open sesame"), V4)
    assert b"\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n" in dialogue.greeting


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "403"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "user and password"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "HTTP"),
        (b"HTTP/1.1 2", None),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * MAX_REPLY, "too much"),
    ],
)
def test_http_refusals(words: bytes, text: str | None) -> None:
    dialogue = open_dialogue(HTTP, V4)
    if text is None:
        assert dialogue.feed_untrusted(words) == b""
    else:
        with pytest.raises(ProxyRefused) as refused:
            dialogue.feed_untrusted(words)
        assert text in refused.value.text
    assert not dialogue.done


@pytest.mark.parametrize("piece", [1, 1000])
def test_socks_without_a_user(piece: int) -> None:
    dialogue = open_dialogue(SOCKS, V4)
    assert dialogue.greeting == bytes([5, 1, 0])
    request = bytes([5, 1, 0, 1, 198, 51, 100, 7]) + (4655).to_bytes(2, "big")
    assert converse(dialogue, bytes([5, 0]) + REPLY, piece) == request
    assert dialogue.done


@pytest.mark.parametrize("piece", [1, 1000])
@pytest.mark.parametrize("bound", [bytes([4]) + bytes(16), bytes([3, 4]) + b"here"])
def test_socks_with_user_and_password(piece: int, bound: bytes) -> None:
    dialogue = open_dialogue(WITH_USER, V6)
    assert dialogue.greeting == bytes([5, 2, 0, 2])
    words = bytes([5, 2]) + bytes([1, 0]) + bytes([5, 0, 0]) + bound + bytes(2)
    request = (
        bytes([5, 1, 0, 4]) + bytes.fromhex("20010db8000000000000000000000007") + (4655).to_bytes(2, "big")
    )
    assert converse(dialogue, words, piece) == bytes([1, 2]) + b"me" + bytes([6]) + b"secret" + request
    assert dialogue.done


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (bytes([4, 0]), "SOCKS5"),
        (bytes([5, 0xFF]), "log in"),
        (bytes([5, 2]), "log in"),
        (bytes([5, 0, 5, 2, 0, 1, 0]), "rules"),
        (bytes([5, 0, 5, 77, 0, 1, 0]), "77"),
        (bytes([5, 0, 4, 0, 0, 1, 0]), "SOCKS5"),
        (bytes([5, 0, 5, 0, 0, 9, 0]), "SOCKS5"),
    ],
)
def test_socks_refusals(words: bytes, text: str) -> None:
    dialogue = open_dialogue(SOCKS, V4)
    with pytest.raises(ProxyRefused) as refused:
        converse(dialogue, words, 1000)
    assert text in refused.value.text
    assert not dialogue.done


def test_socks_refuses_a_wrong_password() -> None:
    with pytest.raises(ProxyRefused, match="refused"):
        converse(open_dialogue(WITH_USER, V4), bytes([5, 2, 1, 1]), 1000)


@pytest.mark.parametrize(
    ("proxy", "words"), [(HTTP, b"HTTP/1.1 200 OK\r\n\r\n"), (SOCKS, bytes([5, 0]) + REPLY)]
)
def test_what_the_far_end_says_early_is_kept(proxy: Proxy, words: bytes) -> None:
    dialogue = open_dialogue(proxy, V4)
    dialogue.feed_untrusted(words + b"\0\3abc")
    assert dialogue.done
    assert dialogue.surplus == b"\0\3abc"


@settings(max_examples=80)
@given(st.sampled_from([HTTP, SOCKS, WITH_USER]), st.lists(st.binary(max_size=64), max_size=8))
def test_whatever_a_proxy_says_it_is_understood_or_refused(proxy: Proxy, pieces: list[bytes]) -> None:
    dialogue = open_dialogue(proxy, V6)
    try:
        for piece in pieces:
            dialogue.feed_untrusted(piece)
    except ProxyRefused:
        assert not dialogue.done


def test_the_text_of_the_setting() -> None:
    assert parse_proxy("http://proxy.example:3128") == Proxy(ProxyKind.HTTP, "proxy.example", 3128)
    assert parse_proxy("http://192.0.2.1:3128/").host == "192.0.2.1"
    assert parse_proxy("socks5://me:s%40cret@[2001:db8::1]:1080") == Proxy(
        ProxyKind.SOCKS5, "2001:db8::1", 1080, "me", "s@cret"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "proxy.example:3128",
        "http://proxy.example",
        "http://:3128",
        "https://proxy.example:3128",
        "socks4://proxy.example:3128",
        "http://proxy.example:70000",
        "http://proxy.example:3128/path",
        "http://proxy.example:3128?x=1",
        "http://[::1:3128",
        "socks5://:secret@proxy.example:1080",
        f"socks5://me:{'secret' * 50}@proxy.example:1080",
        "http://a%3Ab:secret@proxy.example:3128",
    ],
)
def test_texts_that_are_no_proxy(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|have|has") as error:
        parse_proxy(text)
    assert "secret" not in str(error.value)


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(WITH_USER)
