"""ICMP for packets that do not fit, and MSS clamping."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.dataplane import icmp
from meshnode.dataplane.mss import carries_mss, clamp_mss
from tests.sim import inner
from tests.unit.dataplane.packets import ACK, SYN, Tcp, Udp, checksums_right
from tests.unit.dataplane.pair import address, link_local

A4, B4, A6, B6 = address(1), address(2), address(1, 6), address(2, 6)


@pytest.mark.parametrize(("source", "to", "least"), [(A4, B4, 576), (A6, B6, 1280)])
@pytest.mark.parametrize("mtu", [100, 1281, 1400])
def test_the_sender_is_told(source: bytes, to: bytes, least: int, mtu: int) -> None:
    packet = Udp(source, to, bytes(1500)).build()
    answer = icmp.too_big(packet, mtu)
    assert answer is not None
    assert checksums_right(answer)
    assert len(answer) <= least
    parts = inner.parse(answer)
    assert (parts.source, parts.destination) == (to, source)
    assert inner.is_too_big(parts)
    assert int.from_bytes(parts.body[4:8], "big") == max(mtu, least)
    assert packet.startswith(parts.body[8:])


def error(source: bytes) -> bytes:
    return inner.ip_packet(
        source, B4 if len(source) == 4 else B6, 1 if len(source) == 4 else 58, b"\3\4" + bytes(600)
    )


@pytest.mark.parametrize(
    "packet",
    [
        error(A4),
        error(A6),
        inner.ip_packet(A4, B4, 1, b""),
        inner.ip_packet(A6, B6, 58, b""),
        Udp(A4, bytes((224, 0, 0, 5)), bytes(600)).build(),
        Udp(bytes(4), B4, bytes(600)).build(),
        Udp(bytes((127, 0, 0, 1)), B4, bytes(600)).build(),
        Udp(bytes((239, 1, 1, 1)), B4, bytes(600)).build(),
        Udp(bytes(16), B6, bytes(600)).build(),
        Udp(bytes.fromhex("ff02" + "00" * 13 + "01"), B6, bytes(600)).build(),
        Udp(A6, bytes.fromhex("ff02" + "00" * 13 + "01"), bytes(600)).build(),
    ],
)
def test_nobody_is_told_who_must_not_be(packet: bytes) -> None:
    assert icmp.too_big(packet, 500) is None


def test_no_answer_about_a_later_fragment() -> None:
    packet = bytearray(Udp(A4, B4, bytes(600)).build())
    packet[7] = 8
    assert icmp.too_big(packet, 500) is None


def test_pings_are_told() -> None:
    assert icmp.too_big(inner.echo_request(A4, B4, 1, 1, bytes(1500)), 1400) is not None
    assert icmp.too_big(inner.echo_request(A6, B6, 1, 1, bytes(1500)), 1400) is not None


def test_what_has_to_be_carried_in_pieces() -> None:
    refusable = Udp(A4, B4, bytes(1400)).build()
    assert not icmp.may_fragment(refusable)
    fragmentable = bytearray(refusable)
    fragmentable[6] = 0
    assert icmp.may_fragment(fragmentable)
    assert icmp.may_fragment(Udp(A4, B4, bytes(548)).build())
    assert icmp.may_fragment(Udp(A4, bytes((224, 0, 0, 5)), bytes(1400)).build())
    assert not icmp.may_fragment(Udp(A6, B6, bytes(1400)).build())
    assert icmp.may_fragment(Udp(A6, B6, bytes(1232)).build())
    assert icmp.may_fragment(
        Udp(link_local(1), bytes.fromhex("ff02" + "00" * 13 + "01"), bytes(1400)).build()
    )


def mss_option(value: int, before: bytes = b"") -> bytes:
    options = before + b"\x02\x04" + value.to_bytes(2, "big")
    return options + b"\x01" * (-len(options) % 4)


@pytest.mark.parametrize("before", [b"", b"\x01", b"\x01\x01\x01", b"\x04\x02", b"\x03\x03\x07"])
@pytest.mark.parametrize(("source", "to", "headers"), [(A4, B4, 40), (A6, B6, 60)])
@pytest.mark.parametrize("flags", [SYN, SYN | ACK])
def test_only_too_large_an_mss_is_lowered(
    before: bytes, source: bytes, to: bytes, headers: int, flags: int
) -> None:
    for value, expected in ((1460, 1300 - headers), (1300 - headers, 1300 - headers), (500, 500)):
        syn = Tcp(source, to, flags=flags, options=mss_option(value, before), payload=b"odd")
        assert carries_mss(syn.build())
        clamped = clamp_mss(syn.build(), 1300, False)
        assert bytes(clamped) == syn._replace(options=mss_option(expected, before)).build()
        assert checksums_right(bytes(clamped))
        partial = clamp_mss(syn.build(partial=True), 1300, True)
        assert bytes(partial) == syn._replace(options=mss_option(expected, before)).build(partial=True)


@pytest.mark.parametrize(
    "options",
    [
        b"",
        b"\x00\x02\x04\x05\xb4\x01\x01\x01",  # behind the end
        b"\x05\x00\x02\x04",  # a length of zero
        b"\x02\x03\x05\xb4",  # an MSS of the wrong length
        b"\x01\x01\x01\x02",  # cut off
        b"\x01\x01\x02\x04",
    ],
)
def test_options_that_make_no_sense_are_left_alone(options: bytes) -> None:
    packet = Tcp(A4, B4, flags=SYN, options=options).build()
    assert clamp_mss(packet, 100, False) is packet


def test_what_carries_no_mss() -> None:
    assert not carries_mss(Tcp(A4, B4, flags=ACK).build())
    assert not carries_mss(Tcp(A6, B6, flags=ACK).build())
    assert not carries_mss(Udp(A4, B4, b"\x02" * 40).build())
    assert not carries_mss(Udp(A6, B6, b"\x02" * 40).build())
    fragment = bytearray(Tcp(A4, B4, flags=SYN).build())
    fragment[7] = 1
    assert not carries_mss(fragment)
    short = inner.ip_packet(A4, B4, 6, bytes(10))
    assert not carries_mss(short)
    assert clamp_mss(inner.ip_packet(A4, B4, 6, bytes(14)), 500, False) == inner.ip_packet(
        A4, B4, 6, bytes(14)
    )
    assert clamp_mss(Tcp(A4, B4, flags=SYN, options=mss_option(1460)).build(), 30, False)


@given(st.binary(min_size=20, max_size=60), st.integers(0, 2000), st.booleans(), st.booleans())
def test_hostile_tcp_headers_harm_nobody(body: bytes, mtu: int, partial: bool, six: bool) -> None:
    packet = inner.ip_packet(A6 if six else A4, B6 if six else B4, 6, body)
    if carries_mss(packet):
        assert len(clamp_mss(packet, mtu, partial)) == len(packet)
