"""The smallest queue under CoDel: one line, with its drops and marks written down."""

from __future__ import annotations

from collections import deque

from meshnode.queueing.codel import MILLISECOND, Codel, CodelParams, Entry


class Line(Codel[str]):
    """Items that begin with "e" are ECN-capable."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: deque[Entry[str]] = deque()
        self.dropped: list[str] = []
        self.marked: list[str] = []

    def fill(self, number: int, stamp: int = 0, size: int = 1500, item: str = "n") -> None:
        for _ in range(number):
            self.entries.append((stamp, size, 1, item))

    def pull(self) -> Entry[str] | None:
        return self.entries.popleft() if self.entries else None

    def backlog(self) -> int:
        return sum(size for _, size, _, _ in self.entries)

    def mark(self, entry: Entry[str]) -> bool:
        if not entry[3].startswith("e"):
            return False
        self.marked.append(entry[3])
        return True

    def drop(self, entry: Entry[str]) -> None:
        self.dropped.append(entry[3])

    def signals(self) -> int:
        return len(self.dropped) + len(self.marked)

    def signal_times(self, params: CodelParams, milliseconds: range) -> list[int]:
        """Dequeue once at each of these times; at which of them was there a signal?"""
        times = []
        for millisecond in milliseconds:
            before = self.signals()
            self.dequeue(params, millisecond * MILLISECOND)
            if self.signals() > before:
                times.append(millisecond)
        return times
