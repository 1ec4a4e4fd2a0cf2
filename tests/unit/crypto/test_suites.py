"""Data suites: published vectors, the contract of the bare calls, and the choice by speed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import count

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.crypto import suites
from meshnode.crypto.primitives import CryptoFailure
from meshnode.crypto.suites import (
    SUITES,
    InvalidTag,
    SuiteSpec,
    aead,
    available,
    data_key,
    measure,
    nonce,
    open_untrusted,
    preference,
    seal,
)
from meshnode.values import MILLISECOND, Suite

CHACHA, AES = Suite.CHACHA20_POLY1305, Suite.AES_256_GCM
KEY = bytes(range(32))
each_suite = pytest.mark.parametrize("suite", list(Suite), ids=lambda suite: suite.name)


def test_every_number_has_a_row_and_limits() -> None:
    assert list(SUITES) == list(Suite)
    for number, spec in SUITES.items():
        assert spec.number is number
        assert 0 < spec.rekey_after < spec.reject_after <= 2**64 - 2**13 - 1
    assert (SUITES[AES].rekey_after, SUITES[AES].reject_after) == (2**23, 2**24)


def test_the_nonce() -> None:
    assert nonce(0x0102030405060708).hex() == "000000000102030405060708"


def test_chacha20_poly1305_by_rfc_8439() -> None:
    # Section 2.8.2.
    plaintext = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    cipher = aead(CHACHA, bytes(range(0x80, 0xA0)))
    buffer = bytearray(len(plaintext) + 16)
    written = cipher.seal_into(
        bytes.fromhex("070000004041424344454647"),
        plaintext,
        bytes.fromhex("50515253c0c1c2c3c4c5c6c7"),
        buffer,
    )
    assert written == len(buffer)
    assert buffer[:16].hex() == "d31a8d34648e60db7b86afbc53ef7ec2"
    assert buffer[-16:].hex() == "1ae10b594f09e26a7e902ecbd0600691"


def test_aes_256_gcm_by_its_specification() -> None:
    # McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B, test cases 13 and 14.
    cipher = aead(AES, bytes(32))
    assert seal(cipher, 0, b"", b"").hex() == "530f8afbc74536b9a963b4f1c4cb738b"
    assert seal(cipher, 0, b"", bytes(16)).hex() == (
        "cea7403d4d606b6e074ec5d3baf39d18" + "d0d1c8a799996bf0265b98b5d48ab919"
    )


@each_suite
@settings(max_examples=30, deadline=None)
@given(
    counter=st.integers(0, 2**64 - 1), associated=st.binary(max_size=20), plaintext=st.binary(max_size=2000)
)
def test_what_is_sealed_opens(suite: Suite, counter: int, associated: bytes, plaintext: bytes) -> None:
    cipher = aead(suite, KEY)
    sealed = seal(cipher, counter, associated, plaintext)
    assert len(sealed) == len(plaintext) + 16
    assert open_untrusted(cipher, counter, associated, sealed) == plaintext
    assert open_untrusted(aead(suite, KEY), counter, memoryview(associated), memoryview(sealed)) == plaintext


@each_suite
def test_every_flipped_bit_is_noticed(suite: Suite) -> None:
    cipher = aead(suite, KEY)
    sealed = seal(cipher, 7, b"header", b"text")
    for bit in range(8 * len(sealed)):
        mauled = bytearray(sealed)
        mauled[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CryptoFailure, match="bad tag"):
            open_untrusted(cipher, 7, b"header", mauled)
    for counter, associated in ((8, b"header"), (7, b"Header"), (7, b"")):
        with pytest.raises(CryptoFailure, match="bad tag"):
            open_untrusted(cipher, counter, associated, sealed)
    with pytest.raises(CryptoFailure, match="bad tag"):
        open_untrusted(aead(suite, KEY[::-1]), 7, b"header", sealed)


@each_suite
@pytest.mark.parametrize("size", range(17))
def test_less_than_a_tag(suite: Suite, size: int) -> None:
    cipher = aead(suite, KEY)
    with pytest.raises(CryptoFailure, match="bad tag"):
        open_untrusted(cipher, 0, b"", bytes(size))
    with pytest.raises(InvalidTag):
        cipher.open_into(nonce(0), bytes(size), None, bytearray(max(0, size - 16)))


@each_suite
@pytest.mark.parametrize("off", [-1, 1])
def test_a_buffer_of_the_wrong_size_is_a_bug(suite: Suite, off: int) -> None:
    cipher = aead(suite, KEY)
    with pytest.raises(ValueError, match="buffer must be"):
        cipher.seal_into(nonce(0), bytes(20), None, bytearray(36 + off))
    with pytest.raises(ValueError, match="buffer must be"):
        cipher.open_into(nonce(0), bytes(36), None, bytearray(20 + off))


@each_suite
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 63, 64, 65, 1400, 9000])
def test_sealing_and_opening_in_place(suite: Suite, size: int) -> None:
    """The data plane does so: header, plaintext and tag share one buffer."""
    cipher = aead(suite, KEY)
    plaintext = bytes(n % 251 for n in range(size))
    buffer = bytearray(b"a header of 16 b" + plaintext + bytes(16))
    view = memoryview(buffer)
    cipher.seal_into(nonce(3), view[16 : 16 + size], view[:16], view[16:])
    assert view[16:] == seal(cipher, 3, b"a header of 16 b", plaintext)
    cipher.open_into(nonce(3), view[16:], view[:16], view[16 : 16 + size])
    assert view[16 : 16 + size] == plaintext


def test_a_data_key_depends_on_everything() -> None:
    transcript = bytes(32)
    expected = hashlib.blake2s(b"meshnode data\x02" + transcript, key=KEY).digest()
    assert data_key(KEY, AES, transcript) == expected
    others = {
        data_key(KEY, CHACHA, transcript),
        data_key(KEY[::-1], AES, transcript),
        data_key(KEY, AES, KEY),
    }
    assert len(others | {expected}) == 4


# --- The choice -------------------------------------------------------------------------------------------------


def test_both_suites_are_there() -> None:
    assert available() == (CHACHA, AES)


def test_a_suite_that_the_library_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(key: bytes) -> AESGCM:
        raise UnsupportedAlgorithm("not in this build")

    broken = SuiteSpec(AES, "aes-256-gcm", 1, 2, missing)
    monkeypatch.setattr(suites, "SUITES", {CHACHA: SUITES[CHACHA], AES: broken})
    assert available() == (CHACHA,)


def ticking(step: int) -> Callable[[], int]:
    ticks = count(0, step)
    return lambda: next(ticks)


@each_suite
def test_speed_is_packets_by_the_given_clock(suite: Suite) -> None:
    # Each look at this clock costs one millisecond, and 32 packets are sealed between two looks.
    assert measure(suite, ticking(MILLISECOND), 0.010) == pytest.approx(32_000)
    assert measure(suite, ticking(2 * MILLISECOND), 0.010) == pytest.approx(16_000)


def test_a_clock_that_stands_still_for_a_look() -> None:
    assert measure(CHACHA, lambda: 5, 0.0) > 0


@pytest.mark.parametrize(
    ("measured", "order"),
    [
        ({CHACHA: 5e5, AES: 9e5}, (AES, CHACHA)),
        ({CHACHA: 5e5, AES: 5e4}, (CHACHA,)),
        ({CHACHA: 5e5, AES: 5e5}, (CHACHA,)),
        ({CHACHA: 5e5}, (CHACHA,)),
        ({AES: 5e5}, (AES, CHACHA)),
        ({}, (CHACHA,)),
    ],
)
def test_the_faster_one_is_preferred(measured: dict[Suite, float], order: tuple[Suite, ...]) -> None:
    assert preference(measured) == order
