from hypothesis import given
from hypothesis import strategies as st

from meshnode.queueing.sojourn import BUCKETS, WINDOW, SojournHistogram

MS = 1_000_000


def test_nothing_recorded():
    assert SojournHistogram().percentiles((50, 99), now=5) == (0, 0)


@given(st.lists(st.integers(0, 60_000 * MS), min_size=1, max_size=200), st.sampled_from([1, 50, 95, 99, 100]))
def test_percentiles_are_right_within_seven_percent(times, percent):
    histogram = SojournHistogram()
    for time in times:
        histogram.record(time, now=0)
    rank = -(-len(times) * percent // 100)
    exact = sorted(times)[rank - 1]
    (answer,) = histogram.percentiles((percent,), now=0)
    assert abs(answer - exact) <= exact * 0.07 + 4096


def test_a_clock_that_was_set_does_no_harm():
    histogram = SojournHistogram()
    for time in (-5, -(10**15), 10**18):
        histogram.record(time, now=0)
    low, high = histogram.percentiles((50, 100), now=0)
    assert low < 4096
    assert high > 60_000 * MS
    assert len(histogram._current) == BUCKETS < 200


def test_the_last_windows_count():
    histogram = SojournHistogram()
    histogram.record(100 * MS, now=0)
    histogram.record(1 * MS, now=WINDOW)
    assert histogram.percentiles((100,), now=WINDOW)[0] > 90 * MS
    histogram.record(1 * MS, now=2 * WINDOW)
    assert histogram.percentiles((100,), now=2 * WINDOW)[0] < 2 * MS


def test_after_a_long_silence_there_is_nothing():
    histogram = SojournHistogram()
    histogram.record(100 * MS, now=0)
    assert histogram.percentiles((50,), now=5 * WINDOW) == (0,)
