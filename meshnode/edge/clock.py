"""The clocks of the machine, read in one place.

Timers and queues run on CLOCK_BOOTTIME, which counts time asleep: after a suspend every timer is due and the node
repairs itself. CLOCK_REALTIME dates what others check (handshakes, grants, tokens). CLOCK_MONOTONIC, which stands
still while the machine sleeps, is what trio sleeps on and what gives a suspend away.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import trio

from meshnode.values import MILLISECOND, SECOND, Nanos, Now

LONGEST_SLEEP: Nanos = SECOND
"""trio's clock stops during a suspend, so no sleep may be longer than the time in which a wake-up is to be noticed."""

TOLERANCE: Nanos = 500 * MILLISECOND
"""Clock differences that move by less are the time between two readings, and NTP slewing."""


def boot() -> Nanos:
    """CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def now() -> Now:
    """CLOCK_BOOTTIME and CLOCK_REALTIME."""
    return Now(time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.clock_gettime_ns(time.CLOCK_REALTIME))


def to_boot(stamp: Nanos, now: Now, last_drain: Nanos) -> Nanos:
    """The boot time of a kernel receive stamp (SO_TIMESTAMPNS, CLOCK_REALTIME).

    A datagram that was not there at the last drain cannot be older than that, nor newer than now: the clamp keeps a
    clock step from looking like an hour of queue.
    """
    return min(max(now.boot - (now.wall - stamp), last_drain), now.boot)


def trio_deadline(deadline: Nanos | None, now: Nanos) -> float:
    """The time on trio's clock to sleep to for a boot time `deadline` (None: nothing is due), at most 1 s ahead."""
    ahead = LONGEST_SLEEP if deadline is None else min(max(deadline - now, 0), LONGEST_SLEEP)
    return trio.current_time() + ahead / SECOND


@dataclass(frozen=True, slots=True)
class Suspended:
    """The machine slept for `duration`: NAT mappings and sessions may be gone."""

    duration: Nanos


@dataclass(frozen=True, slots=True)
class ClockStepped:
    """CLOCK_REALTIME was set, by `step` (negative: back)."""

    step: Nanos


ClockEvent = Suspended | ClockStepped


class ClockWatch:
    """Notices from the drift between the three clocks that the machine slept or that its wall clock was set."""

    def __init__(self, now: Now, awake: Nanos | None = None) -> None:
        self._asleep = now.boot - _monotonic(awake)
        self._offset = now.wall - now.boot

    def observe(self, now: Now, awake: Nanos | None = None) -> list[ClockEvent]:
        """What happened since the last call. `awake` is CLOCK_MONOTONIC at about `now` (None: read it)."""
        events: list[ClockEvent] = []
        asleep = now.boot - _monotonic(awake)
        if asleep - self._asleep > TOLERANCE:
            events.append(Suspended(asleep - self._asleep))
            self._asleep = asleep
        offset = now.wall - now.boot
        if abs(offset - self._offset) > TOLERANCE:
            events.append(ClockStepped(offset - self._offset))
        # Slewing moves the offset a little at a time for ever: follow it, so that it never adds up to a step.
        self._offset = offset
        return events


def _monotonic(awake: Nanos | None) -> Nanos:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) if awake is None else awake
