"""Handshake datagrams and payloads."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.values import BadPacket, Capability, Suite
from meshnode.wire.handshake import (
    INVITATION_ID_SIZE,
    MAX_INITIATION,
    MAX_STATEMENT,
    CookieReply,
    Initiation,
    InitiationPayload,
    Response,
    ResponsePayload,
    parse_cookie_untrusted,
    parse_initiation_payload_untrusted,
    parse_initiation_untrusted,
    parse_response_payload_untrusted,
    parse_response_untrusted,
    prologue,
    split_macs,
)
from tests.unit.wire.samples import (
    BARE_INITIATION_PAYLOAD,
    COOKIE,
    INITIATION,
    INITIATION_PAYLOAD,
    MACS,
    RESPONSE,
    RESPONSE_PAYLOAD,
)

u32 = st.integers(0, 2**32 - 1)
capabilities = st.integers(0, 31).map(Capability)
suites = st.permutations(list(Suite)).flatmap(
    lambda order: st.integers(0, len(order)).map(lambda n: tuple(order[:n]))
)


def test_layouts() -> None:
    assert INITIATION.pack()[:8].hex() == "01010000deadbeef"
    assert INITIATION.pack()[8:40] == INITIATION.ephemeral
    assert RESPONSE.pack()[:12].hex() == "0201000000000001ffffffff"
    assert COOKIE.pack()[:8].hex() == "0301000000000005"
    assert len(COOKIE.pack()) == 64


@settings(max_examples=50, deadline=None)
@given(index=u32, other=u32, key=st.binary(min_size=32, max_size=32), payload=st.binary(max_size=900))
def test_datagrams_come_back(index: int, other: int, key: bytes, payload: bytes) -> None:
    initiation = Initiation(index, key, key + bytes(16), bytes(32) + payload)
    assert parse_initiation_untrusted(initiation.pack() + MACS) == initiation
    response = Response(index, other, key, bytes(25) + payload)
    assert parse_response_untrusted(response.pack() + MACS) == response
    cookie = CookieReply(index, key[:24], key)
    assert parse_cookie_untrusted(cookie.pack()) == cookie


def test_one_message_is_not_taken_for_another() -> None:
    with pytest.raises(BadPacket, match="datagram type"):
        parse_initiation_untrusted(COOKIE.pack())
    with pytest.raises(BadPacket, match="datagram type"):
        parse_response_untrusted(INITIATION.pack() + MACS)
    with pytest.raises(BadPacket, match="datagram type"):
        parse_cookie_untrusted(RESPONSE.pack() + MACS)


def test_the_macs_are_the_last_32_bytes() -> None:
    whole = INITIATION.pack() + b"1" * 16 + b"2" * 16
    assert split_macs(whole) == (INITIATION.pack(), b"1" * 16, b"2" * 16)
    assert split_macs(memoryview(whole)) == split_macs(whole)


def test_an_initiation_of_the_greatest_size() -> None:
    longest = Initiation(1, bytes(32), bytes(48), bytes(MAX_INITIATION - 88 - 32))
    assert parse_initiation_untrusted(longest.pack() + MACS) == longest
    with pytest.raises(BadPacket, match="datagram length"):
        parse_initiation_untrusted(longest.pack() + MACS + b"\0")


def test_the_prologue_names_version_and_network() -> None:
    assert prologue(b"N" * 32) == b"meshnode\x01" + b"N" * 32


# --- Payloads --------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    payload=st.builds(
        InitiationPayload,
        st.integers(0, 2**64 - 1),
        u32,
        capabilities,
        suites,
        st.lists(st.binary(min_size=1, max_size=250), max_size=4).map(tuple),
        st.none() | st.binary(min_size=INVITATION_ID_SIZE, max_size=INVITATION_ID_SIZE),
    )
)
def test_initiation_payloads_come_back(payload: InitiationPayload) -> None:
    assert parse_initiation_payload_untrusted(payload.pack()) == payload


@given(payload=st.builds(ResponsePayload, u32, capabilities, st.sampled_from(Suite)))
def test_response_payloads_come_back(payload: ResponsePayload) -> None:
    assert parse_response_payload_untrusted(payload.pack()) == payload


def field(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


FIXED = BARE_INITIATION_PAYLOAD.pack()[:16]


def test_what_is_not_known_is_skipped() -> None:
    tail = field(1, bytes([9, 2, 200, 1])) + field(77, b"new") + field(3, bytes(16)) + field(78, b"")
    assert parse_initiation_payload_untrusted(FIXED + tail) == InitiationPayload(
        0, 0, Capability.NONE, (Suite.AES_256_GCM, Suite.CHACHA20_POLY1305), (), bytes(16)
    )
    assert parse_response_payload_untrusted(RESPONSE_PAYLOAD.pack() + field(1, b"x")) == RESPONSE_PAYLOAD


def test_unknown_capabilities_are_not_shown() -> None:
    everything = FIXED[:12] + b"\xff" * 4
    every = Capability.ECN | Capability.PARTIAL_CHECKSUM | Capability.SEGMENT | Capability.FRAGMENT
    assert parse_initiation_payload_untrusted(everything).capabilities == every | Capability.RELAY
    answer = b"\0\0\0\0" + b"\xff" * 4 + b"\1"
    assert parse_response_payload_untrusted(answer).capabilities == every | Capability.RELAY


def test_without_suites_there_is_nothing_in_common() -> None:
    assert parse_initiation_payload_untrusted(FIXED).suites == ()
    assert parse_initiation_payload_untrusted(FIXED + field(1, bytes([99]))).suites == ()


@pytest.mark.parametrize(
    "tail",
    [
        field(1, b"\1") + field(1, b"\2"),  # a second offer
        field(1, b"\1\1"),  # a suite offered twice
        field(1, b"\x63\x63"),  # the same of an unknown one
        field(3, bytes(16)) + field(3, bytes(16)),
        field(3, bytes(15)),
        field(3, bytes(17)),
        field(2, b""),
        field(2, bytes(MAX_STATEMENT + 1)),
    ],
)
def test_fields_that_are_against_the_rules(tail: bytes) -> None:
    with pytest.raises(BadPacket, match="payload field"):
        parse_initiation_payload_untrusted(FIXED + tail)


@pytest.mark.parametrize("tail", [b"\1", b"\1\0", field(1, b"\1")[:-1], field(9, b"abc")[:-2]])
def test_fields_past_the_end(tail: bytes) -> None:
    with pytest.raises(BadPacket, match="truncated"):
        parse_initiation_payload_untrusted(FIXED + tail)
    with pytest.raises(BadPacket, match="truncated"):
        parse_response_payload_untrusted(RESPONSE_PAYLOAD.pack() + tail)


def test_a_payload_longer_than_any_datagram() -> None:
    with pytest.raises(BadPacket, match="payload length"):
        parse_initiation_payload_untrusted(FIXED + field(9, bytes(MAX_INITIATION)))


@pytest.mark.parametrize("number", [0, 3, 255])
def test_a_suite_that_does_not_exist_cannot_be_picked(number: int) -> None:
    with pytest.raises(BadPacket, match="unknown suite"):
        parse_response_payload_untrusted(bytes(8) + bytes([number]))


def test_the_sample_fits_a_datagram() -> None:
    assert len(INITIATION_PAYLOAD.pack()) + 88 + 16 + 32 <= MAX_INITIATION
