"""The table of data AEADs (docs/protocol.md, Suites). A new one is a number in values.Suite and a row here.

Sealing and opening are the bound methods of the cipher object, because a Python function around them would
cost a good part of the call. What they do on bad input is written at `Aead`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cryptography.exceptions import InvalidTag as InvalidTag
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from meshnode.crypto.primitives import TAG_SIZE, CryptoFailure, keyed_hash
from meshnode.values import SECOND, Nanos, Suite

Buffer = bytes | bytearray | memoryview
Into = Callable[[Buffer, Buffer, Buffer | None, bytearray | memoryview], int]

KEY_SIZE = 32
NONCE_SIZE = 12

_NONCE_PREFIX = bytes(4)
_SAMPLE_SIZE = 1420
_SAMPLE_BATCH = 32


@dataclass(frozen=True, slots=True)
class SuiteSpec:
    """One row of the table: after how many datagrams of one key a new one is wanted, and needed."""

    number: Suite
    name: str
    rekey_after: int
    reject_after: int
    cipher: Callable[[bytes], AESGCM | ChaCha20Poly1305]


SUITES: Mapping[Suite, SuiteSpec] = {
    spec.number: spec
    for spec in (
        # The limits of WireGuard's whitepaper, section 6.
        SuiteSpec(Suite.CHACHA20_POLY1305, "chacha20-poly1305", 2**60, 2**64 - 2**13 - 1, ChaCha20Poly1305),
        # RFC 9001, appendix B.1.1: with packets of up to 2^16 bytes, an advantage of 2^-60 at most.
        SuiteSpec(Suite.AES_256_GCM, "aes-256-gcm", 2**23, 2**24, AESGCM),
    )
}


class Aead(NamedTuple):
    """The two calls of one key: `(nonce 12, data, associated data, buffer) -> bytes written`.

    `seal_into` needs a buffer of exactly len(data) + 16, `open_into` one of exactly len(data) - 16; another
    size is a ValueError, a bug of the caller. `open_into` raises InvalidTag, exported here, for a wrong tag
    and for data shorter than a tag; the buffer then holds garbage that nobody may look at. Views and
    bytearrays will do everywhere.
    """

    seal_into: Into
    open_into: Into


def aead(suite: Suite, key: bytes) -> Aead:
    """The cipher of `suite` under a key of 32 bytes."""
    cipher = SUITES[suite].cipher(key)
    return Aead(cipher.encrypt_into, cipher.decrypt_into)


def nonce(counter: int) -> bytes:
    """Four zero bytes and the counter, big-endian."""
    return _NONCE_PREFIX + counter.to_bytes(8, "big")


def seal(cipher: Aead, counter: int, associated: Buffer, plaintext: Buffer) -> bytes:
    """The sealed plaintext in a buffer of its own, for where speed does not matter."""
    buffer = bytearray(len(plaintext) + TAG_SIZE)
    cipher.seal_into(nonce(counter), plaintext, associated, buffer)
    return bytes(buffer)


def open_untrusted(cipher: Aead, counter: int, associated: Buffer, sealed: Buffer) -> bytes:
    """The plaintext, for where speed does not matter. Raises CryptoFailure (a BadPacket)."""
    if len(sealed) < TAG_SIZE:
        raise CryptoFailure("bad tag")
    buffer = bytearray(len(sealed) - TAG_SIZE)
    try:
        cipher.open_into(nonce(counter), sealed, associated, buffer)
    except InvalidTag:
        raise CryptoFailure("bad tag") from None
    return bytes(buffer)


def data_key(key: bytes, suite: Suite, handshake_hash: bytes) -> bytes:
    """The data key of one direction, from a Noise key: bound to the suite and the whole handshake."""
    return keyed_hash(key, b"meshnode data" + bytes([suite]) + handshake_hash, KEY_SIZE)


def available() -> tuple[Suite, ...]:
    """The suites that the installed library has."""
    return tuple(suite for suite in SUITES if _works(suite))


def measure(suite: Suite, clock: Callable[[], Nanos], seconds: float) -> float:
    """Packets of 1,420 bytes that `suite` seals in a second, tried for about `seconds` by `clock`."""
    cipher = aead(suite, bytes(KEY_SIZE))
    sample, buffer = bytes(_SAMPLE_SIZE), bytearray(_SAMPLE_SIZE + TAG_SIZE)
    start = clock()
    end = start + int(seconds * SECOND)
    sealed = 0
    while True:
        for _ in range(_SAMPLE_BATCH):
            # The same nonce each time: the key is public, and nothing of it leaves this function.
            cipher.seal_into(bytes(NONCE_SIZE), sample, None, buffer)
        sealed += _SAMPLE_BATCH
        now = clock()
        if now >= end:
            return sealed * SECOND / max(now - start, 1)


def preference(measured: Mapping[Suite, float]) -> tuple[Suite, ...]:
    """The suites to offer, fastest first.

    AES is left out unless it is the faster one: without AES hardware it is slow, and its table lookups leak
    time.
    """
    chacha = Suite.CHACHA20_POLY1305
    speed = {chacha: 0.0, **measured}
    faster = [suite for suite in speed if suite is not chacha and speed[suite] > speed[chacha]]
    faster.sort(key=lambda suite: (-speed[suite], suite))
    return (*faster, chacha)


def _works(suite: Suite) -> bool:
    try:
        aead(suite, bytes(KEY_SIZE))
    except UnsupportedAlgorithm:
        return False
    return True
