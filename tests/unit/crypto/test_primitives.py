"""The primitives against published vectors, and the boundary that turns every failure into CryptoFailure."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.crypto.primitives import (
    SODIUM,
    CryptoFailure,
    equal,
    hash32,
    hmac_hash,
    kdf,
    keyed_hash,
    short_hash,
)
from meshnode.values import BadPacket

KEY = bytes(range(32))

# --- X25519 ----------------------------------------------------------------------------------------------------


def test_the_exchange_of_rfc_7748() -> None:
    # Section 6.1.
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    assert (
        SODIUM.public_key(alice).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    )
    assert SODIUM.public_key(bob).hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert SODIUM.dh(alice, SODIUM.public_key(bob)).hex() == shared
    assert SODIUM.dh(bob, SODIUM.public_key(alice)).hex() == shared


PRIME = 2**255 - 19
# The u-coordinates of order 1, 2, 4 and 8 on curve and twist, as integers (cr.yp.to/ecdh.html, "validate"). An
# encoding has 255 bits, so each has non-canonical twins; the top bit is ignored by the function.
ORDER_8 = 325606250916557431795983626356110631294008115727848805560023387167927233504
OTHER_ORDER_8 = 39382357235489614581723060781553021112529911719440698176882885853963445705823
LOW_ORDER = [
    0,
    1,
    ORDER_8,
    OTHER_ORDER_8,
    PRIME - 1,
    PRIME,
    PRIME + 1,
    2**255 + 0,
    2**255 + 1,
    2**255 + ORDER_8,
    2**255 + OTHER_ORDER_8,
    2**255 + PRIME - 1,
    2**255 + PRIME + 1,
]


@pytest.mark.parametrize("point", LOW_ORDER)
def test_points_of_low_order_are_refused(point: int) -> None:
    with pytest.raises(CryptoFailure, match="bad point"):
        SODIUM.dh(KEY, point.to_bytes(32, "little"))


@pytest.mark.parametrize("size", [0, 1, 31, 33])
def test_points_of_another_size_are_refused(size: int) -> None:
    # The binding would read past the end of a short one.
    with pytest.raises(CryptoFailure, match="bad point"):
        SODIUM.dh(KEY, bytes([9]) * size)
    with pytest.raises(ValueError, match="32 bytes"):
        SODIUM.dh(KEY[:1] * size, bytes([9]) * 32)
    with pytest.raises(ValueError, match="32 bytes"):
        SODIUM.public_key(KEY[:1] * size)


# --- AEADs -----------------------------------------------------------------------------------------------------


def test_the_aead_of_rfc_8439() -> None:
    # Appendix A.5: its nonce is 00000000 0102030405060708, which is the counter 0x0807060504030201 here.
    key = bytes.fromhex("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0")
    ad = bytes.fromhex("f33388860000000000004e91")
    counter = int.from_bytes(bytes.fromhex("0102030405060708"), "little")
    sealed = bytes.fromhex(
        "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e382d26b0"
        "bdb7b73c321b0100d4f03b7f355894cf332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855"
        "9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4b9166c767b804d46a59b5216cde7a4e9"
        "9040c5a40433225ee282a1b0a06c523eaf4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a"
        "0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a1049e617d91d361094fa68f0ff77987130"
        "305beaba2eda04df997b714d6c6f2c29a6ad5cb4022b02709b"
        "eead9d67890cbb22392336fea1851f38"
    )
    plaintext = SODIUM.open_untrusted(key, counter, ad, sealed)
    assert plaintext.startswith(b"Internet-Drafts are draft documents valid for a maximum")
    assert (
        plaintext.endswith("other than as “work in progress.”".replace("“", "/“").encode())
        or len(plaintext) == 265
    )
    assert SODIUM.seal(key, counter, ad, plaintext) == sealed


def test_xchacha_by_its_draft() -> None:
    # draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    key = bytes(range(0x80, 0xA0))
    nonce = bytes(range(0x40, 0x58))
    ad = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    plaintext = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    sealed = SODIUM.xseal(key, nonce, ad, plaintext)
    assert sealed[:16].hex() == "bd6d179d3e83d43b9576579493c0e939"
    assert sealed[-16:].hex() == "c0875924c1c7987947deafd8780acf49"
    assert SODIUM.xopen_untrusted(key, nonce, ad, sealed) == plaintext


@settings(max_examples=40, deadline=None)
@given(counter=st.integers(0, 2**64 - 1), ad=st.binary(max_size=40), plaintext=st.binary(max_size=200))
def test_seals_open(counter: int, ad: bytes, plaintext: bytes) -> None:
    sealed = SODIUM.seal(KEY, counter, ad, plaintext)
    assert len(sealed) == len(plaintext) + 16
    assert SODIUM.open_untrusted(KEY, counter, ad, sealed) == plaintext
    nonce = counter.to_bytes(24, "big")
    assert SODIUM.xopen_untrusted(KEY, nonce, ad, SODIUM.xseal(KEY, nonce, ad, plaintext)) == plaintext


def test_every_flipped_bit_spoils_a_seal() -> None:
    sealed, xsealed = SODIUM.seal(KEY, 1, b"ad", b"text"), SODIUM.xseal(KEY, bytes(24), b"ad", b"text")
    for bit in range(8 * len(sealed)):
        with pytest.raises(CryptoFailure, match="bad tag"):
            SODIUM.open_untrusted(KEY, 1, b"ad", flipped(sealed, bit))
        with pytest.raises(CryptoFailure, match="bad tag"):
            SODIUM.xopen_untrusted(KEY, bytes(24), b"ad", flipped(xsealed, bit))
    for other in ((KEY[::-1], 1, b"ad"), (KEY, 2, b"ad"), (KEY, 1, b"AD"), (KEY, 1, b"")):
        with pytest.raises(CryptoFailure, match="bad tag"):
            SODIUM.open_untrusted(*other, sealed)


@pytest.mark.parametrize("size", range(17))
def test_less_than_a_tag(size: int) -> None:
    with pytest.raises(CryptoFailure, match="bad tag"):
        SODIUM.open_untrusted(KEY, 0, b"", bytes(size))
    with pytest.raises(CryptoFailure, match="bad tag"):
        SODIUM.xopen_untrusted(KEY, bytes(24), b"", bytes(size))


def flipped(data: bytes, bit: int) -> bytes:
    mauled = bytearray(data)
    mauled[bit // 8] ^= 1 << bit % 8
    return bytes(mauled)


# --- Ed25519 ---------------------------------------------------------------------------------------------------

ORDER = 2**252 + 27742317777372353535851937790883648493
SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")


def test_the_signature_of_rfc_8032() -> None:
    # Section 7.1, test 2.
    public = SODIUM.identity_key(SEED)
    assert public.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signature = SODIUM.sign(SEED, b"\x72")
    assert signature.hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert SODIUM.verify(public, signature, b"\x72")


def test_a_signature_holds_for_one_key_and_message() -> None:
    public, signature = SODIUM.identity_key(SEED), SODIUM.sign(SEED, b"message")
    assert SODIUM.verify(public, signature, b"message")
    assert not SODIUM.verify(public, signature, b"Message")
    assert not SODIUM.verify(SODIUM.identity_key(KEY), signature, b"message")
    for bit in range(8 * len(signature)):
        assert not SODIUM.verify(public, flipped(signature, bit), b"message")


@pytest.mark.parametrize("size", [0, 32, 63, 65, 128])
def test_signatures_of_another_size(size: int) -> None:
    public, signature = SODIUM.identity_key(SEED), SODIUM.sign(SEED, b"message")
    assert not SODIUM.verify(public, signature.ljust(size, b"\0")[:size], b"message")


def test_bytes_cannot_move_from_message_to_signature() -> None:
    public, signature = SODIUM.identity_key(SEED), SODIUM.sign(SEED, b"message")
    assert not SODIUM.verify(public, signature + b"m", b"essage")
    assert not SODIUM.verify(public, signature[:-1], signature[-1:] + b"message")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_keys_of_another_size(size: int) -> None:
    signature = SODIUM.sign(SEED, b"message")
    assert not SODIUM.verify(SODIUM.identity_key(SEED).ljust(size, b"\0")[:size], signature, b"message")


def test_a_second_signature_cannot_be_made_from_the_first() -> None:
    public, signature = SODIUM.identity_key(SEED), SODIUM.sign(SEED, b"message")
    scalar = int.from_bytes(signature[32:], "little")
    for times in range(1, 16):
        larger = scalar + times * ORDER
        if larger < 2**256:
            assert not SODIUM.verify(public, signature[:32] + larger.to_bytes(32, "little"), b"message")


@pytest.mark.parametrize(
    "y",
    [
        0,
        1,
        PRIME - 1,
        PRIME,
        PRIME + 1,
        2**255 + 1,
        2**255 + 0,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D3D706A17C7,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    ],
)
def test_keys_of_low_order_sign_nothing(y: int) -> None:
    # Under such a key, R = the identity or the key itself with S = 0 would be a signature of many messages.
    point = y.to_bytes(32, "little")
    for commitment in (point, (1).to_bytes(32, "little")):
        for number in range(16):
            assert not SODIUM.verify(point, commitment + bytes(32), b"message %d" % number)


# --- Hashes ----------------------------------------------------------------------------------------------------


def test_hashes_are_blake2s() -> None:
    # RFC 7693, appendix B.
    assert hash32(b"abc").hex() == "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"
    assert hash32(b"a", b"", b"bc") == hash32(b"abc")
    assert short_hash(b"a", b"bc") == hashlib.blake2s(b"abc", digest_size=16).digest()
    assert keyed_hash(KEY, b"data", 16) == hashlib.blake2s(b"data", key=KEY, digest_size=16).digest()
    assert hmac_hash(b"k" * 99, b"data") == hmac.new(b"k" * 99, b"data", hashlib.blake2s).digest()


def test_the_kdf_by_its_definition() -> None:
    secret = hmac_hash(KEY, b"material")
    first = hmac_hash(secret, b"\x01")
    second = hmac_hash(secret, first + b"\x02")
    third = hmac_hash(secret, second + b"\x03")
    assert kdf(KEY, b"material", 2) == (first, second)
    assert kdf(KEY, b"material", 3) == (first, second, third)


def test_equal() -> None:
    assert equal(b"abc", bytes([97, 98, 99]))
    assert not equal(b"abc", b"abd")
    assert not equal(b"abc", b"ab")


def test_a_failure_is_a_bad_packet() -> None:
    assert issubclass(CryptoFailure, BadPacket)
    assert CryptoFailure("bad tag").reason == "bad tag"
