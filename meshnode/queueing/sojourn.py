"""How long packets waited: a log-linear histogram over the last ten to twenty seconds.

Buckets are eight to an octave, so a percentile is right within 7 %; recording costs an increment, and the
size is fixed. Two windows of ten seconds take turns, so that a bad minute is forgotten soon after it.

    >>> histogram = SojournHistogram()
    >>> for milliseconds in range(1, 101):
    ...     histogram.record(milliseconds * 1_000_000, now=0)
    >>> [round(nanoseconds / 1_000_000) for nanoseconds in histogram.percentiles((50, 95, 99), now=0)]
    [48, 96, 96]
"""

from __future__ import annotations

from collections.abc import Sequence

WINDOW = 10_000_000_000
"""Nanoseconds that one window lasts."""

UNIT_BITS = 12
"""Times are counted in units of 2^12 ns, about 4 µs: nothing below matters."""

OCTAVE_BITS = 3
"""Each octave has 2^3 buckets."""

MAX_UNITS = (1 << 24) - 1
"""The last bucket takes everything from 65 s on."""


def _bucket(units: int) -> int:
    """Exact up to 15 units; from there on the octave and the next three bits of `units`."""
    shift = units.bit_length() - OCTAVE_BITS - 1
    return units if shift <= 0 else (shift << OCTAVE_BITS) + (units >> shift)


def _middle(bucket: int) -> int:
    """The nanoseconds in the middle of `bucket`: the inverse of `_bucket`."""
    shift = max(0, (bucket >> OCTAVE_BITS) - 1)
    low = (bucket - (shift << OCTAVE_BITS)) << shift
    return ((2 * low + (1 << shift)) << UNIT_BITS) >> 1


BUCKETS = _bucket(MAX_UNITS) + 1


class SojournHistogram:
    """Records times in nanoseconds, answers percentiles."""

    __slots__ = ("_current", "_previous", "_until")

    def __init__(self) -> None:
        self._current = [0] * BUCKETS
        self._previous = [0] * BUCKETS
        self._until = 0

    def record(self, sojourn: int, now: int) -> None:
        """Count one packet that waited `sojourn`. Negative times (a clock that was set) count as zero."""
        if now >= self._until:
            self._turn(now)
        units = sojourn >> UNIT_BITS
        if units > MAX_UNITS:
            units = MAX_UNITS
        elif units < 0:
            units = 0
        shift = units.bit_length() - OCTAVE_BITS - 1
        if shift > 0:
            units = (shift << OCTAVE_BITS) + (units >> shift)
        self._current[units] += 1

    def percentiles(self, percents: Sequence[int], now: int) -> tuple[int, ...]:
        """The times in nanoseconds that `percents` of the recent packets did not exceed; 0 without any."""
        if now >= self._until:
            self._turn(now)
        counts = [a + b for a, b in zip(self._current, self._previous, strict=True)]
        total = sum(counts)
        return tuple(self._percentile(counts, -(-total * percent // 100)) for percent in percents)

    @staticmethod
    def _percentile(counts: list[int], rank: int) -> int:
        """The time of the `rank`-th packet, counted from 1."""
        seen = 0
        for bucket, count in enumerate(counts):
            seen += count
            if rank and seen >= rank:
                return _middle(bucket)
        return 0

    def _turn(self, now: int) -> None:
        stale = now >= self._until + WINDOW
        self._previous = [0] * BUCKETS if stale else self._current
        self._current = [0] * BUCKETS
        self._until = now + WINDOW
