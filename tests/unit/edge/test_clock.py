"""Clocks: kernel stamps, suspends, clock steps, and how long trio may sleep."""

from __future__ import annotations

import trio
from hypothesis import given
from hypothesis import strategies as st

from meshnode.edge import clock
from meshnode.edge.clock import ClockStepped, ClockWatch, Suspended
from meshnode.edge.entropy import SystemEntropy
from meshnode.values import MILLISECOND, SECOND, Now

HOUR = 3600 * SECOND
times = st.integers(min_value=0, max_value=10**20)


def test_the_clocks_are_the_systems() -> None:
    first, second = clock.now(), clock.now()
    assert first.boot <= second.boot <= clock.boot()
    assert first.wall > 1_600_000_000 * SECOND


def test_a_stamp_keeps_its_distance_from_now() -> None:
    assert clock.to_boot(900, Now(5_000, 1_000), 0) == 4_900


@given(times, times, times, times)
def test_a_stamp_lies_between_the_last_drain_and_now(stamp: int, boot: int, wall: int, earlier: int) -> None:
    last_drain = max(boot - earlier, 0)
    assert last_drain <= clock.to_boot(stamp, Now(boot, wall), last_drain) <= boot


def test_trio_sleeps_until_the_deadline_and_at_most_a_second() -> None:
    async def measure() -> list[float]:
        start = trio.current_time()
        deadlines = (None, 0, 10 * SECOND, 10 * SECOND + 250 * MILLISECOND, 10 * SECOND + HOUR)
        return [round(clock.trio_deadline(each, 10 * SECOND) - start, 2) for each in deadlines]

    assert trio.run(measure) == [1.0, 0.0, 0.0, 0.25, 1.0]


def test_the_watch_sees_a_suspend() -> None:
    watch = ClockWatch(Now(0, 0), awake=0)
    assert watch.observe(Now(SECOND, SECOND), awake=SECOND) == []
    slept = HOUR + SECOND
    assert watch.observe(Now(slept, slept), awake=2 * SECOND) == [Suspended(HOUR - SECOND)]
    assert watch.observe(Now(slept + 5, slept + 5), awake=2 * SECOND + 5) == []


def test_the_watch_sees_the_clock_set_both_ways() -> None:
    watch = ClockWatch(Now(0, 0), awake=0)
    assert watch.observe(Now(SECOND, HOUR + SECOND), awake=SECOND) == [ClockStepped(HOUR)]
    assert watch.observe(Now(2 * SECOND, 2 * SECOND), awake=2 * SECOND) == [ClockStepped(-HOUR)]
    assert watch.observe(Now(3 * SECOND, 3 * SECOND), awake=3 * SECOND) == []


def test_the_watch_sees_both_at_once() -> None:
    watch = ClockWatch(Now(0, 0), awake=0)
    assert watch.observe(Now(HOUR, 3 * HOUR), awake=0) == [Suspended(HOUR), ClockStepped(2 * HOUR)]


def test_slewing_is_no_step_however_long_it_lasts() -> None:
    watch = ClockWatch(Now(0, 0), awake=0)
    for second in range(1, 10_000):
        boot = second * SECOND
        assert watch.observe(Now(boot, boot + second * 500_000), awake=boot) == []


def test_the_watch_reads_the_real_clock() -> None:
    watch = ClockWatch(clock.now())
    assert watch.observe(clock.now()) == []


def test_tokens_are_random_and_as_long_as_asked() -> None:
    entropy = SystemEntropy()
    assert [len(entropy.token(size)) for size in (0, 1, 32)] == [0, 1, 32]
    assert entropy.token(32) != entropy.token(32)
