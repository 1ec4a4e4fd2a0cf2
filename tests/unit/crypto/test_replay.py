"""The replay window: a table of cases, and a slow reference that remembers everything."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.crypto.replay import WINDOW, ReplayWindow

LAST = 2**64 - 2**13 - 2
"""The last counter that any suite lets through."""


# Counters in order of arrival, and whether each is new. Every row starts with a fresh window.
TABLE: list[tuple[str, list[tuple[int, bool]]]] = [
    ("zero once", [(0, True), (0, False)]),
    ("in order", [(0, True), (1, True), (2, True), (1, False), (2, False), (0, False)]),
    ("first is not zero", [(5, True), (0, True), (4, True), (5, False), (6, True), (0, False)]),
    ("one lost, then late", [(1, True), (3, True), (2, True), (2, False), (3, False)]),
    ("the last place of the window", [(WINDOW, True), (1, True), (1, False)]),
    ("just behind the window", [(WINDOW, True), (0, False)]),
    ("an old one, never seen", [(WINDOW + 5, True), (5, False), (6, True), (6, False)]),
    ("a jump of the window less one", [(0, True), (WINDOW - 1, True), (0, False), (1, True)]),
    ("a jump of exactly the window", [(0, True), (WINDOW, True), (0, False), (1, True), (WINDOW, False)]),
    ("a jump past the window", [(0, True), (WINDOW + 1, True), (0, False), (1, False), (2, True)]),
    ("a jump of many windows", [(7, True), (7 + 9 * WINDOW, True), (7 + 8 * WINDOW, False), (8 + 8 * WINDOW, True)]),
    ("a place that is used again", [(3, True), (3 + WINDOW, True), (3, False), (3 + WINDOW, False)]),
    ("around the end of the ring", [(WINDOW - 2, True), (WINDOW + 2, True), (WINDOW, True), (WINDOW - 1, True),
                                   (WINDOW + 1, True), (WINDOW, False), (WINDOW + 2, False), (WINDOW - 2, False)]),
    ("marks in the gap of a wrap are cleared", [(1, True), (WINDOW - 3, True), (WINDOW + 4, True), (WINDOW + 1, True),
                                               (WINDOW + 1, False), (1, False)]),
    ("far out", [(2**63, True), (2**63 - 1, True), (2**63, False), (2**63 - WINDOW, False)]),
    ("the very last", [(LAST, True), (LAST, False), (LAST - 1, True), (LAST - WINDOW + 1, True), (LAST - WINDOW, False),
                       (0, False)]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arrivals"), TABLE, ids=[name for name, _ in TABLE])
def test_cases(name: str, arrivals: list[tuple[int, bool]]) -> None:
    window = ReplayWindow()
    for position, (counter, new) in enumerate(arrivals):
        assert window.check(counter) is new, (position, counter)
        assert window.accept(counter) is new, (position, counter)


def test_a_check_marks_nothing() -> None:
    window = ReplayWindow()
    for _ in range(3):
        assert window.check(10**9)
        assert window.check(0)
    assert window.highest == -1
    assert window.accept(0)


def test_the_whole_window_backwards_and_again() -> None:
    window = ReplayWindow()
    counters = range(3 * WINDOW, 2 * WINDOW, -1)
    assert all(window.accept(counter) for counter in counters)
    assert not any(window.accept(counter) for counter in counters)
    assert not window.accept(2 * WINDOW)


def test_bulk_with_every_second_lost_and_then_late() -> None:
    window = ReplayWindow()
    assert all(window.accept(counter) for counter in range(0, 4 * WINDOW, 2))
    late = range(1, 4 * WINDOW, 2)
    assert [counter for counter in late if window.accept(counter)] == list(
        range(3 * WINDOW - 1, 4 * WINDOW, 2)
    )


@pytest.mark.parametrize("gap", [1, 2, 3, 63, WINDOW - 1])
def test_a_gap_does_not_inherit_the_marks_of_a_window_ago(gap: int) -> None:
    window = ReplayWindow()
    assert all(window.accept(counter) for counter in range(WINDOW + 100))
    late = range(WINDOW + 100, WINDOW + 100 + gap)
    assert window.accept(late.stop)
    assert all(window.accept(counter) for counter in late)
    assert not any(window.accept(counter) for counter in late)


class Memory:
    """The same contract, by remembering all that was ever accepted."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.highest = -1

    def accept(self, counter: int) -> bool:
        if counter in self.seen or counter <= self.highest - WINDOW:
            return False
        self.seen.add(counter)
        self.highest = max(self.highest, counter)
        return True


steps = st.one_of(
    st.integers(-3, 3),
    st.integers(-WINDOW - 2, -WINDOW + 2),
    st.integers(WINDOW - 2, WINDOW + 2),
    st.integers(-WINDOW, 2 * WINDOW),
)


@settings(max_examples=200, deadline=None)
@given(start=st.integers(0, 2**64 - 2**20), moves=st.lists(steps, max_size=60))
def test_against_a_perfect_memory(start: int, moves: list[int]) -> None:
    window, memory = ReplayWindow(), Memory()
    counter = start
    for move in moves:
        counter = max(0, counter + move)
        expected = memory.accept(counter)
        assert window.check(counter) is expected
        assert window.accept(counter) is expected
        assert window.highest == memory.highest
        counter = memory.highest if move > WINDOW else counter
