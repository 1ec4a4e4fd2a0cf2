"""What every queue of packets can do, whether it is an fq_codel or the FIFO it is measured against."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeVar

T = TypeVar("T")

ITEM_OVERHEAD = 256
"""Bytes of memory that a packet costs beyond its own, so that a flood of tiny packets is bounded too."""


class DropReason(Enum):
    """Why a queue discarded an item; the values name the counters."""

    CODEL = "codel"
    """It had waited too long (and could not be marked)."""
    OVERLIMIT = "overlimit"
    """A limit of packets or memory was hit, and this flow had most of the backlog."""
    BLUE = "blue"
    """Refused at the door: its flow keeps on hitting the limit."""
    CLEARED = "cleared"
    """The whole queue was discarded."""


@dataclass(frozen=True, slots=True)
class QueueStats:
    """Backlog now, counters since the start, and sojourn in nanoseconds over the last 10 to 20 s."""

    backlog_packets: int
    backlog_bytes: int
    flows: int
    drops: Mapping[DropReason, int]
    marks: int
    sojourn_p50: int
    sojourn_p95: int
    sojourn_p99: int

    @property
    def dropped(self) -> int:
        """Packets dropped for any reason."""
        return sum(self.drops.values())


class PacketQueue(Protocol[T]):
    """A queue of items, packets or trains of packets, that belong to flows. See `FqCodel` for each method."""

    @property
    def backlog_packets(self) -> int: ...
    @property
    def backlog_bytes(self) -> int: ...
    def __len__(self) -> int: ...
    def enqueue(
        self, key: Hashable, item: T, size: int, now: int, packets: int = 1, stamp: int | None = None
    ) -> None: ...
    def dequeue(self, now: int) -> T | None: ...
    def dequeue_same(self, now: int, max_size: int, fits: Callable[[T], bool] | None = None) -> T | None: ...
    def dequeue_sparse(
        self, now: int, max_size: int, fits: Callable[[T], bool] | None = None
    ) -> T | None: ...
    def is_sparse(self, key: Hashable) -> bool: ...
    def memory(self) -> int: ...
    def shed(self, now: int, at_least: int = 1) -> int: ...
    def clear(self) -> int: ...
    def stats(self, now: int) -> QueueStats: ...
