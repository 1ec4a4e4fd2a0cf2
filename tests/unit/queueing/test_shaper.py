from fractions import Fraction
from math import ceil
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.queueing.shaper import OVERHEAD_IPV4, OVERHEAD_IPV6, TokenBucket

MS = 1_000_000
SECOND = 1_000_000_000


def send(bucket, now, size, packets=1):
    """Wait until it may leave, and let it; the time."""
    now = bucket.ready_at(now, size, packets)
    bucket.spend(now, size, packets)
    return now


def test_open_without_a_rate():
    bucket = TokenBucket()
    assert bucket.rate_bps is None
    for now in (0, 5, 10**18):
        assert send(bucket, now, 65_000, 45) == now


def test_departures_are_exact_to_the_nanosecond():
    """The k-th packet leaves when k packets' worth has dripped in, rounded up once and not k times."""
    rate = 7_654_321
    bucket = TokenBucket(rate, now=12_345, overhead=60)
    now = 12_345
    for k in range(1, 5000):
        now = send(bucket, now, 1400)
        assert now == 12_345 + ceil(Fraction(k * (1400 + 60) * 8 * SECOND, rate))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(100_000, 10**10),
    st.lists(st.tuples(st.integers(0, 20 * MS), st.integers(40, 65_000)), max_size=40),
)
def test_never_more_than_the_rate_and_a_bucket(rate, arrivals):
    bucket = TokenBucket(rate)
    now, sent, largest = 0, 0, 0
    for wait, size in arrivals:
        now = send(bucket, now + wait, size)
        sent += (size + OVERHEAD_IPV4) * 8
        largest = max(largest, (size + OVERHEAD_IPV4) * 8)
        assert sent <= Fraction(rate * (now + 2 * MS), SECOND) + max(largest, 1500 * 8)


def test_a_backlog_gets_the_whole_rate_although_timers_are_late():
    dice = Random(2)
    bucket = TokenBucket(50_000_000)
    now, sent = 0, 0
    while now < SECOND:
        now = bucket.ready_at(now, 1400) + dice.randrange(MS)
        while bucket.ready_at(now, 1400) == now:
            bucket.spend(now, 1400)
            sent += 1460 * 8
    assert sent == pytest.approx(50_000_000, rel=0.01)


def test_what_is_saved_is_two_milliseconds_and_a_packet():
    bucket = TokenBucket(8_000_000, overhead=0)  # a byte each microsecond
    now = 10 * SECOND
    sent = 0
    while bucket.ready_at(now, 100) == now:
        bucket.spend(now, 100)
        sent += 100
    assert sent == 2000 + 1500


def test_a_train_larger_than_the_bucket_is_paid_off():
    bucket = TokenBucket(8_000_000, overhead=0)
    assert bucket.ready_at(0, 64_000) == 3500 * 1000  # when the bucket is full
    bucket.spend(3_500_000, 64_000)
    assert bucket.ready_at(3_500_000, 1500) == (64_000 + 1500) * 1000
    bucket.spend(3_500_000, 1500)  # whoever does not ask, pays too
    assert bucket.ready_at(3_500_000, 1) == (64_000 + 1501) * 1000


def test_every_packet_of_a_train_has_its_overhead():
    bucket = TokenBucket(8_000_000, overhead=OVERHEAD_IPV6)
    assert send(bucket, 0, 1000, 2) == (1000 + 2 * 80) * 1000
    bucket.overhead = OVERHEAD_IPV4
    assert send(bucket, 0, 1000, 2) == (1000 + 2 * 80) * 1000 + (1000 + 2 * 60) * 1000


def test_a_first_rate_neither_bursts_nor_stalls():
    """A prototype charged tokens while there was no rate: the first governed seconds were silent."""
    bucket = TokenBucket()
    for now in range(0, SECOND, MS):
        bucket.spend(now, 65_000, 45)
    bucket.set_rate(8_000_000, SECOND)
    assert send(bucket, SECOND, 1440) == SECOND + 1500 * 1000
    bucket.set_rate(None, SECOND)
    assert send(bucket, SECOND, 65_000) == SECOND
    bucket.set_rate(8_000_000, 2 * SECOND)
    assert send(bucket, 2 * SECOND, 1440) == 2 * SECOND + 1500 * 1000


def test_a_lower_rate_cuts_what_was_saved():
    bucket = TokenBucket(1_000_000_000, overhead=0)
    bucket.set_rate(8_000_000, SECOND)  # 250 KB were saved
    now, sent = SECOND, 0
    while bucket.ready_at(now, 100) == now:
        bucket.spend(now, 100)
        sent += 100
    assert sent == 3500


def test_a_lower_rate_does_not_stretch_a_debt():
    bucket = TokenBucket(80_000_000, overhead=0)
    now = send(bucket, SECOND, 64_000)
    assert bucket.ready_at(now, 0) == now + 4_250_000  # 42,500 of 64,000 bytes are owed
    bucket.set_rate(8_000_000, now)
    assert bucket.ready_at(now, 0) == now + 4_250_000
    bucket.set_rate(80_000_000, now)
    assert bucket.ready_at(now, 0) == now + 425_000


def test_a_higher_rate_starts_from_what_was_saved():
    bucket = TokenBucket(8_000_000, overhead=0)
    bucket.set_rate(800_000_000, SECOND)
    now, sent = SECOND, 0
    while bucket.ready_at(now, 100) == now:
        bucket.spend(now, 100)
        sent += 100
    assert sent == 3500
    assert bucket.rate_bps == 800_000_000


def test_a_clock_that_goes_back_gives_nothing_twice():
    bucket = TokenBucket(8_000_000, overhead=0)
    assert send(bucket, SECOND, 3500) == SECOND
    assert bucket.ready_at(0, 1000) == SECOND + 1_000_000
    bucket.spend(0, 1000)
    bucket.set_rate(8_000_000, 0)
    assert bucket.ready_at(SECOND, 1000) == SECOND + 2_000_000


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_is_positive(rate):
    with pytest.raises(ValueError, match="must be positive"):
        TokenBucket(rate)
