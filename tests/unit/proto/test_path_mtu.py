"""How big a datagram may be on a path: found quickly, noticed when it shrinks, and never fed by small probes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.proto.constants import (
    BASE_MTU,
    LEAST_MTU,
    MTU_BUSY_INTERVAL,
    MTU_IDLE_INTERVAL,
    MTU_PROBE_TIMEOUT,
    MTU_PROBES,
)
from meshnode.proto.path_mtu import COMMON_SIZES, PathMtu
from meshnode.values import MILLISECOND, SECOND

START = 1000 * SECOND
RTT = 30 * MILLISECOND
WANTED = 1452


class Pipe:
    """A path that passes what is no bigger than `limit` and loses the rest in silence."""

    def __init__(self, limit: int, wanted: int = WANTED) -> None:
        self.limit = limit
        self.now = START
        self.mtu = PathMtu(wanted, START)
        self.sent: list[int] = []
        self.refuses = False
        self._echoes: list[tuple[int, bytes]] = []
        self._number = 0

    def run(self, duration: int) -> None:
        end = self.now + duration
        while True:
            due = min([self.mtu.next_wakeup(), *(when for when, _ in self._echoes)])
            if due > end:
                self.now = end
                return
            self.now = max(due, self.now)
            for when, token in [e for e in self._echoes if e[0] <= self.now]:
                self._echoes.remove((when, token))
                self.mtu.echoed(token, self.now)
            for size in self.mtu.due(self.now):
                self._send(size)
            self.now += 1

    def _send(self, size: int) -> None:
        self._number += 1
        token = self._number.to_bytes(8, "big")
        self.mtu.sent(size, token, self.now)
        self.sent.append(size)
        if size <= self.limit:
            self._echoes.append((self.now + RTT, token))
        elif self.refuses:
            self.mtu.too_big(size, self.now)


def test_before_anything_is_known_the_base_is_used() -> None:
    assert PathMtu(WANTED, START).size == BASE_MTU
    assert not PathMtu(WANTED, START).confirmed
    assert PathMtu(700, START).size == 700


@pytest.mark.parametrize("limit", [9000, 1500, WANTED])
def test_what_is_wanted_is_confirmed_within_a_round_trip(limit: int) -> None:
    pipe = Pipe(limit)
    pipe.run(2 * RTT)
    assert (pipe.mtu.size, pipe.mtu.confirmed) == (WANTED, True)


@pytest.mark.parametrize("limit", [1451, 1420, 1399, 1300, 1280, 1279, 1000, 600, LEAST_MTU])
@pytest.mark.parametrize("refuses", [False, True])
def test_else_the_greatest_common_size_that_passes_is_found(limit: int, refuses: bool) -> None:
    pipe = Pipe(limit)
    pipe.refuses = refuses
    pipe.run(20 * SECOND)
    expected = max(s for s in (*COMMON_SIZES, WANTED) if s <= limit)
    assert (pipe.mtu.size, pipe.mtu.confirmed) == (expected, True)


def test_where_nothing_passes_the_least_is_used_and_the_search_goes_on() -> None:
    pipe = Pipe(0)
    pipe.run(60 * SECOND)
    assert (pipe.mtu.size, pipe.mtu.confirmed) == (LEAST_MTU, False)
    pipe.limit = 1500
    pipe.run(2 * MTU_IDLE_INTERVAL + 10 * SECOND)
    assert (pipe.mtu.size, pipe.mtu.confirmed) == (WANTED, True)


def test_less_than_the_least_is_not_searched() -> None:
    pipe = Pipe(9000, wanted=400)
    pipe.run(SECOND)
    assert pipe.mtu.size == 400
    pipe = Pipe(0, wanted=LEAST_MTU)
    pipe.run(60 * SECOND)
    assert pipe.mtu.size == LEAST_MTU


def test_a_path_that_shrinks_is_noticed_and_searched_again() -> None:
    pipe = Pipe(1500)
    pipe.run(10 * SECOND)
    pipe.limit = 1300
    pipe.run(MTU_IDLE_INTERVAL + 20 * SECOND)
    assert (pipe.mtu.size, pipe.mtu.confirmed) == (1300, True)


def test_a_path_that_grows_is_used() -> None:
    pipe = Pipe(1400)
    pipe.run(20 * SECOND)
    assert pipe.mtu.size == 1400
    pipe.limit = 1500
    pipe.run(2 * MTU_IDLE_INTERVAL)
    assert pipe.mtu.size == WANTED


def test_under_traffic_a_black_hole_is_noticed_sooner() -> None:
    pipe = Pipe(1500)
    pipe.run(10 * SECOND)
    pipe.limit = 1300
    for _ in range(60):
        pipe.mtu.busy(pipe.now)
        pipe.run(SECOND)
        if pipe.mtu.size == 1300:
            break
    assert pipe.mtu.size == 1300
    assert pipe.now - START < 10 * SECOND + MTU_BUSY_INTERVAL + (MTU_PROBES + 3) * MTU_PROBE_TIMEOUT * 2


def test_while_it_searches_traffic_changes_nothing() -> None:
    mtu = PathMtu(WANTED, START)
    before = mtu.next_wakeup()
    mtu.busy(START)
    assert mtu.next_wakeup() == before


def test_one_lost_probe_is_not_a_smaller_path() -> None:
    pipe = Pipe(1500)
    pipe.run(10 * SECOND)
    pipe.limit = 0
    pipe.run(MTU_IDLE_INTERVAL - 8 * SECOND)
    pipe.limit = 1500
    pipe.run(10 * SECOND)
    assert (pipe.mtu.size, pipe.mtu.confirmed) == (WANTED, True)


def test_the_kernel_says_no_to_the_size_in_use() -> None:
    pipe = Pipe(1500)
    pipe.run(10 * SECOND)
    pipe.limit, pipe.refuses = 1300, True
    assert pipe.mtu.too_big(WANTED, pipe.now)
    assert pipe.mtu.size == LEAST_MTU
    pipe.run(5 * SECOND)
    assert pipe.mtu.size == 1300


def test_what_the_kernel_says_about_other_sizes_is_nothing() -> None:
    pipe = Pipe(1500)
    pipe.run(10 * SECOND)
    assert not pipe.mtu.too_big(9000, pipe.now)
    assert pipe.mtu.size == WANTED
    fresh = PathMtu(LEAST_MTU, START)
    assert not fresh.too_big(100, START)


def test_an_echo_that_is_not_ours() -> None:
    mtu = PathMtu(WANTED, START)
    assert mtu.echoed(bytes(8), START) is None
    mtu.sent(WANTED, b"token", START)
    assert mtu.echoed(b"token", START + RTT) is True
    assert mtu.echoed(b"token", START + RTT) is None


@pytest.mark.parametrize("lost", [1, 2])
def test_the_base_may_be_confirmed_after_the_wanted_size_has_failed(lost: int) -> None:
    pipe = Pipe(1400)
    pipe.limit = 0
    pipe.run(lost * MTU_PROBE_TIMEOUT - RTT)
    pipe.limit = 1400
    pipe.run(10 * SECOND)
    assert (pipe.mtu.size, pipe.mtu.confirmed) == (1400, True)


@settings(max_examples=60, deadline=None)
@given(
    wanted=st.integers(LEAST_MTU, 9000),
    limits=st.lists(
        st.tuples(st.integers(0, 9100), st.integers(1, 200), st.booleans()), min_size=1, max_size=5
    ),
)
def test_whatever_the_path_does_it_ends_up_right(wanted: int, limits: list[tuple[int, int, bool]]) -> None:
    pipe = Pipe(9100, wanted)
    for limit, seconds, refuses in limits:
        pipe.limit, pipe.refuses = limit, refuses
        pipe.run(seconds * SECOND)
        assert len(pipe.mtu._waiting) == len(pipe.mtu._sent) <= 2 * len(COMMON_SIZES)
        assert pipe.mtu.size <= max(wanted, LEAST_MTU)
    pipe.run(3 * MTU_IDLE_INTERVAL + 60 * SECOND)
    if pipe.limit >= LEAST_MTU:
        assert pipe.mtu.confirmed
        assert pipe.mtu.size <= pipe.limit
    else:
        assert not pipe.mtu.confirmed
    if pipe.limit >= wanted:
        assert pipe.mtu.size == wanted
