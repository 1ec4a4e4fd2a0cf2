"""The token: one line that a person carries from inviter to joiner (docs/protocol.md, Enrolment)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field

from meshnode.values import BadPacket
from meshnode.wire.cursor import Cursor
from meshnode.wire.statement import valid_name

TOKEN_VERSION = 1
SECRET_SIZE = 16
MAX_ENDPOINTS = 16
MAX_TEXT = 6000
"""Characters of a token: 16 endpoints of 255 bytes need 5,700."""

_PREFIX = "mn1"
_NEWER = re.compile(r"mn[2-9]", re.ASCII)
_CHECK_SIZE = 4
_ENDPOINT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([1-9][0-9]{0,4})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Token:
    """What a joiner needs.

    The network's id (32) and name, the inviter's static key (32), the secret (16), the expiry (s since 1970),
    and where the inviter listens: `host:port`, the host a name or an address, IPv6 in brackets.
    """

    network_id: bytes
    static: bytes
    secret: bytes = field(repr=False)
    expires: int
    name: str
    endpoints: tuple[str, ...]

    def encode(self) -> str:
        """The token as text. Raises ValueError where a joiner would refuse it: a bad name or endpoint."""
        body = _pack(self)
        text = _PREFIX + base64.urlsafe_b64encode(body + _check(body)).decode().rstrip("=")
        try:
            parse_token_untrusted(text)
        except BadPacket as error:
            raise ValueError(f"this token is against the protocol: {error.reason}") from None
        return text


def parse_token_untrusted(text: str) -> Token:
    """The token in `text`, whitespace around it ignored.

    The reason is "not a token", "mistyped token" (a character is wrong or missing), "token too new", or
    "malformed token" (its check is right, its content is not).
    """
    text = text.strip()
    if _NEWER.match(text):
        raise BadPacket("token too new")
    if not text.startswith(_PREFIX):
        raise BadPacket("not a token")
    body = _checked_body(text[len(_PREFIX) :])
    if body[0] != TOKEN_VERSION:
        raise BadPacket("token too new" if body[0] > TOKEN_VERSION else "malformed token")
    try:
        token = _parse(Cursor(body[1:]))
    except BadPacket:
        raise BadPacket("malformed token") from None
    if not valid_name(token.name) or not all(map(_valid_endpoint, token.endpoints)):
        raise BadPacket("malformed token")
    return token


def _checked_body(encoded: str) -> bytes:
    """The bytes before the check, which holds. One body has one encoding: stray bits are a mistake."""
    if len(encoded) > MAX_TEXT:
        raise BadPacket("not a token")
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise BadPacket("mistyped token") from None
    body, check = data[:-_CHECK_SIZE], data[-_CHECK_SIZE:]
    canonical = base64.urlsafe_b64encode(data).decode().rstrip("=")
    if not body or check != _check(body) or canonical != encoded:
        raise BadPacket("mistyped token")
    return body


def _check(body: bytes) -> bytes:
    return hashlib.blake2s(b"meshnode token" + body, digest_size=_CHECK_SIZE).digest()


def _pack(token: Token) -> bytes:
    texts = [_short(endpoint) for endpoint in token.endpoints]
    return b"".join(
        (
            bytes([TOKEN_VERSION]),
            token.network_id,
            token.static,
            token.secret,
            token.expires.to_bytes(8, "big"),
            _short(token.name),
            bytes([len(texts)]),
            *texts,
        )
    )


def _short(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > 255:
        raise ValueError("a name or endpoint is longer than 255 bytes")
    return bytes([len(encoded)]) + encoded


def _parse(cursor: Cursor) -> Token:
    network_id, static, secret = cursor.take(32), cursor.take(32), cursor.take(SECRET_SIZE)
    # Latin-1 decodes any byte; what is not ASCII then fails as a name or endpoint.
    expires, name = cursor.integer(8), cursor.short().decode("latin-1")
    count = cursor.integer(1)
    if count > MAX_ENDPOINTS:
        raise BadPacket("malformed token")
    endpoints = tuple(cursor.short().decode("latin-1") for _ in range(count))
    if cursor.remaining:
        raise BadPacket("malformed token")
    return Token(network_id, static, secret, expires, name, endpoints)


def _valid_endpoint(text: str) -> bool:
    match = _ENDPOINT.fullmatch(text)
    return match is not None and int(match[2]) <= 0xFFFF
