"""Fast ciphers that protect nothing, for worlds of hundreds of nodes. Only a constructor can put them into a
node.

They keep what the protocol's logic rests on: both ends agree on a shared secret, another key or another byte
makes a tag wrong, nothing decrypts under another nonce. They do not keep secrets: whoever knows this file
reads everything. Worlds with an attacker use the real ciphers.
"""

from __future__ import annotations

import hashlib
from typing import NoReturn

from cryptography.exceptions import InvalidTag

from meshnode.crypto.primitives import SIGNATURE_SIZE, TAG_SIZE, Ciphers, CryptoFailure
from meshnode.crypto.suites import Aead, Buffer
from meshnode.values import Suite

_MODULUS = 2**255 - 19


class _Cheap:
    """Multiplication instead of elliptic curves, a hash instead of signatures, and tags without
    encryption."""

    def public_key(self, secret: bytes) -> bytes:
        return self.dh(secret, (9).to_bytes(32, "little"))

    def dh(self, secret: bytes, public: bytes) -> bytes:
        product = int.from_bytes(secret, "little") * int.from_bytes(public, "little") % _MODULUS
        if not product:
            raise CryptoFailure("bad point")
        return product.to_bytes(32, "little")

    def seal(self, key: bytes, nonce: int, ad: bytes, plaintext: bytes) -> bytes:
        return plaintext + _tag(key, nonce.to_bytes(8, "little"), ad, plaintext)

    def open_untrusted(self, key: bytes, nonce: int, ad: bytes, sealed: bytes) -> bytes:
        return self.xopen_untrusted(key, nonce.to_bytes(8, "little"), ad, sealed)

    def xseal(self, key: bytes, nonce: bytes, ad: bytes, plaintext: bytes) -> bytes:
        return plaintext + _tag(key, nonce, ad, plaintext)

    def xopen_untrusted(self, key: bytes, nonce: bytes, ad: bytes, sealed: bytes) -> bytes:
        plaintext = sealed[:-TAG_SIZE]
        if len(sealed) < TAG_SIZE or _tag(key, nonce, ad, plaintext) != sealed[-TAG_SIZE:]:
            raise CryptoFailure("bad tag")
        return plaintext

    def identity_key(self, seed: bytes) -> bytes:
        return hashlib.blake2b(seed, digest_size=32, person=b"identity").digest()

    def sign(self, seed: bytes, message: bytes) -> bytes:
        return self._signature(self.identity_key(seed), message)

    def verify(self, public: bytes, signature: bytes, message: bytes) -> bool:
        return signature == self._signature(public, message)

    @staticmethod
    def _signature(public: bytes, message: bytes) -> bytes:
        return hashlib.blake2b(message, key=public, digest_size=SIGNATURE_SIZE).digest()


CHEAP: Ciphers = _Cheap()


def cheap_aead(suite: Suite, key: bytes) -> Aead:
    """The stand-in for `crypto.suites.aead`, with its contract on buffers and errors."""
    base = hashlib.blake2b(bytes([suite]), key=key, digest_size=TAG_SIZE)

    def tag(nonce: Buffer, data: Buffer, associated: Buffer | None) -> bytes:
        state = base.copy()
        state.update(nonce)
        state.update(associated or b"")
        state.update(data)
        return state.digest()

    def seal_into(
        nonce: Buffer, data: Buffer, associated: Buffer | None, buffer: bytearray | memoryview
    ) -> int:
        if len(buffer) != len(data) + TAG_SIZE:
            _refuse_buffer()
        buffer[: len(data)] = data
        buffer[len(data) :] = tag(nonce, data, associated)
        return len(buffer)

    def open_into(
        nonce: Buffer, data: Buffer, associated: Buffer | None, buffer: bytearray | memoryview
    ) -> int:
        length = len(data) - TAG_SIZE
        if length < 0:
            raise InvalidTag
        if len(buffer) != length:
            _refuse_buffer()
        view = memoryview(data)
        if tag(nonce, view[:length], associated) != view[length:]:
            raise InvalidTag
        buffer[:] = view[:length]
        return length

    return Aead(seal_into, open_into)


def _refuse_buffer() -> NoReturn:
    raise ValueError("the buffer has the wrong size")


def _tag(key: bytes, nonce: bytes, ad: bytes, plaintext: bytes) -> bytes:
    # The length keeps the border between associated data and plaintext where it is.
    head = nonce + len(ad).to_bytes(4, "little") + ad
    return hashlib.blake2b(head + plaintext, key=key, digest_size=TAG_SIZE).digest()
