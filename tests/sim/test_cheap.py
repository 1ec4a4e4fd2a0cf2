"""The cheap ciphers are worthless as ciphers, but they must fail where the real ones fail."""

import pytest
from cryptography.exceptions import InvalidTag

from meshnode.crypto.primitives import SODIUM, Ciphers, CryptoFailure
from meshnode.crypto.suites import aead, nonce
from meshnode.values import Suite
from tests.sim.cheap import CHEAP, cheap_aead

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
BOTH = pytest.mark.parametrize("ciphers", [CHEAP, SODIUM], ids=["cheap", "sodium"])
FACTORIES = pytest.mark.parametrize("factory", [cheap_aead, aead], ids=["cheap", "real"])


@BOTH
def test_both_sides_agree_on_a_secret(ciphers: Ciphers) -> None:
    a, b = ciphers.public_key(KEY), ciphers.public_key(OTHER)
    assert ciphers.dh(KEY, b) == ciphers.dh(OTHER, a)
    assert ciphers.dh(KEY, b) != ciphers.dh(KEY, a)
    with pytest.raises(CryptoFailure):
        ciphers.dh(KEY, bytes(32))


@BOTH
def test_what_was_touched_does_not_open(ciphers: Ciphers) -> None:
    sealed = ciphers.seal(KEY, 1, b"ad", b"text")
    assert ciphers.open_untrusted(KEY, 1, b"ad", sealed) == b"text"
    xsealed = ciphers.xseal(KEY, bytes(24), b"ad", b"text")
    assert ciphers.xopen_untrusted(KEY, bytes(24), b"ad", xsealed) == b"text"
    for arguments in (
        (OTHER, 1, b"ad", sealed),
        (KEY, 2, b"ad", sealed),
        (KEY, 1, b"a", sealed),
        (KEY, 1, b"ad", sealed[:-1]),
        (KEY, 1, b"ad", b"short"),
        *((KEY, 1, b"ad", bytes([*sealed[:i], sealed[i] ^ 1, *sealed[i + 1 :]])) for i in range(len(sealed))),
    ):
        with pytest.raises(CryptoFailure):
            ciphers.open_untrusted(*arguments)


@BOTH
def test_signatures_cover_the_message_and_name_the_signer(ciphers: Ciphers) -> None:
    public = ciphers.identity_key(KEY)
    signature = ciphers.sign(KEY, b"message")
    assert ciphers.verify(public, signature, b"message")
    assert not ciphers.verify(public, signature, b"massage")
    assert not ciphers.verify(ciphers.identity_key(OTHER), signature, b"message")
    assert not ciphers.verify(public, signature[:-1], b"message")


@FACTORIES
def test_the_data_cipher_keeps_its_contract(factory: type) -> None:
    cipher = factory(Suite.CHACHA20_POLY1305, KEY)
    sealed = bytearray(4 + 16)
    assert cipher.seal_into(nonce(1), b"text", b"ad", sealed) == 20
    opened = bytearray(4)
    assert cipher.open_into(nonce(1), sealed, b"ad", opened) == 4
    assert opened == b"text"
    for wrong_nonce, ad, data in (
        (nonce(2), b"ad", sealed),
        (nonce(1), b"da", sealed),
        (nonce(1), b"ad", sealed[:-1] + b"?"),
    ):
        with pytest.raises(InvalidTag):
            cipher.open_into(wrong_nonce, data, ad, bytearray(4))
    with pytest.raises(InvalidTag):
        cipher.open_into(nonce(1), b"short", b"ad", bytearray(0))
    with pytest.raises(ValueError, match="buffer"):
        cipher.seal_into(nonce(1), b"text", b"ad", bytearray(4))
