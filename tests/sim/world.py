"""Virtual time: a heap of events. Nothing in a world waits, sleeps or runs beside anything else.

Events are ordered by (time, sequence): what was scheduled first for one instant happens first, so a world is
a function of its seed and of the calls made on it.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

from meshnode.values import SECOND, Nanos, Now
from tests.sim.entropy import SeededEntropy, dice
from tests.sim.trace import Trace

EPOCH: Nanos = 1_800_000_000 * SECOND
"""What a right wall clock says when a world begins (January 2027)."""


class Event:
    """Something that will happen. `cancel` makes it not happen."""

    __slots__ = ("action", "cancelled", "sequence", "time")

    def __init__(self, time: Nanos, sequence: int, action: Callable[[], object]) -> None:
        self.time = time
        self.sequence = sequence
        self.action = action
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class NeverHappened(AssertionError):
    """A test waited for something that did not come, in virtual time."""


class World:
    """Time, randomness and the trace, shared by everything that is simulated.

    `after_step` is called after every event. `honest` are the names of the hosts that are no attackers.
    """

    def __init__(self, seed: int = 0, trace_limit: int = 20_000) -> None:
        self.seed = seed
        self.time: Nanos = 0
        self.steps = 0
        self.trace = Trace(trace_limit)
        self.honest: dict[str, None] = {}
        self.after_step: list[Callable[[], None]] = []
        self._heap: list[tuple[Nanos, int, Event]] = []
        self._sequence = 0

    def entropy(self, name: str) -> SeededEntropy:
        """The randomness of whoever bears `name`."""
        return SeededEntropy(self.seed, name)

    def dice(self, name: str) -> random.Random:
        """A generator for the faults of whatever bears `name`."""
        return dice(self.seed, name)

    def note(self, actor: str, kind: str, text: str, *, to: str = "", data: bytes = b"") -> None:
        """Put a line into the trace, dated now."""
        self.trace.add(self.time, actor, kind, text, to=to, data=data)

    def at(self, time: Nanos, action: Callable[[], object]) -> Event:
        """Let `action` happen at `time` (at once if that has passed, but after what is due now)."""
        self._sequence += 1
        event = Event(max(time, self.time), self._sequence, action)
        heapq.heappush(self._heap, (event.time, event.sequence, event))
        return event

    def after(self, delay: Nanos, action: Callable[[], object]) -> Event:
        """Let `action` happen `delay` from now."""
        return self.at(self.time + delay, action)

    def step(self, limit: Nanos | None = None) -> bool:
        """Let the next event happen; False if there is none (before or at `limit`)."""
        while self._heap:
            time, _, event = self._heap[0]
            if limit is not None and time > limit:
                return False
            heapq.heappop(self._heap)
            if event.cancelled:
                continue
            self.time = time
            self.steps += 1
            event.action()
            for check in self.after_step:
                check()
            return True
        return False

    def run_until(self, time: Nanos) -> None:
        """Let everything happen that is due up to and including `time`; it is `time` then."""
        while self.step(time):
            pass
        self.time = max(self.time, time)

    def run_for(self, duration: Nanos) -> None:
        """Let `duration` pass."""
        self.run_until(self.time + duration)

    def wait_until(self, condition: Callable[[], bool], within: Nanos, what: str = "") -> Nanos:
        """Run until `condition` holds and return how long it took; NeverHappened after `within`."""
        began = self.time
        while not condition():
            if not self.step(began + within):
                self.time = max(self.time, began + within)
                if condition():
                    break
                raise NeverHappened(f"not within {within / SECOND:g} s: {what or condition.__name__}")
        return self.time - began


class HostClock:
    """The two clocks of one machine. `boot` goes on during suspend (CLOCK_BOOTTIME); `wall` can be wrong and
    be set.

    Machines booted at different times, so their `boot` differ: a clock value that travels shows at once.
    """

    def __init__(self, world: World, name: str, skew: Nanos = 0) -> None:
        self._world = world
        self._uptime: Nanos = world.dice(f"{name}/clock").randrange(10_000, 200_000) * SECOND
        self.skew = skew

    def now(self) -> Now:
        """Both clocks, read now."""
        return Now(self._world.time + self._uptime, EPOCH + self._world.time + self.skew)

    def world_time(self, boot: Nanos) -> Nanos:
        """When it will be `boot` on this machine."""
        return boot - self._uptime

    def reboot(self) -> None:
        """The machine starts anew: `boot` begins at 0, the wall clock has a battery."""
        self._uptime = -self._world.time

    def step_wall(self, by: Nanos) -> None:
        """Somebody, or NTP, sets the wall clock."""
        self.skew += by
