"""One exchange of Noise IKpsk2: what both sides agree on, and that nothing in it can be turned down."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.crypto.primitives import SODIUM
from meshnode.proto.constants import FAILED_RESPONSES_PER_ATTEMPT
from meshnode.proto.handshake import (
    NO_PSK,
    Completed,
    InitiatorExchange,
    ResponderExchange,
    Secrets,
    choose_suite,
)
from meshnode.values import BadPacket, Capability, Suite
from meshnode.wire.handshake import InitiationPayload, prologue
from tests.unit.proto.entropy import Dice
from tests.unit.proto.people import NETWORK, Person

ANN, BOB, EVE = Person("ann"), Person("bob"), Person("eve")
CHACHA, AES = Suite.CHACHA20_POLY1305, Suite.AES_256_GCM
OFFER = InitiationPayload(1, 0, Capability.ECN | Capability.RELAY, (AES, CHACHA), (b"x" * 120,))
MACS = bytes(32)
dice = Dice("handshake")


def secrets(person: Person, network: bytes = NETWORK) -> Secrets:
    return Secrets(SODIUM, prologue(network), person.static_secret)


class Exchange:
    """Ann writes to Bob, Bob answers."""

    def __init__(self, offer: InitiationPayload = OFFER, psk: bytes = NO_PSK) -> None:
        self.ann = InitiatorExchange(secrets(ANN), BOB.static, 11, psk)
        self.initiation = self.ann.write(offer, dice.token(32)) + MACS

    def answer(
        self, suite: Suite = AES, psk: bytes = NO_PSK, capabilities: Capability = Capability.RELAY
    ) -> tuple[bytes, Completed]:
        bob = ResponderExchange(secrets(BOB))
        offer = bob.read_untrusted(self.initiation)
        response, completed = bob.answer(offer, suite, capabilities, 22, dice.token(32), psk)
        return response + MACS, completed


def test_both_sides_hold_the_same_keys_and_nobody_else_does() -> None:
    exchange = Exchange()
    response, bobs = exchange.answer()
    anns = exchange.ann.read_response_untrusted(response)
    assert anns.hash == bobs.hash
    assert (anns.keys.send_key, anns.keys.receive_key) == (bobs.keys.receive_key, bobs.keys.send_key)
    assert anns.keys.send_key != anns.keys.receive_key
    assert (anns.keys.local_index, anns.keys.remote_index) == (11, 22)
    assert (bobs.keys.local_index, bobs.keys.remote_index) == (22, 11)
    assert (anns.keys.initiator, bobs.keys.initiator) == (True, False)
    assert anns.keys.suite == bobs.keys.suite == AES
    assert anns.keys.capabilities == bobs.keys.capabilities == Capability.RELAY


def test_the_responder_learns_who_it_is_and_what_it_says() -> None:
    exchange = Exchange()
    bob = ResponderExchange(secrets(BOB))
    assert bob.read_untrusted(exchange.initiation) == OFFER
    assert (bob.remote_static, bob.remote_index) == (ANN.static, 11)


def test_a_response_is_never_longer_than_the_initiation() -> None:
    bare = InitiationPayload(0, 0, Capability.NONE, (CHACHA,))
    exchange = Exchange(bare)
    assert len(exchange.answer(CHACHA)[0]) <= len(exchange.initiation)


def test_another_version_of_the_same_keys_every_time() -> None:
    keys = []
    for _ in range(3):
        exchange = Exchange()
        keys.append(exchange.ann.read_response_untrusted(exchange.answer()[0]).keys.send_key)
    assert len(set(keys)) == 3


def test_the_suite_is_part_of_the_keys() -> None:
    exchange = Exchange()
    responses = [exchange.answer(suite)[1].keys for suite in (AES, CHACHA)]
    assert responses[0].send_key != responses[1].send_key


@pytest.mark.parametrize(
    "reader",
    [secrets(EVE), secrets(BOB, bytes(32)), replace(secrets(BOB), prologue=b"meshnode\x02" + NETWORK)],
    ids=["another key", "another network", "another version"],
)
def test_who_is_not_meant_reads_nothing(reader: Secrets) -> None:
    with pytest.raises(BadPacket):
        ResponderExchange(reader).read_untrusted(Exchange().initiation)


def test_another_psk_fails_at_the_initiator() -> None:
    exchange = Exchange(psk=b"k" * 32)
    with pytest.raises(BadPacket):
        exchange.ann.read_response_untrusted(exchange.answer(psk=NO_PSK)[0])
    exchange.ann.read_response_untrusted(exchange.answer(psk=b"k" * 32)[0])


def test_a_forgery_leaves_the_exchange_as_it_was() -> None:
    exchange = Exchange()
    response, bobs = exchange.answer()
    for position in (12, 50, len(response) - 33):
        forged = bytearray(response)
        forged[position] ^= 1
        with pytest.raises(BadPacket):
            exchange.ann.read_response_untrusted(bytes(forged))
    assert exchange.ann.read_response_untrusted(response).hash == bobs.hash


def test_forgeries_cost_a_bounded_number_of_diffie_hellmans() -> None:
    exchange = Exchange()
    response, _ = exchange.answer()
    forged = response[:20] + bytes([response[20] ^ 1]) + response[21:]
    for _ in range(FAILED_RESPONSES_PER_ATTEMPT):
        with pytest.raises(BadPacket, match="bad tag"):
            exchange.ann.read_response_untrusted(forged)
    with pytest.raises(BadPacket, match="budget"):
        exchange.ann.read_response_untrusted(forged)


def test_before_the_initiation_there_is_nothing_to_answer() -> None:
    with pytest.raises(BadPacket, match="budget"):
        InitiatorExchange(secrets(ANN), BOB.static, 1).read_response_untrusted(Exchange().answer()[0])


def test_a_suite_that_was_not_offered_is_refused() -> None:
    exchange = Exchange(replace(OFFER, suites=(CHACHA,)))
    with pytest.raises(BadPacket, match="not offered"):
        exchange.ann.read_response_untrusted(exchange.answer(AES)[0])


def test_a_point_of_low_order_is_refused() -> None:
    exchange = Exchange()
    response, _ = exchange.answer()
    with pytest.raises(BadPacket):
        exchange.ann.read_response_untrusted(response[:12] + bytes(32) + response[44:])
    with pytest.raises(BadPacket):
        InitiatorExchange(secrets(ANN), bytes(32), 1).write(OFFER, dice.token(32))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_bit_of_an_initiation_can_be_changed(data: st.DataObject) -> None:
    """Of what the handshake covers: from the ephemeral key on to the macs."""
    message = bytearray(Exchange().initiation)
    bit = data.draw(st.integers(8 * 8, (len(message) - 32) * 8 - 1))
    message[bit // 8] ^= 1 << bit % 8
    bob = ResponderExchange(secrets(BOB))
    with pytest.raises(BadPacket):
        bob.read_untrusted(bytes(message))


def test_not_even_the_highest_bit_of_the_ephemeral_which_the_curve_ignores() -> None:
    """RFC 7748, section 5; the handshake hash covers it."""
    message = bytearray(Exchange().initiation)
    message[39] ^= 0x80
    with pytest.raises(BadPacket):
        ResponderExchange(secrets(BOB)).read_untrusted(bytes(message))


@settings(max_examples=80, deadline=None)
@given(junk=st.binary(max_size=1300), cut=st.integers(0, 400))
def test_any_bytes(junk: bytes, cut: int) -> None:
    exchange = Exchange()
    response, bobs = exchange.answer()
    for message in (junk, b"\1\1\0\0" + junk, exchange.initiation[: min(cut, len(exchange.initiation) - 1)]):
        with pytest.raises(BadPacket):
            ResponderExchange(secrets(BOB)).read_untrusted(message)
    for message in (junk, b"\2\1\0\0" + junk, response[: min(cut, len(response) - 1)]):
        with pytest.raises(BadPacket):
            exchange.ann.read_response_untrusted(message)
    assert exchange.ann.read_response_untrusted(response).hash == bobs.hash


def test_the_initiators_favourite_among_ours_is_chosen() -> None:
    assert choose_suite((AES, CHACHA), (CHACHA, AES)) is AES
    assert choose_suite((AES, CHACHA), (CHACHA,)) is CHACHA
    for offered, ours in itertools.product([(), (AES,)], [(CHACHA,)]):
        with pytest.raises(BadPacket, match="no common suite"):
            choose_suite(offered, ours)


def test_nothing_secret_is_shown() -> None:
    exchange = Exchange()
    _, completed = exchange.answer()
    shown = repr((secrets(ANN), exchange.ann, completed))
    for secret in (ANN.static_secret, completed.keys.send_key, completed.keys.receive_key):
        assert repr(secret) not in shown
