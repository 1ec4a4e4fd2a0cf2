"""Asking a proxy for a connection: HTTP CONNECT (RFC 9110, 9.3.6) and SOCKS5 (RFC 1928, passwords by RFC 1929).

No I/O: a dialogue is fed with what the proxy has sent and says what to answer.
"""

from __future__ import annotations

import base64
import re
import socket
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import unquote, urlsplit

from meshnode.values import BadPacket, Endpoint

MAX_REPLY = 8 * 1024
"""Bytes that a proxy may say before it has to be done."""

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (?P<code>[0-9]{3})[^\r\n]*\r?\n")
_HEADERS_END = re.compile(rb"\r?\n\r?\n")

_VERSION = 5
_NO_AUTHENTICATION, _PASSWORD = 0, 2
_CONNECT = 1
_IPV4, _DOMAIN, _IPV6 = 1, 3, 4
_REPLIES = {
    1: "it failed",
    2: "its rules do not allow it",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "it took too long",
    7: "it cannot connect for others",
    8: "it does not have this address family",
}


class ProxyKind(Enum):
    """The scheme of the proxy's URL."""

    HTTP = "http"
    SOCKS5 = "socks5"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy for dialling TCP. `host` may be a name: `TcpTransport` wants it resolved. `repr` shows no password."""

    kind: ProxyKind
    host: str
    port: int
    username: str = ""
    password: str = field(default="", repr=False)


class ProxyRefused(BadPacket):
    """The proxy does not give us the connection. `text` says why, for people."""

    def __init__(self, text: str) -> None:
        super().__init__("tcp proxy refused")
        self.text = text


def parse_proxy(text: str) -> Proxy:
    """`http://host:port` or `socks5://user:password@host:port`. Raises ValueError, which does not repeat the text."""
    example = 'must be like "http://proxy.example:3128" or "socks5://user:password@[2001:db8::1]:1080"'
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname
        kind = ProxyKind(parts.scheme)
    except ValueError:
        raise ValueError(example) from None
    if not host or not port or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(example)
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    if max(len(username.encode()), len(password.encode())) > 255 or ":" in username:
        raise ValueError("user and password have at most 255 bytes each, and the user no colon")
    if password and not username:
        raise ValueError("has a password but no user")
    return Proxy(kind, host, port, username, password)


class ProxyDialogue(ABC):
    """One request for a connection. Send `greeting`, then whatever each `feed_untrusted` returns.

    When `done` the connection is a tunnel, and `surplus` is what its far end has already said.
    """

    greeting: bytes

    def __init__(self) -> None:
        self.done = False
        self._unread = b""
        self._heard = 0

    @property
    def surplus(self) -> bytes:
        return self._unread if self.done else b""

    def feed_untrusted(self, data: bytes) -> bytes:
        """What to answer, maybe nothing. Raises ProxyRefused, a BadPacket: hang up."""
        self._heard += len(data)
        self._unread += data
        answer = b""
        while not self.done and (said := self._step()) is not None:
            answer += said
        if not self.done and self._heard > MAX_REPLY:
            raise ProxyRefused("it says too much")
        return answer

    @abstractmethod
    def _step(self) -> bytes | None:
        """Read one message and return the answer, empty for none; None while it is not all there."""

    def _take(self, size: int) -> bytes:
        taken, self._unread = self._unread[:size], self._unread[size:]
        return taken


class HttpConnect(ProxyDialogue):
    """HTTP/1.1 CONNECT, with Basic credentials (RFC 7617) where the proxy has a user."""

    def __init__(self, proxy: Proxy, target: Endpoint) -> None:
        super().__init__()
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if proxy.username:
            credentials = f"{proxy.username}:{proxy.password}".encode()
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(credentials).decode()}")
        self.greeting = "\r\n".join([*lines, "", ""]).encode()

    def _step(self) -> bytes | None:
        end = _HEADERS_END.search(self._unread)
        if end is None:
            return None
        status = _STATUS_LINE.match(self._take(end.end()))
        if status is None:
            raise ProxyRefused("it does not speak HTTP")
        code = status["code"].decode()
        if code.startswith("1"):
            return b""  # an interim answer: the real one follows
        if not code.startswith("2"):
            raise ProxyRefused(
                f"it answers {code}" + (": it wants a user and password" if code == "407" else "")
            )
        self.done = True
        return b""


class Socks5(ProxyDialogue):
    """SOCKS5 CONNECT to a numeric address, without authentication or with user and password."""

    def __init__(self, proxy: Proxy, target: Endpoint) -> None:
        super().__init__()
        methods = bytes([_NO_AUTHENTICATION, _PASSWORD] if proxy.username else [_NO_AUTHENTICATION])
        self.greeting = bytes([_VERSION, len(methods)]) + methods
        self._methods = methods
        user, password = proxy.username.encode(), proxy.password.encode()
        self._login = b"".join([bytes([1, len(user)]), user, bytes([len(password)]), password])
        self._request = bytes([_VERSION, _CONNECT, 0]) + _socks_address(target)
        self._read = self._read_method

    def _step(self) -> bytes | None:
        return self._read()

    def _read_method(self) -> bytes | None:
        if len(self._unread) < 2:
            return None
        version, method = self._take(2)
        if version != _VERSION:
            raise ProxyRefused("it does not speak SOCKS5")
        if method not in self._methods:
            raise ProxyRefused("it wants another way to log in")
        if method == _PASSWORD:
            self._read = self._read_login
            return self._login
        self._read = self._read_reply
        return self._request

    def _read_login(self) -> bytes | None:
        if len(self._unread) < 2:
            return None
        _, status = self._take(2)
        if status != 0:
            raise ProxyRefused("it does not accept this user and password")
        self._read = self._read_reply
        return self._request

    def _read_reply(self) -> bytes | None:
        if len(self._unread) < 5:
            return None
        version, reply, _, kind, first = self._unread[:5]
        if version != _VERSION:
            raise ProxyRefused("it does not speak SOCKS5")
        if reply != 0:
            raise ProxyRefused(_REPLIES.get(reply, f"it answers {reply}"))
        address = {_IPV4: 4, _IPV6: 16, _DOMAIN: 1 + first}.get(kind)
        if address is None:
            raise ProxyRefused("it does not speak SOCKS5")
        if len(self._unread) < 4 + address + 2:
            return None
        self._take(4 + address + 2)
        self.done = True
        return b""


def open_dialogue(proxy: Proxy, target: Endpoint) -> ProxyDialogue:
    """The dialogue that asks `proxy` for a connection to `target`, a numeric endpoint."""
    kind = HttpConnect if proxy.kind is ProxyKind.HTTP else Socks5
    return kind(proxy, target)


def _socks_address(target: Endpoint) -> bytes:
    v6 = ":" in target.host
    packed = socket.inet_pton(socket.AF_INET6 if v6 else socket.AF_INET, target.host.partition("%")[0])
    return bytes([_IPV6 if v6 else _IPV4]) + packed + target.port.to_bytes(2, "big")
