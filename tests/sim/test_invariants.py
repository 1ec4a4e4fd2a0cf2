"""The ledgers notice what they are there for. A ledger that is never seen to break guards nothing."""

import pytest

from meshnode.values import Endpoint, Suite
from tests.sim import inner
from tests.sim.cheap import cheap_aead
from tests.sim.invariants import AddressLedger, Broken, InnerLedger, NonceLedger
from tests.sim.link import UdpPacket

HERE, STRANGER, MEMBER = Endpoint("45.7.0.2", 1), Endpoint("45.7.0.3", 2), Endpoint("45.7.0.4", 3)
NONCE = bytes(12)
A, B = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))


def to(endpoint: Endpoint, data: bytes) -> UdpPacket:
    return UdpPacket(HERE, endpoint, data, origin="host")


def come_from(endpoint: Endpoint, data: bytes) -> UdpPacket:
    return UdpPacket(endpoint, HERE, data, origin="?")


@pytest.mark.parametrize("second", [NONCE, bytes(11) + b"\1"])
def test_a_nonce_that_does_not_grow_is_noticed_even_across_ciphers_of_one_key(second: bytes) -> None:
    factory = NonceLedger().watch(cheap_aead)
    first_process = factory(Suite.CHACHA20_POLY1305, bytes(32))
    second_process = factory(Suite.CHACHA20_POLY1305, bytes(32))
    first_process.seal_into(bytes(11) + b"\1", b"", None, bytearray(16))
    first_process.seal_into(bytes(11) + b"\2", b"", None, bytearray(16))
    with pytest.raises(Broken, match="nonce"):
        second_process.seal_into(second, b"", None, bytearray(16))


def test_one_nonce_under_two_keys_is_fine() -> None:
    ledger = NonceLedger()
    factory = ledger.watch(cheap_aead)
    for key in (bytes(32), b"\1" * 32):
        factory(Suite.CHACHA20_POLY1305, key).seal_into(NONCE, b"", None, bytearray(16))
    assert ledger.keys() == 2


def test_bytes_to_a_stranger_are_noticed_unless_he_forwarded_as_many() -> None:
    ledger = AddressLedger(remember_data=True)
    ledger.vouch(MEMBER)
    ledger.sent("host", to(MEMBER, b"\4" * 100))
    with pytest.raises(Broken, match="no member"):
        ledger.sent("host", to(STRANGER, b"\4"))

    ledger = AddressLedger(remember_data=True)
    ledger.vouch(HERE)
    ledger.sent("member", UdpPacket(MEMBER, HERE, b"\4" * 10, origin="member"))
    ledger.arrived("host", come_from(STRANGER, b"\4" * 10), honest=False)
    ledger.sent("host", to(STRANGER, b"\4" * 30))
    assert ledger.sent_to(STRANGER) == 30
    with pytest.raises(Broken, match="no member"):
        ledger.sent("host", to(STRANGER, b"\4"))


def test_where_an_honest_packet_came_from_a_member_is() -> None:
    ledger = AddressLedger()
    ledger.arrived("host", come_from(MEMBER, b"\1"), honest=True)
    ledger.sent("host", to(MEMBER, b"\4" * 1000))


def test_cookies_may_not_be_longer_than_what_they_answer() -> None:
    ledger = AddressLedger()
    ledger.arrived("host", come_from(STRANGER, bytes(100)), honest=False)
    ledger.sent("host", to(STRANGER, b"\3" * 64))
    with pytest.raises(Broken, match="amplifies"):
        ledger.sent("host", to(STRANGER, b"\3" * 64))


def test_an_inner_packet_that_nobody_sent_or_that_comes_twice_is_noticed() -> None:
    ledger = InnerLedger()
    packet = inner.udp(A, B, (1, 2), b"first")
    with pytest.raises(Broken, match="nobody sent"):
        ledger.arrived("b", packet)
    ledger.sent("a", packet)
    ledger.arrived("b", packet)
    with pytest.raises(Broken, match="twice"):
        ledger.arrived("b", packet)


def test_a_packet_that_was_marked_on_the_way_is_the_same_packet() -> None:
    ledger = InnerLedger()
    ledger.sent("a", inner.udp(A, B, (1, 2), b"x", ecn=2))
    ledger.arrived("b", inner.udp(A, B, (1, 2), b"x", ecn=3))


def test_a_wrong_inner_checksum_is_noticed() -> None:
    packet = inner.udp(A, B, (1, 2), b"x")
    with pytest.raises(Broken, match="checksum"):
        InnerLedger().arrived("b", packet[:-1] + b"y")
