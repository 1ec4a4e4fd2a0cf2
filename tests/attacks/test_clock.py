"""Clocks that are wrong, or set by somebody else.

WireGuard remembers the greatest timestamp of a peer, so one moment in the future locks a peer out until then
(CVE-2021-46873). And what a node promises itself on disk, against a clock set back, must not run away from
the clock.
"""

from itertools import pairwise

import pytest

from meshnode.proto.constants import TIMESTAMP_TOLERANCE
from meshnode.proto.context import TimestampClock
from meshnode.values import SECOND, Nanos, Now
from tests.sim.world import EPOCH

HOUR = 3600 * SECOND


def timestamps(restarts: int, gap: Nanos, step_back: Nanos = 0) -> list[tuple[Nanos, Nanos]]:
    """(wall, timestamp) of two initiations in each of many lives of a node with one disk, `gap` apart."""
    disk = 0
    wall = EPOCH
    used = []
    for _ in range(restarts):
        clock = TimestampClock(disk)
        for _ in range(2):
            used.append((wall, clock.next(Now(0, wall))))
            if clock.must_promise():
                disk = clock.promise()
            wall += gap
        wall -= step_back
    return used


def runs_away(restarts: int) -> bool:
    """Whether restarting often brings a node's timestamps so far ahead that others refuse them."""
    return max(stamp - wall for wall, stamp in timestamps(restarts, 5 * SECOND)) > TIMESTAMP_TOLERANCE


def goes_back() -> bool:
    """Whether a timestamp fails to grow while each restart sets the clock back by a day."""
    stamps = [stamp for _, stamp in timestamps(20, SECOND, step_back=24 * HOUR)]
    return any(later <= earlier for earlier, later in pairwise(stamps))


def test_a_node_that_restarts_all_day_is_still_believed() -> None:
    assert not runs_away(2000)


def test_timestamps_grow_over_restarts_with_a_clock_set_back() -> None:
    assert not goes_back()


def test_without_the_promise_on_disk_they_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TimestampClock, "must_promise", lambda _: False)
    assert goes_back()
