"""The conversation with a gateway in virtual time: which version, how often, what is believed, what is kept."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.edge.mapping_client import (
    LONGEST_LIFETIME_S,
    PMP_ATTEMPTS,
    RETRY_TIME,
    SOONEST_ROUND,
    MappingClient,
)
from meshnode.edge.pcp import Transport
from meshnode.values import SECOND, BadPacket, Endpoint, Nanos
from tests.unit.edge.gateway import EXTERNAL, Gateway

START: Nanos = 1000 * SECOND
HERE = Endpoint(EXTERNAL, 4655)
KEY = bytes(range(32))


class Dice:
    """Entropy in the middle of its range: no randomness in the waits."""

    def token(self, size: int) -> bytes:
        return bytes([128]) * size


class Talk:
    """A client and a gateway; `requests` has the time and the bytes of each request."""

    def __init__(
        self, gateway: Gateway | None = None, with_tcp: bool = True, host: str = "192.168.1.5"
    ) -> None:
        self.now = START
        self.gateway = gateway
        self.client = MappingClient(host, 4655, with_tcp, KEY, Dice(), START)
        self.requests: list[tuple[float, bytes]] = []
        self.refused: list[str] = []

    def settle(self) -> None:
        """Let client and gateway talk until nothing more is said at this instant."""
        self.client.handle_timeout(self.now)
        while (request := self.client.poll_transmit()) is not None:
            self.requests.append(((self.now - START) / SECOND, request))
            answer = self.gateway.answer(request) if self.gateway else None
            if answer:
                self.hear(answer)

    def hear(self, data: bytes) -> None:
        try:
            self.client.handle_answer_untrusted(data, self.now)
        except BadPacket as bad:
            self.refused.append(bad.reason)

    def run(self, seconds: float) -> None:
        end = self.now + int(seconds * SECOND)
        self.settle()
        while (due := self.client.poll_timeout()) <= end:
            assert due > self.now, "it would spin"
            if self.gateway:
                self.gateway.epoch += (due - START) // SECOND - (self.now - START) // SECOND
            self.now = due
            self.settle()
        if self.gateway:
            self.gateway.epoch += (end - START) // SECOND - (self.now - START) // SECOND
        self.now = end

    @property
    def endpoint(self) -> Endpoint | None:
        return self.client.endpoint(self.now)

    def times(self) -> list[float]:
        return [round(at, 3) for at, _ in self.requests]


@pytest.mark.parametrize("pcp", [True, False], ids=["pcp", "nat-pmp"])
def test_a_gateway_maps_udp_and_tcp_on_one_port(pcp: bool) -> None:
    talk = Talk(Gateway(pcp=pcp, ports={17: 40_000}))
    talk.run(1)
    assert talk.endpoint == Endpoint(EXTERNAL, 40_000)
    assert talk.gateway is not None
    assert talk.gateway.mappings == {17: 40_000, 6: 40_000}
    assert talk.client.finding == f"{'PCP' if pcp else 'NAT-PMP'} maps {EXTERNAL}:40000"
    assert talk.refused == []


def test_udp_alone_when_tcp_is_not_wanted() -> None:
    talk = Talk(Gateway(), with_tcp=False)
    talk.run(1)
    assert talk.endpoint == HERE
    assert talk.gateway is not None
    assert talk.gateway.mappings == {17: 4655}


def test_a_mapping_of_tcp_elsewhere_is_given_back() -> None:
    talk = Talk(Gateway(ports={6: 9999}))
    talk.run(1)
    assert talk.endpoint == HERE
    assert talk.gateway is not None
    assert talk.gateway.mappings == {17: 4655}


def test_udp_counts_although_tcp_is_refused() -> None:
    talk = Talk(Gateway(code={6: 9}))
    talk.run(1)
    assert talk.endpoint == HERE
    assert talk.client.finding == "UDP only, for TCP unsupported protocol"


def test_ipv6_pinholes() -> None:
    talk = Talk(Gateway(external="2001:db8::5"), host="2001:db8::5")
    talk.run(1)
    assert talk.endpoint == Endpoint("2001:db8::5", 4655)


@pytest.mark.parametrize("pcp", [True, False], ids=["pcp", "nat-pmp"])
def test_it_is_renewed_at_half_its_lifetime(pcp: bool) -> None:
    talk = Talk(Gateway(pcp=pcp, lifetime=1000, ports={17: 40_000}))
    talk.run(5)
    first = len(talk.requests)
    assert talk.gateway is not None
    talk.gateway.ports.clear()
    talk.run(490)
    assert len(talk.requests) == first
    talk.run(10)
    assert talk.times()[first:] == [500.0] * (2 if pcp else 3)
    assert talk.endpoint == Endpoint(EXTERNAL, 40_000)
    talk.run(10_000)
    assert talk.endpoint is not None


def test_a_new_external_address_is_noticed() -> None:
    talk = Talk(Gateway(lifetime=1000))
    talk.run(5)
    assert talk.gateway is not None
    talk.gateway.external = "198.51.100.99"
    talk.client.refresh(talk.now)
    talk.run(1)
    assert talk.endpoint == Endpoint("198.51.100.99", 4655)


# --- silence and refusal --------------------------------------------------------------------------------------------


def test_the_schedule_towards_a_gateway_that_does_not_answer() -> None:
    talk = Talk()
    talk.run(300)
    waits = [0.25 * 2**number for number in range(PMP_ATTEMPTS - 1)]
    expected = [0.0, 3.0, 9.0, *(21 + sum(waits[:number]) for number in range(PMP_ATTEMPTS))]
    assert talk.times() == pytest.approx(expected, abs=0.01)
    assert talk.client.finding == "it does not answer"
    assert talk.client.poll_timeout() > talk.now + RETRY_TIME - 300 * SECOND
    assert [request[0] for _, request in talk.requests] == [2] * 3 + [0] * 9


def test_a_gateway_that_does_not_answer_costs_little_for_ever() -> None:
    talk = Talk()
    talk.run(24 * 3600)
    assert len(talk.requests) <= 48 * 12


def test_one_that_says_nobody_is_there_is_believed_at_once() -> None:
    talk = Talk()
    talk.settle()
    talk.client.handle_refused(talk.now)
    talk.run(1000)
    assert talk.times() == [0.0]
    assert talk.client.finding == "it maps no ports"


def test_an_old_gateway_that_ignores_pcp_is_found_all_the_same() -> None:
    class Old(Gateway):
        def answer(self, request: bytes) -> bytes | None:
            return None if request[0] else super().answer(request)

    talk = Talk(Old(pcp=False))
    talk.run(30)
    assert talk.endpoint == HERE


@pytest.mark.parametrize(("pcp", "text"), [(True, "user exceeded quota"), (False, "result 10")])
def test_a_refusal_is_told_and_asked_again_later(pcp: bool, text: str) -> None:
    talk = Talk(Gateway(pcp=pcp, code={17: 10}))
    talk.run(60)
    asked = len(talk.requests)
    assert talk.client.finding == text
    assert talk.endpoint is None
    talk.run(1000)
    assert len(talk.requests) == asked
    assert talk.gateway is not None
    talk.gateway.code.clear()
    talk.run(1000)
    assert talk.endpoint == HERE


def test_what_is_held_lasts_as_long_as_was_said_and_no_longer() -> None:
    talk = Talk(Gateway(lifetime=1000))
    talk.run(5)
    talk.gateway = None
    talk.run(990)
    assert talk.endpoint == HERE
    talk.run(10)
    assert talk.endpoint is None


def test_while_something_is_held_it_is_asked_again_before_it_expires() -> None:
    talk = Talk(Gateway(lifetime=1000))
    talk.run(5)
    gateway, talk.gateway = talk.gateway, None
    talk.run(700)
    talk.gateway = gateway
    talk.run(200)
    assert talk.endpoint == HERE
    talk.run(500)
    assert talk.endpoint == HERE


def test_a_gateway_that_spoke_pcp_is_not_taken_for_an_older_one() -> None:
    talk = Talk(Gateway(lifetime=1000))
    talk.run(5)
    talk.gateway = None
    talk.run(900)
    assert {request[0] for _, request in talk.requests} == {2}


@pytest.mark.parametrize("lifetime", [1, 10, 119])
def test_short_lifetimes_do_not_make_it_ask_often(lifetime: int) -> None:
    talk = Talk(Gateway(lifetime=lifetime))
    talk.run(3600)
    assert len(talk.requests) <= 2 * (3600 * SECOND // SOONEST_ROUND + 1)


def test_no_lifetime_is_for_ever() -> None:
    talk = Talk(Gateway(lifetime=0xFFFF_FFFF))
    talk.run(5)
    talk.gateway = None
    talk.run(LONGEST_LIFETIME_S)
    assert talk.endpoint is None


# --- restarts of either side ----------------------------------------------------------------------------------------


def test_a_gateway_that_has_forgotten_is_told_everything_again() -> None:
    talk = Talk(Gateway(lifetime=1000))
    talk.run(5)
    assert talk.gateway is not None
    talk.gateway.epoch = 3
    talk.gateway.mappings.clear()
    before = len(talk.requests)
    talk.client.refresh(talk.now)
    talk.run(1)
    assert talk.gateway.mappings == {17: 4655, 6: 4655}
    assert len(talk.requests) - before == 3


def test_an_epoch_may_not_go_back_by_more_than_a_second() -> None:
    for step, requests in ((-1, 2), (-2, 3)):
        talk = Talk(Gateway())
        talk.settle()
        assert talk.gateway is not None
        talk.gateway.epoch += step
        before = len(talk.requests)
        talk.client.refresh(talk.now)
        talk.settle()
        assert len(talk.requests) - before == requests


def test_a_gateway_whose_epoch_jumps_about_is_not_asked_for_ever() -> None:
    class Mad(Gateway):
        def answer(self, request: bytes) -> bytes | None:
            self.epoch = 5000 if self.epoch < 3000 else 7
            return super().answer(request)

    talk = Talk(Mad())
    talk.run(5)
    assert len(talk.requests) <= 4
    assert talk.endpoint == HERE


@pytest.mark.parametrize(
    ("drift", "lost"), [(0, False), (-200, False), (200, False), (-400, True), (400, True)]
)
def test_clocks_may_differ_by_a_sixteenth(drift: int, lost: bool) -> None:
    talk = Talk(Gateway(lifetime=8000))
    talk.run(3990)
    assert talk.gateway is not None
    talk.gateway.epoch += drift
    before = len(talk.requests)
    talk.client.refresh(talk.now)
    talk.run(1)
    assert len(talk.requests) - before == (3 if lost else 2)


def test_a_node_that_was_killed_renews_what_it_had() -> None:
    gateway = Gateway()
    Talk(gateway).run(1)
    again = Talk(gateway)
    again.run(1)
    assert again.endpoint == HERE
    assert len({request[24:36] for request in gateway.heard}) == 2


def test_what_is_held_is_given_back_at_the_end() -> None:
    for gateway in (Gateway(), Gateway(pcp=False)):
        talk = Talk(gateway)
        talk.run(1)
        assert len(gateway.mappings) == 2
        for request in talk.client.release():
            gateway.answer(request)
        assert gateway.mappings == {}
        assert talk.endpoint is None
        assert talk.client.release() == []


# --- what is not believed -------------------------------------------------------------------------------------------


def pcp_answer(talk: Talk, **change: int) -> bytes:
    """The right answer to the last request, changed at byte offsets `at_N`."""
    answer = bytearray(Gateway().answer(talk.requests[-1][1]) or b"")
    for place, value in change.items():
        answer[int(place.removeprefix("at_"))] = value
    return bytes(answer)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"at_24": 99}, "mapping nonce"),
        ({"at_35": 99}, "mapping nonce"),
        ({"at_24": 99, "at_3": 2}, "mapping nonce"),
        ({"at_36": 6}, "mapping unasked"),
        ({"at_36": 6, "at_3": 2}, "mapping unasked"),
        ({"at_41": 99}, "mapping unasked"),
        ({"at_42": 0, "at_43": 0}, "mapping endpoint"),
        ({"at_56": 127}, "mapping endpoint"),
        ({"at_56": 224}, "mapping endpoint"),
        ({"at_56": 0, "at_57": 0, "at_58": 0, "at_59": 0}, "mapping endpoint"),
        ({"at_6": 0, "at_7": 0}, "mapping endpoint"),
    ],
)
def test_a_wrong_answer_is_not_believed(change: dict[str, int], reason: str) -> None:
    talk = Talk()
    talk.settle()
    talk.hear(pcp_answer(talk, **change))
    assert talk.refused == [reason]
    assert talk.endpoint is None
    talk.hear(pcp_answer(talk))
    assert talk.endpoint == HERE


def test_answers_that_nobody_has_asked_for() -> None:
    talk = Talk(Gateway())
    talk.run(1)
    talk.hear(pcp_answer(talk))
    pmp = struct.pack(">BBHI", 0, 128, 0, 9) + bytes([198, 51, 100, 1])
    talk.hear(pmp)
    assert talk.refused == ["mapping unasked"] * 2
    talk = Talk()
    talk.settle()
    talk.hear(pmp)
    talk.hear(struct.pack(">BBHI", 0, 129, 2, 9))
    assert talk.refused == ["mapping unasked"] * 2
    assert talk.client.finding == "not asked yet"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=70), st.floats(0, 100)), max_size=10), st.booleans())
def test_whatever_is_heard_it_neither_fails_nor_spins(words: list[tuple[bytes, float]], pcp: bool) -> None:
    talk = Talk()
    for word, seconds in words:
        talk.run(seconds)
        talk.hear(bytes([2 if pcp else 0]) + word)
        talk.hear(word)
    talk.run(100)
    assert talk.endpoint is None
    assert len(talk.requests) < 100


def test_transports_are_what_the_header_says() -> None:
    assert (Transport.UDP, Transport.TCP) == (17, 6)
