"""One table of deadlines, each with its reason, so that every wakeup can be explained."""

from __future__ import annotations

import heapq
from collections.abc import Hashable

from meshnode.values import Nanos

Key = tuple[Hashable, str]


class TimerTable:
    """At most one deadline per (owner, reason). Setting replaces; expiry is by time, then age."""

    def __init__(self) -> None:
        self._deadlines: dict[Key, tuple[Nanos, int]] = {}
        self._heap: list[tuple[Nanos, int, Key]] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._deadlines)

    def set(self, owner: Hashable, reason: str, deadline: Nanos) -> None:
        """Let (owner, reason) expire at `deadline`, whatever it was set to before."""
        key = (owner, reason)
        self._sequence += 1
        self._deadlines[key] = (deadline, self._sequence)
        heapq.heappush(self._heap, (deadline, self._sequence, key))
        if len(self._heap) > 64 + 4 * len(self._deadlines):
            self._compact()

    def cancel(self, owner: Hashable, reason: str) -> None:
        """Forget (owner, reason); nothing happens when it is not set."""
        self._deadlines.pop((owner, reason), None)

    def deadline(self, owner: Hashable, reason: str) -> Nanos | None:
        """When (owner, reason) expires, None when it is not set."""
        entry = self._deadlines.get((owner, reason))
        return None if entry is None else entry[0]

    def next(self) -> tuple[Nanos, str] | None:
        """The earliest deadline and its reason."""
        self._drop_stale()
        if not self._heap:
            return None
        deadline, _, (_, reason) = self._heap[0]
        return deadline, reason

    def pop_expired(self, now: Nanos) -> tuple[Hashable, str] | None:
        """Remove and return the earliest (owner, reason) that is due at `now`, None when nothing is."""
        self._drop_stale()
        if not self._heap or self._heap[0][0] > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._deadlines[key]
        return key

    def _drop_stale(self) -> None:
        heap = self._heap
        while heap and self._deadlines.get(heap[0][2]) != heap[0][:2]:
            heapq.heappop(heap)

    def _compact(self) -> None:
        """Replaced and cancelled entries stay in the heap until they surface; this bounds how many."""
        self._heap = [(when, number, key) for key, (when, number) in self._deadlines.items()]
        heapq.heapify(self._heap)
