"""The ways to a peer: what proves one, what kills one, which is chosen, and what may be sent before it is proven."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.proto.constants import (
    CANDIDATES_PER_PEER,
    KEEPALIVE_INTERVAL,
    PATH_MISSES,
    PROBE_BACKOFF,
    PROBE_TIMEOUT,
    PROVEN_PROBE_INTERVAL,
    UNPROVEN_FACTOR,
)
from meshnode.proto.paths import CLEARLY_BETTER, LATE_ECHOES, Candidate, Origin, Paths, usable_endpoint
from meshnode.values import MILLISECOND, SECOND, Endpoint, Path, PathKind, PeerId

START = 1000 * SECOND
RTT = 20 * MILLISECOND
PROBE = 100


def udp(number: int) -> Path:
    return Path(PathKind.UDP, Endpoint("192.0.2.1", number))


A, B, C = udp(1), udp(2), udp(3)
RELAY = Path(PathKind.RELAY, via=PeerId(bytes(16)))


class Prober:
    """Sends what is due, as a peer does, and answers on the paths that work, after their time."""

    def __init__(self, *paths: Path, origin: Origin = Origin.RECORD) -> None:
        self.paths = Paths()
        self.now = START
        self.rtts: dict[Path, int] = {}
        self.flying: list[tuple[int, bytes]] = []
        self.sent: list[tuple[int, Path]] = []
        self._tokens = 0
        for path in paths:
            self.paths.offer(path, origin, self.now)

    def candidate(self, path: Path) -> Candidate:
        found = self.paths.find(path)
        assert found is not None
        return found

    def run(self, duration: int) -> None:
        end = self.now + duration
        while True:
            wakeup = self.paths.next_wakeup()
            arrivals = sorted(self.flying)
            times = [t for t in (wakeup, arrivals[0][0] if arrivals else None) if t is not None]
            if not times or max(min(times), self.now) > end:
                self.now = end
                return
            self.now = max(min(times), self.now)
            while self.flying and min(self.flying)[0] <= self.now:
                arrival = min(self.flying)
                self.flying.remove(arrival)
                self.paths.echoed(arrival[1], self.now)
            self.probe()
            self.now += 1

    def probe(self) -> None:
        for candidate in self.paths.due(self.now):
            if not self.paths.may_send(candidate, PROBE):
                self.paths.postpone(candidate, self.now)
                continue
            self._tokens += 1
            token = self._tokens.to_bytes(8, "big")
            self.paths.probed(candidate, token, self.now)
            self.sent.append((self.now, candidate.path))
            if candidate.path in self.rtts:
                self.flying.append((self.now + self.rtts[candidate.path], token))
        self.paths.choose()

    def times(self, path: Path) -> list[int]:
        return [at - START for at, sent in self.sent if sent == path]


def alive(*rtts: tuple[Path, int]) -> Prober:
    """Probed paths that work, with these round-trip times in ms; the first one is chosen first."""
    prober = Prober(*(path for path, _ in rtts))
    prober.rtts = {path: rtt * MILLISECOND for path, rtt in rtts}
    prober.run(2 * SECOND)
    assert len(prober.paths.proven()) == len(rtts)
    return prober


# --- proof ------------------------------------------------------------------------------------------------------------


def test_nothing_is_used_before_it_has_answered() -> None:
    prober = Prober(A)
    prober.paths.heard(A, 1000, START)
    prober.run(3 * SECOND)
    assert prober.paths.proven() == ()
    assert prober.paths.choose() is None
    assert prober.paths.active is None


def test_an_echo_of_our_probe_proves_the_path_on_which_it_was_sent() -> None:
    prober = Prober(A, B)
    prober.rtts = {A: RTT}
    prober.run(SECOND)
    assert prober.paths.proven() == (A,)
    assert prober.paths.active == A
    assert prober.candidate(A).rtt == RTT


def test_an_echo_of_nothing_proves_nothing() -> None:
    prober = Prober(A)
    prober.probe()
    assert prober.paths.echoed(bytes(8), prober.now) is None
    assert prober.paths.proven() == ()


def test_an_echo_counts_once() -> None:
    paths = Paths()
    paths.offer(A, Origin.RECORD, START)
    paths.probed(paths.due(START)[0], b"token", START)
    assert paths.echoed(b"token", START + RTT) == (A, RTT)
    assert paths.echoed(b"token", START + RTT) is None


def test_a_newer_echo_settles_the_older_probes() -> None:
    paths = Paths()
    paths.offer(A, Origin.RECORD, START)
    candidate = paths.due(START)[0]
    paths.probed(candidate, b"lost", START)
    paths.probed(candidate, b"answered", START + 1)
    assert paths.echoed(b"answered", START + RTT) == (A, RTT - 1)
    paths.due(START + 5 * SECOND)
    assert candidate.misses == 0


def test_an_answer_at_once_has_some_round_trip_time() -> None:
    paths = Paths()
    paths.offer(A, Origin.RECORD, START)
    paths.probed(paths.due(START)[0], b"token", START)
    assert paths.echoed(b"token", START) == (A, 1)


def test_a_handshake_proves_too_and_what_it_did_not_measure_is_measured_at_once() -> None:
    paths = Paths()
    paths.prove(A, None, START)
    assert paths.proven() == (A,)
    assert [c.path for c in paths.due(START)] == [A]
    paths.probed(paths.due(START)[0], b"token", START)
    paths.echoed(b"token", START + RTT)
    candidate = paths.find(A)
    assert candidate is not None
    assert candidate.rtt == RTT


def test_the_round_trip_time_is_smoothed() -> None:
    paths = Paths()
    paths.prove(A, 80, START)
    paths.prove(A, 160, START)
    candidate = paths.find(A)
    assert candidate is not None
    assert candidate.rtt == 90


# --- death ------------------------------------------------------------------------------------------------------------


def test_three_misses_in_a_row_kill_a_path() -> None:
    prober = alive((A, 20))
    prober.rtts = {}
    before = len(prober.sent)
    prober.paths.wake(prober.now)
    prober.run(PATH_MISSES * PROBE_TIMEOUT - SECOND // 2)
    assert prober.paths.proven() == (A,)
    prober.run(SECOND)
    assert prober.paths.proven() == ()
    assert prober.paths.choose() is None
    assert len(prober.sent) - before >= PATH_MISSES


def test_two_misses_do_not() -> None:
    prober = alive((A, 20))
    prober.rtts = {}
    prober.paths.wake(prober.now)
    prober.run(PATH_MISSES * PROBE_TIMEOUT - SECOND // 2)
    prober.rtts = {A: RTT}
    prober.run(60 * SECOND)
    assert prober.paths.active == A
    assert prober.candidate(A).misses == 0


def test_a_dead_path_is_probed_on_and_lives_again() -> None:
    prober = alive((A, 20))
    prober.rtts = {}
    prober.paths.wake(prober.now)
    prober.run(300 * SECOND)
    assert prober.paths.active is None
    prober.rtts = {A: RTT}
    prober.run(PROBE_BACKOFF[-1] + SECOND)
    assert prober.paths.active == A


def test_a_slow_path_is_not_a_dead_one() -> None:
    """A bloated queue of a second: every echo is late, and every probe is answered."""
    prober = alive((A, 20))
    prober.rtts = {A: 1040 * MILLISECOND}
    for _ in range(60):
        prober.paths.sent_data(prober.now)
        prober.run(SECOND)
        assert prober.paths.active == A
    assert prober.candidate(A).rtt > 500 * MILLISECOND


def test_no_more_than_a_few_late_echoes_are_waited_for() -> None:
    prober = Prober(A)
    prober.run(3600 * SECOND)
    assert len(prober.candidate(A).late) <= LATE_ECHOES
    assert len(prober.candidate(A).waiting) <= 1


# --- schedule ---------------------------------------------------------------------------------------------------------


def test_a_silent_candidate_is_asked_ever_more_seldom_and_for_ever() -> None:
    prober = Prober(A)
    prober.run(600 * SECOND)
    gaps = [round((b - a) / SECOND, 2) for a, b in zip(prober.times(A), prober.times(A)[1:], strict=False)]
    assert gaps[:4] == [0.25, 0.5, 1.0, 2.0]
    assert gaps == sorted(gaps)
    assert gaps[-1] == PROBE_BACKOFF[-1] / SECOND


def test_the_path_in_use_is_kept_awake_also_when_it_was_proven_by_a_handshake() -> None:
    paths = Paths()
    paths.prove(A, RTT, START)
    paths.choose()
    wakeup = paths.next_wakeup()
    assert wakeup is not None
    assert wakeup <= START + KEEPALIVE_INTERVAL
    prober = alive((A, 20))
    prober.run(200 * SECOND)
    gaps = [b - a for a, b in zip(prober.times(A), prober.times(A)[1:], strict=False)]
    assert max(gaps) <= KEEPALIVE_INTERVAL + SECOND


def test_a_path_not_in_use_is_kept_warm_more_seldom() -> None:
    prober = alive((A, 20), (B, 20))
    prober.sent.clear()
    prober.run(300 * SECOND)
    assert (
        300 * SECOND // PROVEN_PROBE_INTERVAL - 1
        <= len(prober.times(B))
        <= 300 * SECOND // PROVEN_PROBE_INTERVAL + 1
    )


def test_under_traffic_the_path_in_use_is_watched_every_second() -> None:
    prober = alive((A, 20))
    prober.run(10 * SECOND)
    prober.sent.clear()
    for _ in range(20):
        prober.paths.sent_data(prober.now)
        prober.run(SECOND // 2)
    assert 9 <= len(prober.sent) <= 11
    prober.paths.active = None
    prober.paths.sent_data(prober.now)


def test_waking_up_asks_everybody_at_once() -> None:
    prober = alive((A, 20), (B, 20))
    prober.run(10 * SECOND)
    prober.sent.clear()
    prober.paths.wake(prober.now)
    prober.run(MILLISECOND)
    assert sorted(path for _, path in prober.sent) == [A, B]


def test_without_traffic_nobody_is_in_a_hurry() -> None:
    paths = Paths()
    paths.prove(A, RTT, START)
    paths.choose()
    paths.prove(A, RTT, START)
    assert paths.next_wakeup() == START + KEEPALIVE_INTERVAL


def test_no_candidates_no_wakeup() -> None:
    assert Paths().next_wakeup() is None
    assert Paths().due(START) == []


# --- choice -----------------------------------------------------------------------------------------------------------


def test_the_fastest_is_chosen() -> None:
    assert alive((A, 50), (B, 10), (C, 80)).paths.choose() == B


def test_two_like_paths_do_not_take_turns() -> None:
    prober = alive((A, 20), (B, 21))
    chosen = prober.paths.choose()
    for rtt in (19, 22, 18, 23, 20):
        prober.rtts[A if chosen == B else B] = rtt * MILLISECOND
        prober.paths.wake(prober.now)
        prober.run(SECOND)
        assert prober.paths.choose() == chosen


def test_a_clearly_faster_one_takes_over() -> None:
    prober = alive((A, 40))
    prober.paths.offer(B, Origin.RECORD, prober.now)
    prober.rtts[B] = RTT
    prober.run(SECOND)
    assert prober.paths.choose() == B


def test_a_small_gain_in_absolute_terms_is_none() -> None:
    paths = Paths()
    paths.prove(A, CLEARLY_BETTER, START)
    paths.choose()
    paths.prove(B, 1, START)
    assert paths.choose() == A


def test_a_path_of_unknown_speed_does_not_push_out_a_good_one() -> None:
    paths = Paths()
    paths.prove(A, RTT, START)
    assert paths.choose() == A
    paths.prove(B, None, START)
    assert paths.choose() == A


def test_a_direct_path_is_worth_a_detour_over_relays() -> None:
    prober = Prober(RELAY, A)
    prober.rtts = {RELAY: 30 * MILLISECOND, A: 30 * MILLISECOND}
    prober.run(SECOND)
    assert prober.paths.choose() == A


def test_the_first_miss_is_enough_where_there_is_another_way() -> None:
    prober = alive((A, 20), (B, 60))
    assert prober.paths.choose() == A
    del prober.rtts[A]
    prober.paths.wake(prober.now)
    prober.run(PROBE_TIMEOUT + 100 * MILLISECOND)
    assert prober.paths.choose() == B
    assert A in prober.paths.proven()


def test_the_next_best_takes_over_from_a_dead_one() -> None:
    prober = alive((A, 20), (B, 60))
    del prober.rtts[A], prober.rtts[B]
    prober.paths.wake(prober.now)
    prober.run(SECOND // 2)
    prober.rtts[B] = 60 * MILLISECOND
    prober.run(5 * SECOND)
    assert prober.paths.active == B


def test_who_speaks_elsewhere_may_have_left_the_active_path() -> None:
    prober = alive((A, 20))
    prober.run(5 * SECOND)
    prober.paths.heard(B, 100, prober.now)
    assert A in [c.path for c in prober.paths.due(prober.now)]
    prober.probe()
    prober.paths.heard(B, 100, prober.now)
    assert A not in [c.path for c in prober.paths.due(prober.now)]


def test_just_proven_it_is_not_suspected() -> None:
    paths = Paths()
    paths.prove(A, RTT, START)
    paths.choose()
    paths.heard(B, 100, START + 1)
    assert [c.path for c in paths.due(START + 1)] == [B]


def test_candidates_come_most_promising_first() -> None:
    prober = alive((A, 40), (B, 20))
    prober.paths.active = A
    for path, origin in ((udp(9), Origin.OBSERVED), (udp(8), Origin.CONFIGURED), (udp(7), Origin.RECORD)):
        prober.paths.offer(path, origin, prober.now)
    assert [c.path for c in prober.paths.candidates()] == [A, B, udp(8), udp(7), udp(9)]


# --- strangers' addresses ---------------------------------------------------------------------------------------------


def test_an_address_that_was_only_heard_gets_three_times_what_came_from_it() -> None:
    paths = Paths()
    paths.heard(A, 100, START)
    candidate = paths.find(A)
    assert candidate is not None
    assert paths.may_send(candidate, 100 * UNPROVEN_FACTOR)
    assert not paths.may_send(candidate, 1)
    paths.heard(A, 10, START)
    assert paths.may_send(candidate, 30)
    assert not paths.may_send(candidate, 1)


def test_credit_cannot_be_saved_up_for_a_big_blow() -> None:
    paths = Paths()
    for _ in range(1000):
        paths.heard(A, 1500, START)
    candidate = paths.find(A)
    assert candidate is not None
    assert not paths.may_send(candidate, 20_000)


def test_what_is_proven_or_was_told_by_the_peer_itself_has_no_such_limit() -> None:
    paths = Paths()
    paths.prove(A, RTT, START)
    paths.offer(B, Origin.RECORD, START)
    for path in (A, B):
        candidate = paths.find(path)
        assert candidate is not None
        assert paths.may_send(candidate, 10_000)


def test_an_observed_address_is_probed_at_once_and_again_when_it_goes_on_talking() -> None:
    prober = Prober()
    for _ in range(20):
        prober.paths.heard(A, 200, prober.now)
        prober.run(100 * MILLISECOND)
    assert prober.times(A)[0] == 0
    assert 8 <= len(prober.sent) <= 11
    prober = Prober()
    prober.paths.heard(A, 200, prober.now)
    prober.run(20 * SECOND)
    assert len(prober.sent) == 6
    assert len(prober.sent) * PROBE <= 200 * UNPROVEN_FACTOR


@settings(max_examples=60, deadline=None)
@given(
    events=st.lists(st.tuples(st.integers(1, 40), st.integers(36, 1500), st.integers(0, SECOND)), max_size=60)
)
def test_however_many_addresses_speak_the_table_and_the_probes_are_bounded(
    events: list[tuple[int, int, int]],
) -> None:
    prober = Prober()
    heard: dict[Path, int] = {}
    for number, size, gap in events:
        prober.paths.heard(udp(number), size, prober.now)
        heard[udp(number)] = heard.get(udp(number), 0) + size
        prober.run(gap)
        assert len(prober.paths.candidates()) <= CANDIDATES_PER_PEER
    for path in heard:
        assert len(prober.times(path)) * PROBE <= UNPROVEN_FACTOR * heard[path]


# --- the table --------------------------------------------------------------------------------------------------------


def test_a_path_is_new_once_and_keeps_the_best_word_that_was_put_in_for_it() -> None:
    paths = Paths()
    assert paths.offer(A, Origin.OBSERVED, START)
    assert not paths.offer(A, Origin.RECORD, START)
    assert not paths.offer(A, Origin.LAN, START)
    candidate = paths.find(A)
    assert candidate is not None
    assert candidate.origin is Origin.RECORD


def test_a_newer_record_replaces_what_an_older_said_but_not_what_works() -> None:
    paths = Paths()
    for path in (A, B, C):
        paths.offer(path, Origin.RECORD, START)
    paths.offer(udp(9), Origin.CONFIGURED, START)
    paths.prove(A, RTT, START)
    paths.withdraw(Origin.RECORD, {B})
    assert {c.path for c in paths.candidates()} == {A, B, udp(9)}


def test_a_full_table_prefers_who_is_trusted_more() -> None:
    paths = Paths()
    for number in range(CANDIDATES_PER_PEER):
        assert paths.offer(udp(number + 1), Origin.RECORD, START)
    assert not paths.offer(udp(100), Origin.OBSERVED, START)
    paths.heard(udp(100), 100, START)
    paths.prove(udp(100), RTT, START)
    assert paths.find(udp(100)) is None
    assert paths.offer(udp(101), Origin.CONFIGURED, START)
    assert len(paths.candidates()) == CANDIDATES_PER_PEER


def test_of_the_least_trusted_the_most_tried_goes_first_and_what_works_stays() -> None:
    paths = Paths()
    for number in range(CANDIDATES_PER_PEER):
        paths.offer(udp(number + 1), Origin.OBSERVED, START + number)
    paths.prove(udp(1), RTT, START)
    for number in (3, 5):
        candidate = paths.find(udp(number))
        assert candidate is not None
        paths.postpone(candidate, START)
    for number in (100, 101, 102):
        assert paths.offer(udp(number), Origin.OBSERVED, START + 99)
    left = {c.path for c in paths.candidates()}
    assert {udp(1), udp(100), udp(101), udp(102)} <= left
    assert {udp(3), udp(5), udp(2)}.isdisjoint(left)


# --- endpoints that members claim -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "usable"),
    [
        ("192.0.2.1", True),
        ("10.0.0.1", True),
        ("2001:db8::1", True),
        ("fd00::1", True),
        ("fe80::1%2", True),
        ("fe80::1", False),
        ("febf::1", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("ff02::1", False),
        ("FF02::1", False),
        ("::ffff:127.0.0.1", False),
    ],
)
def test_which_endpoints_may_be_tried_at_all(host: str, usable: bool) -> None:
    assert usable_endpoint(host, 4655) is usable
    assert not usable_endpoint(host, 0)
    assert not usable_endpoint(host, 65536)
