"""Inner packets: built, answered and taken apart again."""

import socket

import pytest

from tests.sim import inner

V4 = (socket.inet_aton("10.77.0.1"), socket.inet_aton("10.77.0.2"))
V6 = (socket.inet_pton(socket.AF_INET6, "fd00::1"), socket.inet_pton(socket.AF_INET6, "fd00::2"))


@pytest.mark.parametrize(("source", "destination"), [V4, V6])
def test_a_ping_is_answered_to_its_sender_with_its_payload(source: bytes, destination: bytes) -> None:
    ping = inner.parse(inner.echo_request(source, destination, 7, 3, b"odd"))
    assert inner.checksum_is_right(ping)
    answer = inner.echo_reply(ping)
    assert answer is not None
    pong = inner.parse(answer)
    assert (pong.source, pong.destination) == (destination, source)
    assert inner.checksum_is_right(pong)
    assert inner.echo_answered(pong) == (7, 3)
    assert pong.body.endswith(b"odd")
    assert inner.echo_reply(pong) is None
    assert inner.echo_answered(ping) is None


@pytest.mark.parametrize(("source", "destination"), [V4, V6])
def test_udp_carries_ports_payload_and_ecn(source: bytes, destination: bytes) -> None:
    packet = inner.parse(inner.udp(source, destination, (1000, 53), b"question", ecn=2))
    assert inner.checksum_is_right(packet)
    assert packet.ecn == 2
    assert packet.body[:4] == b"\x03\xe8\x00\x35"
    assert packet.body[8:] == b"question"
    assert inner.echo_reply(packet) is None


def test_a_known_ipv4_header_checksum() -> None:
    # Added up by hand: 4500 001c 0000 4000 4011 0a4d 0001 0a4d 0002, complemented.
    packet = inner.udp(*V4, (1, 2), b"")
    assert packet[10:12] == bytes.fromhex("2635")


@pytest.mark.parametrize("spoil", [lambda p: p[:-1], lambda p: p[:8] + b"\x00" + p[9:]])
def test_what_is_no_packet_is_not_taken_for_one(spoil: object) -> None:
    assert callable(spoil)
    with pytest.raises(ValueError, match="IPv4"):
        inner.parse(spoil(inner.udp(*V4, (1, 2), b"x")))
