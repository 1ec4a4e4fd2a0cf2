"""Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, both sides (Noise Protocol Framework, revision 34).

    IKpsk2:
      <- s
      ...
      -> e, es, s, ss
      <- e, ee, se, psk

The tokens stand as comments beside the lines that carry them out. A read works on a copy of the state and
replaces it only when every tag was right: a forged message costs time, but spoils no handshake that is under
way.
"""

from __future__ import annotations

from meshnode.crypto.primitives import KEY_SIZE, TAG_SIZE, Ciphers, CryptoFailure, hash32, kdf

PROTOCOL_NAME = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"


class SymmetricState:
    """Chaining key, handshake hash, key and nonce (Noise, 5.1 and 5.2)."""

    __slots__ = ("_chaining_key", "_ciphers", "_key", "_nonce", "hash")

    def __init__(self, ciphers: Ciphers, protocol_name: bytes) -> None:
        self._ciphers = ciphers
        short = len(protocol_name) <= KEY_SIZE
        self.hash = protocol_name.ljust(KEY_SIZE, b"\0") if short else hash32(protocol_name)
        self._chaining_key = self.hash
        self._key: bytes | None = None
        self._nonce = 0

    def copy(self) -> SymmetricState:
        """An independent state that goes on from here."""
        twin = SymmetricState.__new__(SymmetricState)
        twin._ciphers = self._ciphers
        twin.hash = self.hash
        twin._chaining_key = self._chaining_key
        twin._key = self._key
        twin._nonce = self._nonce
        return twin

    def mix_hash(self, data: bytes) -> None:
        self.hash = hash32(self.hash, data)

    def mix_key(self, material: bytes) -> None:
        self._chaining_key, self._key = kdf(self._chaining_key, material, 2)
        self._nonce = 0

    def mix_key_and_hash(self, material: bytes) -> None:
        self._chaining_key, mixed, self._key = kdf(self._chaining_key, material, 3)
        self.mix_hash(mixed)
        self._nonce = 0

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        if self._key is None:
            sealed = plaintext
        else:
            sealed = self._ciphers.seal(self._key, self._nonce, self.hash, plaintext)
            self._nonce += 1
        self.mix_hash(sealed)
        return sealed

    def decrypt_and_hash_untrusted(self, sealed: bytes) -> bytes:
        if self._key is None:
            plaintext = sealed
        else:
            plaintext = self._ciphers.open_untrusted(self._key, self._nonce, self.hash, sealed)
            self._nonce += 1
        self.mix_hash(sealed)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """The keys of the initiator's and of the responder's transport messages."""
        first, second = kdf(self._chaining_key, b"", 2)
        return first, second


class Initiator:
    """One handshake from its first message on. Keys are 32 bytes.

    `write_initiation` once, then `read_response_untrusted` until it succeeds, then `split`. `static_public`
    only saves a scalar multiplication.
    """

    __slots__ = (
        "_ciphers",
        "_ephemeral_secret",
        "_remote_static",
        "_state",
        "_static_public",
        "_static_secret",
    )

    def __init__(
        self,
        ciphers: Ciphers,
        prologue: bytes,
        static_secret: bytes,
        remote_static: bytes,
        ephemeral_secret: bytes,
        static_public: bytes | None = None,
    ) -> None:
        self._ciphers = ciphers
        self._static_secret = static_secret
        self._static_public = static_public or ciphers.public_key(static_secret)
        self._remote_static = remote_static
        self._ephemeral_secret = ephemeral_secret
        self._state = SymmetricState(ciphers, PROTOCOL_NAME)
        self._state.mix_hash(prologue)
        self._state.mix_hash(remote_static)  # <- s

    def write_initiation(self, payload: bytes) -> tuple[bytes, bytes, bytes]:
        """`(ephemeral, sealed static, sealed payload)`.

        Raises CryptoFailure when the responder's static key is a point of low order.
        """
        state, dh = self._state, self._ciphers.dh
        ephemeral = self._ciphers.public_key(self._ephemeral_secret)
        state.mix_hash(ephemeral)  # -> e
        state.mix_key(ephemeral)  # e in a pattern with a psk (Noise, 9.2)
        state.mix_key(dh(self._ephemeral_secret, self._remote_static))  # es
        sealed_static = state.encrypt_and_hash(self._static_public)  # s
        state.mix_key(dh(self._static_secret, self._remote_static))  # ss
        return ephemeral, sealed_static, state.encrypt_and_hash(payload)

    def read_response_untrusted(self, ephemeral: bytes, sealed_payload: bytes, psk: bytes) -> bytes:
        """The payload of message 2. After a failure the genuine response can still be read."""
        state, dh = self._state.copy(), self._ciphers.dh
        _check_size(ephemeral, KEY_SIZE)
        state.mix_hash(ephemeral)  # <- e
        state.mix_key(ephemeral)  # e in a pattern with a psk
        state.mix_key(dh(self._ephemeral_secret, ephemeral))  # ee
        state.mix_key(dh(self._static_secret, ephemeral))  # se
        state.mix_key_and_hash(psk)  # psk
        payload = state.decrypt_and_hash_untrusted(sealed_payload)
        self._state = state
        return payload

    @property
    def hash(self) -> bytes:
        """The handshake hash so far; after the last message it names this very handshake (Noise, 11.2)."""
        return self._state.hash

    def split(self) -> tuple[bytes, bytes]:
        """`(send key, receive key)`, after message 2."""
        return self._state.split()


