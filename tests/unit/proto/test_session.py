"""The keys of one peer: which seal, when they are renewed, when they end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.crypto.suites import SUITES
from meshnode.proto.constants import (
    CROSSING_TIME,
    REJECT_AFTER_TIME,
    REKEY_AFTER_TIME,
    RESPONDER_REKEY_TIME,
    SESSIONS_PER_PEER,
)
from meshnode.proto.session import Session, Sessions
from meshnode.values import SECOND, Capability, SessionKeys, Suite

START = 1000 * SECOND


def keys(index: int, initiator: bool = True, suite: Suite = Suite.CHACHA20_POLY1305) -> SessionKeys:
    return SessionKeys(index, index + 1000, suite, bytes(32), bytes(32), initiator, Capability.NONE)


def held(sessions: Sessions) -> list[int]:
    return [s.local_index for s in sessions]


def sealing(sessions: Sessions) -> int | None:
    session = sessions.sealing()
    return None if session is None else session.local_index


# --- life and death ---------------------------------------------------------------------------------------------------


def test_the_initiator_rekeys_first_and_the_responder_only_if_it_has_not() -> None:
    assert Session(keys(1, True), START, True).rekey_at() == START + REKEY_AFTER_TIME
    assert Session(keys(1, False), START, True).rekey_at() == START + RESPONDER_REKEY_TIME


@pytest.mark.parametrize("suite", Suite)
def test_every_suite_has_its_own_limit_of_datagrams(suite: Suite) -> None:
    session = Session(keys(1, suite=suite), START, True)
    for sent, worn, dead in (
        (SUITES[suite].rekey_after - 1, False, False),
        (SUITES[suite].rekey_after, True, False),
        (SUITES[suite].reject_after - 1, True, False),
        (SUITES[suite].reject_after, True, True),
    ):
        session.sent = sent
        assert (session.worn(), session.dead(START)) == (worn, dead)


def test_no_key_is_used_for_longer_than_180_seconds() -> None:
    sessions = Sessions(True)
    sessions.add(keys(1), START, True)
    assert sessions.next_expiry() == START + REJECT_AFTER_TIME
    assert sessions.expire(START + REJECT_AFTER_TIME - 1) == []
    assert [s.local_index for s in sessions.expire(START + REJECT_AFTER_TIME)] == [1]
    assert sealing(sessions) is None
    assert sessions.next_expiry() is None


def test_the_oldest_expires_first() -> None:
    sessions = Sessions(True)
    sessions.add(keys(1), START, True)
    sessions.add(keys(2), START + SECOND, True)
    assert sessions.next_expiry() == START + REJECT_AFTER_TIME
    sessions.expire(START + REJECT_AFTER_TIME)
    assert held(sessions) == [2]
    assert sessions.next_expiry() == START + SECOND + REJECT_AFTER_TIME


def test_clearing_returns_all() -> None:
    sessions = Sessions(True)
    sessions.add(keys(1), START, True)
    sessions.add(keys(2, False), START, False)
    assert len(sessions) == 2
    assert [s.local_index for s in sessions.clear()] == [1, 2]
    assert len(sessions) == 0
    assert sessions.find(1) is None


# --- which one seals --------------------------------------------------------------------------------------------------


def test_an_unconfirmed_session_never_seals() -> None:
    sessions = Sessions(True)
    assert sealing(sessions) is None
    sessions.add(keys(1, False), START, False)
    assert sealing(sessions) is None
    session = sessions.find(1)
    assert session is not None
    session.confirmed = True
    assert sealing(sessions) == 1


def test_the_newest_seals_and_the_one_before_stays_open() -> None:
    sessions = Sessions(True)
    sessions.add(keys(1), START, True)
    sessions.add(keys(2), START + REKEY_AFTER_TIME, True)
    assert sealing(sessions) == 2
    assert held(sessions) == [1, 2]


def test_only_the_newest_answer_of_ours_can_be_in_use() -> None:
    sessions = Sessions(True)
    sessions.add(keys(1), START, True)
    assert sessions.add(keys(2, False), START, False) == []
    assert [s.local_index for s in sessions.add(keys(3, False), START, False)] == [2]
    assert held(sessions) == [1, 3]
    assert sessions.add(keys(4), START, True) == []
    assert held(sessions) == [1, 3, 4]


@pytest.mark.parametrize("ours_first", [True, False])
def test_of_a_crossing_pair_both_sides_choose_the_lower_ids(ours_first: bool) -> None:
    """Whatever the order in which the two handshakes finish on either side."""
    chosen = []
    for we_are_lower in (True, False):
        sessions = Sessions(we_are_lower)
        order = [True, False] if ours_first else [False, True]
        for number, initiator in enumerate(order):
            by_lower = initiator == we_are_lower
            sessions.add(keys(10 if by_lower else 20, initiator), START + number, True, crossed=True)
        chosen.append(sealing(sessions))
        assert len(sessions) == 2
    assert chosen == [10, 10]


def test_sessions_of_one_direction_have_not_crossed() -> None:
    sessions = Sessions(False)
    sessions.add(keys(1), START, True, crossed=True)
    sessions.add(keys(2), START + 1, True, crossed=True)
    assert sealing(sessions) == 2


def test_what_did_not_cross_wins_by_being_newer() -> None:
    """A peer that has restarted knows only the session that it has just made."""
    sessions = Sessions(True)
    sessions.add(keys(1, True), START, True)
    sessions.add(keys(2, False), START + 1, True)
    assert sealing(sessions) == 2


def test_long_after_nothing_has_crossed() -> None:
    sessions = Sessions(True)
    sessions.add(keys(1, True), START, True, crossed=True)
    sessions.add(keys(2, False), START + CROSSING_TIME, True, crossed=True)
    assert sealing(sessions) == 2


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans(), st.integers(0, 90)), max_size=30)
)
def test_whatever_comes_there_are_few_and_the_one_in_use_is_alive(
    steps: list[tuple[bool, bool, bool, int]],
) -> None:
    sessions, now, dropped = Sessions(True), START, []
    for index, (initiator, confirmed, crossed, gap) in enumerate(steps):
        now += gap * SECOND
        dropped += sessions.expire(now)
        before = sealing(sessions)
        dropped += sessions.add(keys(index, initiator), now, confirmed or initiator, crossed)
        assert len(sessions) <= SESSIONS_PER_PEER
        assert len([s for s in sessions if not s.confirmed]) <= 1
        chosen = sessions.sealing()
        assert chosen is None or (chosen.confirmed and not chosen.dead(now))
        assert chosen is not None or before is None
        assert sorted([s.local_index for s in dropped] + held(sessions)) == list(range(index + 1))
