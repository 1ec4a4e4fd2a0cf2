"""The primitives of the handshake behind one small interface, and BLAKE2s, HMAC and HKDF.

`Ciphers` exists so that the simulator can run ten thousand handshakes in a second with a cheap stand-in of
its own; the product only ever uses `SODIUM`. Sizes in bytes: keys, X25519 results and seeds 32, signatures
64, tags 16.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Protocol

from nacl import bindings, exceptions

from meshnode.values import BadPacket

KEY_SIZE = 32
TAG_SIZE = 16
SIGNATURE_SIZE = 64


class CryptoFailure(BadPacket):
    """A tag, a point or a size is wrong. Callers that only know BadPacket need not know this."""


class Ciphers(Protocol):
    """X25519, ChaCha20-Poly1305, XChaCha20-Poly1305 and Ed25519.

    Arguments are bytes: a view counts as a wrong one. Whatever a peer sent may be handed to `dh`,
    `open_untrusted`, `xopen_untrusted` and `verify`; all but `verify`, which answers, raise CryptoFailure.
    """

    def public_key(self, secret: bytes) -> bytes:
        """The X25519 public key of a secret (RFC 7748)."""
        ...

    def dh(self, secret: bytes, public: bytes) -> bytes:
        """The X25519 shared secret. A point of low order, whose result would be zero, is refused."""
        ...

    def seal(self, key: bytes, nonce: int, ad: bytes, plaintext: bytes) -> bytes:
        """Noise's ChaChaPoly: nonce is 32 zero bits and a little-endian 64-bit counter (Noise, 12.3)."""
        ...

    def open_untrusted(self, key: bytes, nonce: int, ad: bytes, sealed: bytes) -> bytes:
        """The plaintext of what `seal` made."""
        ...

    def xseal(self, key: bytes, nonce: bytes, ad: bytes, plaintext: bytes) -> bytes:
        """XChaCha20-Poly1305 under a random 24-byte nonce."""
        ...

    def xopen_untrusted(self, key: bytes, nonce: bytes, ad: bytes, sealed: bytes) -> bytes:
        """The plaintext of what `xseal` made."""
        ...

    def identity_key(self, seed: bytes) -> bytes:
        """The Ed25519 public key of a seed (RFC 8032)."""
        ...

    def sign(self, seed: bytes, message: bytes) -> bytes:
        """An Ed25519 signature by the key of this seed."""
        ...

    def verify(self, public: bytes, signature: bytes, message: bytes) -> bool:
        """Whether this is the signature, strictly: no malleable signature, no public key of low order."""
        ...


# Everything that the bindings raise for bad input: classes of their own, and here and there a built-in one.
_SODIUM_ERRORS = (exceptions.CryptoError, ValueError, TypeError, RuntimeError)


class _Sodium:
    """Ciphers by libsodium."""

    # The bindings for X25519 and for signatures hand over pointers without looking at lengths: we have to.

    def public_key(self, secret: bytes) -> bytes:
        _check_secret(secret)
        return bindings.crypto_scalarmult_base(secret)

    def dh(self, secret: bytes, public: bytes) -> bytes:
        _check_secret(secret)
        if len(public) != KEY_SIZE:
            raise CryptoFailure("bad point")
        try:
            return bindings.crypto_scalarmult(secret, public)
        except _SODIUM_ERRORS:
            raise CryptoFailure("bad point") from None

    def seal(self, key: bytes, nonce: int, ad: bytes, plaintext: bytes) -> bytes:
        return bindings.crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, ad, _noise_nonce(nonce), key)

    def open_untrusted(self, key: bytes, nonce: int, ad: bytes, sealed: bytes) -> bytes:
        try:
            return bindings.crypto_aead_chacha20poly1305_ietf_decrypt(sealed, ad, _noise_nonce(nonce), key)
        except _SODIUM_ERRORS:
            raise CryptoFailure("bad tag") from None

    def xseal(self, key: bytes, nonce: bytes, ad: bytes, plaintext: bytes) -> bytes:
        return bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, ad, nonce, key)

    def xopen_untrusted(self, key: bytes, nonce: bytes, ad: bytes, sealed: bytes) -> bytes:
        try:
            return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, ad, nonce, key)
        except _SODIUM_ERRORS:
            raise CryptoFailure("bad tag") from None

    def identity_key(self, seed: bytes) -> bytes:
        return bindings.crypto_sign_seed_keypair(seed)[0]

    def sign(self, seed: bytes, message: bytes) -> bytes:
        _, secret = bindings.crypto_sign_seed_keypair(seed)
        return bindings.crypto_sign(message, secret)[:SIGNATURE_SIZE]

    def verify(self, public: bytes, signature: bytes, message: bytes) -> bool:
        # libsodium refuses an S that is not reduced, and points of low order or in another encoding.
        if len(public) != KEY_SIZE or len(signature) != SIGNATURE_SIZE:
            return False
        try:
            bindings.crypto_sign_open(signature + message, public)
        except _SODIUM_ERRORS:
            return False
        return True


SODIUM: Ciphers = _Sodium()
"""The real ones."""


def equal(a: bytes, b: bytes) -> bool:
    """Whether two byte strings are the same, in a time that does not depend on where they differ."""
    return hmac.compare_digest(a, b)


def hash32(*parts: bytes) -> bytes:
    """BLAKE2s-32 of the parts, one after the other (RFC 7693)."""
    return hashlib.blake2s(b"".join(parts)).digest()


def short_hash(*parts: bytes) -> bytes:
    """BLAKE2s-16 of the parts: names of things, such as an invitation's id."""
    return hashlib.blake2s(b"".join(parts), digest_size=16).digest()


def keyed_hash(key: bytes, data: bytes, size: int) -> bytes:
    """BLAKE2s with a key of at most 32 bytes and a digest of `size` (at most 32)."""
    return hashlib.blake2s(data, key=key, digest_size=size).digest()


def hmac_hash(key: bytes, data: bytes) -> bytes:
    """HMAC-BLAKE2s, 32 bytes (RFC 2104; what Noise builds HKDF on)."""
    return hmac.digest(key, data, "blake2s256")


def kdf(chaining_key: bytes, material: bytes, outputs: int) -> tuple[bytes, ...]:
    """Noise's HKDF (4.3): `outputs` keys (two or three in Noise) of 32 bytes."""
    secret = hmac_hash(chaining_key, material)
    results: list[bytes] = []
    previous = b""
    for number in range(1, outputs + 1):
        previous = hmac_hash(secret, previous + bytes([number]))
        results.append(previous)
    return tuple(results)


def _check_secret(secret: bytes) -> None:
    if len(secret) != KEY_SIZE:
        raise ValueError(f"an X25519 secret has {KEY_SIZE} bytes")


def _noise_nonce(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "little")