class Responder:
    """One handshake from the other side: `read_initiation_untrusted`, `write_response`, `split`."""

    __slots__ = ("_ciphers", "_remote_ephemeral", "_remote_static", "_state", "_static_secret")

    def __init__(
        self,
        ciphers: Ciphers,
        prologue: bytes,
        static_secret: bytes,
        static_public: bytes | None = None,
    ) -> None:
        self._ciphers = ciphers
        self._static_secret = static_secret
        self._remote_ephemeral = self._remote_static = b""
        self._state = SymmetricState(ciphers, PROTOCOL_NAME)
        self._state.mix_hash(prologue)
        self._state.mix_hash(static_public or ciphers.public_key(static_secret))  # <- s

    def read_initiation_untrusted(
        self, ephemeral: bytes, sealed_static: bytes, sealed_payload: bytes
    ) -> tuple[bytes, bytes]:
        """`(static key of the initiator, payload)`. After a failure another initiation can be read."""
        state, dh = self._state.copy(), self._ciphers.dh
        _check_size(ephemeral, KEY_SIZE)
        _check_size(sealed_static, KEY_SIZE + TAG_SIZE)
        state.mix_hash(ephemeral)  # -> e
        state.mix_key(ephemeral)  # e in a pattern with a psk
        state.mix_key(dh(self._static_secret, ephemeral))  # es
        remote_static = state.decrypt_and_hash_untrusted(sealed_static)  # s
        state.mix_key(dh(self._static_secret, remote_static))  # ss
        payload = state.decrypt_and_hash_untrusted(sealed_payload)
        self._state = state
        self._remote_ephemeral, self._remote_static = ephemeral, remote_static
        return remote_static, payload

    def write_response(self, payload: bytes, psk: bytes, ephemeral_secret: bytes) -> tuple[bytes, bytes]:
        """`(ephemeral, sealed payload)` in answer to the initiation that was read."""
        state, dh = self._state, self._ciphers.dh
        ephemeral = self._ciphers.public_key(ephemeral_secret)
        state.mix_hash(ephemeral)  # <- e
        state.mix_key(ephemeral)  # e in a pattern with a psk
        state.mix_key(dh(ephemeral_secret, self._remote_ephemeral))  # ee
        state.mix_key(dh(ephemeral_secret, self._remote_static))  # se
        state.mix_key_and_hash(psk)  # psk
        return ephemeral, state.encrypt_and_hash(payload)

    @property
    def hash(self) -> bytes:
        """The handshake hash so far, equal to the initiator's after each message."""
        return self._state.hash

    def split(self) -> tuple[bytes, bytes]:
        """`(send key, receive key)`, after message 2."""
        receive_key, send_key = self._state.split()
        return send_key, receive_key


def _check_size(value: bytes, size: int) -> None:
    if len(value) != size:
        raise CryptoFailure("bad length")
