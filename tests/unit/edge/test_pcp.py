"""The codec of PCP and NAT-PMP: examples by the RFCs' figures, and any bytes at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.edge.pcp import (
    ExternalAddress,
    Mapping,
    Refusal,
    Transport,
    Version,
    pack_pcp_map,
    pack_pmp_address,
    pack_pmp_map,
    parse_answer_untrusted,
)
from meshnode.values import BadPacket
from tests.unit.edge.gateway import EXTERNAL, Gateway

NONCE = bytes(range(12))
UDP, TCP = Transport.UDP, Transport.TCP
V4_MAPPED = bytes(10) + b"\xff\xff"


def test_a_pcp_request_is_that_of_the_rfc() -> None:
    request = pack_pcp_map("192.168.1.5", NONCE, UDP, 4655, 7200, 5000, "198.51.100.1")
    assert request == (
        bytes([2, 1, 0, 0])
        + (7200).to_bytes(4, "big")
        + V4_MAPPED
        + bytes([192, 168, 1, 5])
        + NONCE
        + bytes([17, 0, 0, 0])
        + (4655).to_bytes(2, "big")
        + (5000).to_bytes(2, "big")
        + V4_MAPPED
        + bytes([198, 51, 100, 1])
    )
    assert len(request) == 60


def test_a_pcp_request_without_a_suggestion_names_the_family() -> None:
    assert pack_pcp_map("192.168.1.5", NONCE, TCP, 4655, 0)[-18:] == bytes(2) + V4_MAPPED + bytes(4)
    assert pack_pcp_map("2001:db8::5", NONCE, TCP, 4655, 0)[-18:] == bytes(18)
    assert pack_pcp_map("fe80::5%2", NONCE, TCP, 4655, 0)[8:10] == b"\xfe\x80"


def test_nat_pmp_requests_are_those_of_the_rfc() -> None:
    assert pack_pmp_address() == b"\0\0"
    assert pack_pmp_map(UDP, 4655, 7200, 5000) == bytes.fromhex("00010000122f138800001c20")
    assert pack_pmp_map(TCP, 4655, 0) == bytes.fromhex("00020000122f000000000000")


@pytest.mark.parametrize("transport", [UDP, TCP])
def test_answers_of_a_pcp_gateway(transport: Transport) -> None:
    gateway = Gateway(external="2001:db8::5")
    request = pack_pcp_map("192.168.1.5", NONCE, transport, 4655, 7200, 5000)
    assert parse(gateway, request) == Mapping(
        Version.PCP, 1000, transport, 4655, 5000, 7200, NONCE, "2001:db8::5"
    )
    gateway.external = EXTERNAL
    answer = parse(gateway, request)
    assert isinstance(answer, Mapping)
    assert answer.external_address == EXTERNAL
    gateway.code[transport] = 10
    refusal = parse(gateway, request)
    assert refusal == Refusal(Version.PCP, 10, 1000, transport, 30, NONCE)
    assert str(refusal) == "user exceeded quota"


@pytest.mark.parametrize("transport", [UDP, TCP])
def test_answers_of_a_nat_pmp_gateway(transport: Transport) -> None:
    gateway = Gateway(pcp=False)
    assert parse(gateway, pack_pmp_address()) == ExternalAddress(1000, EXTERNAL)
    assert parse(gateway, pack_pmp_map(transport, 4655, 7200, 5000)) == Mapping(
        Version.NAT_PMP, 1000, transport, 4655, 5000, 7200
    )
    gateway.code[transport] = 4
    assert parse(gateway, pack_pmp_map(transport, 4655, 7200)) == Refusal(Version.NAT_PMP, 4, 1000, transport)
    refusal = parse(gateway, pack_pcp_map("192.168.1.5", NONCE, UDP, 4655, 7200))
    assert isinstance(refusal, Refusal)
    assert (refusal.version, refusal.code) == (Version.NAT_PMP, 1)
    assert str(Refusal(Version.PCP, 99, 0)) == "result 99"


def parse(gateway: Gateway, request: bytes) -> object:
    answer = gateway.answer(request)
    assert answer is not None
    return parse_answer_untrusted(answer)


def good_answers() -> list[bytes]:
    answers = [
        Gateway().answer(pack_pcp_map("192.168.1.5", NONCE, UDP, 4655, 7200)),
        Gateway(pcp=False).answer(pack_pmp_map(UDP, 4655, 7200)),
        Gateway(pcp=False).answer(pack_pmp_address()),
    ]
    return [each for each in answers if each]


@pytest.mark.parametrize("answer", good_answers(), ids=["pcp", "pmp map", "pmp address"])
def test_a_torn_answer_is_none(answer: bytes) -> None:
    for size in range(len(answer)):
        with pytest.raises(BadPacket, match="mapping"):
            parse_answer_untrusted(answer[:size])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1" + bytes(59),
        pack_pcp_map("192.168.1.5", NONCE, UDP, 4655, 7200),
        pack_pmp_map(UDP, 4655, 7200),
        pack_pmp_address(),
        good_answers()[0] + bytes(1),
        good_answers()[0] + bytes(1100),
        good_answers()[1] + bytes(1),
        bytes([2, 0x82]) + good_answers()[0][2:],
        good_answers()[0][:36] + b"\x63" + good_answers()[0][37:],
        bytes([0, 0x83]) + good_answers()[1][2:],
    ],
)
def test_what_is_no_answer(data: bytes) -> None:
    with pytest.raises(BadPacket, match="mapping"):
        parse_answer_untrusted(data)


def test_options_behind_an_answer_are_ignored() -> None:
    assert parse_answer_untrusted(good_answers()[0] + bytes(8)) == parse_answer_untrusted(good_answers()[0])


@settings(max_examples=150)
@given(
    st.one_of(
        st.binary(max_size=80),
        st.tuples(st.sampled_from([0, 2]), st.integers(0, 255), st.binary(max_size=70)).map(
            lambda parts: bytes(parts[:2]) + parts[2]
        ),
        st.builds(
            lambda data, at, byte: data[:at] + bytes([byte]) + data[at + 1 :],
            st.sampled_from(good_answers()),
            st.integers(0, 59),
            st.integers(0, 255),
        ),
    )
)
def test_any_bytes_are_an_answer_or_refused(data: bytes) -> None:
    try:
        answer = parse_answer_untrusted(data)
    except BadPacket as bad:
        assert bad.reason.startswith("mapping")  # noqa: PT017
    else:
        assert isinstance(answer, Mapping | ExternalAddress | Refusal)
