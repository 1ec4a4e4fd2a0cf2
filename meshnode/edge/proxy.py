"""Asking a proxy for a connection: HTTP CONNECT (RFC 9110, 9.3.6) and SOCKS5 (RFC 1928, passwords by RFC 1929).

No I/O: a dialogue is fed with what the proxy sent and says what to answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


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


def parse_proxy(text: str) -> Proxy:
    """`http://host:port` or `socks5://user:password@host:port`. Raises ValueError with what is wrong."""
    raise NotImplementedError
