"""One memory cap shared by all queues of a node, as mac80211's `fq_impl.h` shares one among all stations.

A cap per queue would have to be small enough for all peers at once, and then be too small for the one that is
busy. So the queues share one: whoever adds the byte that does not fit, it is the fattest flow of the fattest
queue that pays.
"""

from __future__ import annotations

from operator import methodcaller
from typing import Protocol

DEFAULT_LIMIT = 16 << 20
"""16 MB (DESIGN section 7; mac80211's default)."""

SCAN_SHIFT = 5
"""A search through n queues (or flows) frees at least n >> 5 items: a bounded cost for each drop."""

_memory = methodcaller("memory")


class Sheddable(Protocol):
    """What the pool asks of a queue."""

    def memory(self) -> int:
        """Bytes the queue holds now."""
        ...

    def shed(self, now: int, at_least: int = 1) -> int:
        """Drop from the fattest flows, at least so many items if there are; how many it were."""
        ...


class MemoryPool:
    """Bounds the memory of all attached queues together.

    The queues add to `used` and take off it, and call `relieve` when it has passed `limit`. Both are bytes.
    """

    __slots__ = ("_queues", "limit", "used")

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        if limit <= 0:
            raise ValueError(f"a memory pool needs a positive limit, not {limit}")
        self.limit = limit
        self.used = 0
        self._queues: list[Sheddable] = []

    def attach(self, queue: Sheddable) -> None:
        """From now on `queue` can be asked to shed."""
        self._queues.append(queue)

    def detach(self, queue: Sheddable) -> None:
        """The queue is gone; it must be empty."""
        self._queues.remove(queue)

    def relieve(self, now: int) -> None:
        """Make the fattest queues shed until everything fits."""
        at_least = max(1, len(self._queues) >> SCAN_SHIFT)
        while self.used > self.limit:
            max(self._queues, key=_memory).shed(now, at_least)
