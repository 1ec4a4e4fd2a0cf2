"""A tail-drop FIFO: what most VPNs have in front of their crypto, and the control that fq_codel is measured
against.

>>> queue = Fifo[str](packet_limit=2, drop=lambda item, reason: print(item, "dropped:", reason.value))
>>> for n in range(3):
...     queue.enqueue(key=b"download", item=f"data {n}", size=1500, now=0)
data 2 dropped: overlimit
>>> [queue.dequeue(now=0) for _ in range(3)]
['data 0', 'data 1', None]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from meshnode.queueing.memory_pool import MemoryPool
from meshnode.queueing.packet_queue import ITEM_OVERHEAD, DropReason, QueueStats
from meshnode.queueing.sojourn import SojournHistogram

T = TypeVar("T")


class Fifo(Generic[T]):
    """First in, first out, with a limit of packets and no AQM. The interface is that of `FqCodel`."""

    def __init__(
        self,
        packet_limit: int = 1000,
        *,
        drop: Callable[[T, DropReason], object] = lambda item, reason: None,
        pool: MemoryPool | None = None,
    ) -> None:
        if packet_limit <= 0:
            raise ValueError(f"a FIFO needs a positive packet_limit, not {packet_limit}")
        self.backlog_packets = 0
        self.backlog_bytes = 0
        self._packet_limit = packet_limit
        self._drop = drop
        self._pool = pool
        self._entries: deque[tuple[int, int, int, T, Hashable]] = deque()
        self._served: Hashable = None
        self._drops = dict.fromkeys(DropReason, 0)
        self._sojourn = SojournHistogram()
        if pool is not None:
            pool.attach(self)

    def __len__(self) -> int:
        """Packets that wait."""
        return self.backlog_packets

    def enqueue(
        self, key: Hashable, item: T, size: int, now: int, packets: int = 1, stamp: int | None = None
    ) -> None:
        """Append `item`, or drop it if it does not fit. Raises ValueError when it has no size."""
        if size <= 0 or packets <= 0:
            raise ValueError(f"an item has at least a byte and a packet, not {size} and {packets}")
        if self.backlog_packets + packets > self._packet_limit:
            self._discard(item, packets, DropReason.OVERLIMIT)
            return
        self._entries.append((now if stamp is None else stamp, size, packets, item, key))
        self._account(size, packets)
        if self._pool is not None and self._pool.used > self._pool.limit:
            self._pool.relieve(now)

    def dequeue(self, now: int) -> T | None:
        """The oldest item; None when nothing waits."""
        if not self._entries:
            return None
        stamp, size, packets, item, self._served = self._entries.popleft()
        self._account(-size, -packets)
        self._sojourn.record(now - stamp, now)
        return item

    def dequeue_same(self, now: int, max_size: int, fits: Callable[[T], bool] | None = None) -> T | None:
        """The oldest item, if it belongs to the flow just served, has at most `max_size` bytes and `fits`."""
        if not self._entries:
            return None
        _, size, _, item, key = self._entries[0]
        if key != self._served or size > max_size or (fits is not None and not fits(item)):
            return None
        return self.dequeue(now)

    def dequeue_sparse(self, now: int, max_size: int, fits: Callable[[T], bool] | None = None) -> T | None:
        """None: a FIFO knows no sparse flows."""
        return None

    def is_sparse(self, key: Hashable) -> bool:
        """False: a FIFO knows no sparse flows."""
        return False

    @property
    def served_key(self) -> Hashable:
        """The key of the flow that was served last (None: none was)."""
        return self._served

    def memory(self) -> int:
        """Bytes of memory that the backlog takes, with an allowance for each packet."""
        return self.backlog_bytes + ITEM_OVERHEAD * self.backlog_packets

    def shed(self, now: int, at_least: int = 1) -> int:
        """Drop the `at_least` last items, for a memory pool that is full. Returns how many there were."""
        dropped = 0
        while self._entries and dropped < at_least:
            _, size, packets, item, _ = self._entries.pop()
            self._account(-size, -packets)
            self._discard(item, packets, DropReason.OVERLIMIT)
            dropped += 1
        return dropped

    def clear(self) -> int:
        """Discard everything; returns the number of packets."""
        packets = self.backlog_packets
        for entry in self._entries:
            self._discard(entry[3], entry[2], DropReason.CLEARED)
        self._entries.clear()
        self._account(-self.backlog_bytes, -packets)
        return packets

    def close(self) -> None:
        """Discard everything and leave the memory pool: the queue will not be used again."""
        self.clear()
        if self._pool is not None:
            self._pool.detach(self)

    def stats(self, now: int) -> QueueStats:
        """The counters and the recent sojourn times. All of a FIFO is one flow, and it never marks."""
        p50, p95, p99 = self._sojourn.percentiles((50, 95, 99), now)
        return QueueStats(
            backlog_packets=self.backlog_packets,
            backlog_bytes=self.backlog_bytes,
            flows=min(1, len(self._entries)),
            drops=dict(self._drops),
            marks=0,
            sojourn_p50=p50,
            sojourn_p95=p95,
            sojourn_p99=p99,
        )

    def _account(self, size: int, packets: int) -> None:
        self.backlog_bytes += size
        self.backlog_packets += packets
        if self._pool is not None:
            self._pool.used += size + ITEM_OVERHEAD * packets

    def _discard(self, item: T, packets: int, reason: DropReason) -> None:
        self._drops[reason] += packets
        self._drop(item, reason)
