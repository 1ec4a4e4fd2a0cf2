"""FQ-CoDel: a queue per flow, taken in turns, each under CoDel (RFC 8290, Linux `sch_fq_codel.c`).

Flows share the link by deficit round robin: a turn is `quantum` of cost. A flow that had nothing waiting is
*new* and is served before all *old* ones, for one quantum; then it becomes old. So flows that send less than
a quantum per round (ACKs, DNS, games, the first packets of anything) never wait behind those that build
queues, and need no marking for it.

Differences from Linux, none of which a well-behaved flow can see:

- Flows are told apart by exact keys in a dict, not by 1024 hashed buckets: no collisions. Emptied flows are
  forgotten; what CoDel and BLUE learned about the last few that misbehaved is kept.
- An item may be a train of packets; a turn can be charged for packets as well as for bytes (`packet_cost`),
  because on a CPU the packet is what costs.
- When a limit is hit while there are thousands of thin flows, one search drops from several of them; and it
  is searched and dropped until the limits hold (Linux: once, which a train of packets may outgrow).
- BLUE refuses packets of floods before they are queued.

    >>> queue = FqCodel[str](drop=lambda item, reason: print(item, "dropped:", reason.value))
    >>> for n in range(3):
    ...     queue.enqueue(key=b"download", item=f"data {n}", size=1500, now=0)
    >>> queue.enqueue(key=b"ssh", item="keystroke", size=60, now=0)
    >>> [queue.dequeue(now=0) for _ in range(4)]    # the turn pays for data 1, then ssh passes
    ['data 0', 'data 1', 'keystroke', 'data 2']
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from heapq import nlargest
from operator import attrgetter
from typing import Generic, TypeVar

from meshnode.queueing.blue import Blue
from meshnode.queueing.codel import Codel, CodelParams, Entry, SignalMemory
from meshnode.queueing.memory_pool import SCAN_SHIFT, MemoryPool
from meshnode.queueing.packet_queue import ITEM_OVERHEAD, DropReason, QueueStats
from meshnode.queueing.sojourn import SojournHistogram

T = TypeVar("T")

DROP_BATCH = 64
"""At most so many items are dropped from one flow at a time (Linux's drop_batch_size)."""

REMEMBERED_FLOWS = 64
"""Of so many emptied flows the queue remembers what CoDel learned."""

_bytes = attrgetter("bytes")


@dataclass(frozen=True, slots=True)
class FqCodelParams:
    """The size of a queue and of its turns. Raises ValueError if a value makes no sense.

    `quantum`: cost that a flow may spend per turn; `packet_cost`: what a packet costs on top of its bytes;
    `packet_limit`: packets in all flows; `memory_limit`: bytes in all flows, with 256 on top for every
    packet; `new_flow_cap`: at most so many flows are new at a time, the others start as old ones (None: no
    cap).
    """

    quantum: int = 1514
    packet_cost: int = 0
    packet_limit: int = 10_240
    memory_limit: int = 32 << 20
    new_flow_cap: int | None = None

    def __post_init__(self) -> None:
        if self.quantum <= 0 or self.packet_limit <= 0 or self.memory_limit <= 0:
            raise ValueError(f"quantum, packet_limit and memory_limit must be positive: {self}")
        if self.packet_cost < 0 or (self.new_flow_cap is not None and self.new_flow_cap < 0):
            raise ValueError(f"packet_cost and new_flow_cap cannot be negative: {self}")


DEFAULT_PARAMS = FqCodelParams()
DEFAULT_CODEL = CodelParams()


class _Flow(Codel[T]):
    """One flow's queue. It is on exactly one of the lists of new and old flows until it is forgotten."""

    __slots__ = ("bytes", "deficit", "entries", "is_new", "key", "queue")

    def __init__(self, queue: FqCodel[T], key: Hashable, is_new: bool) -> None:
        super().__init__()
        self.queue = queue
        self.key = key
        self.entries: deque[Entry[T]] = deque()
        self.bytes = 0
        self.deficit = queue.quantum
        self.is_new = is_new

    def pull(self) -> Entry[T] | None:
        if not self.entries:
            return None
        entry = self.entries.popleft()
        self.bytes -= entry[1]
        self.queue._account(-entry[1], -entry[2])
        return entry

    def backlog(self) -> int:
        return self.queue.backlog_bytes

    def mark(self, entry: Entry[T]) -> bool:
        return self.queue._mark_item(entry)

    def drop(self, entry: Entry[T]) -> None:
        self.queue._discard(entry[3], entry[2], DropReason.CODEL)


class FqCodel(Generic[T]):
    """One fq_codel instance; `T` is what it queues.

    `drop(item, reason)` is told of every item that will not come out; `mark(item)` sets CE and says whether
    it could; `random()` draws from [0, 1) for BLUE (None: no BLUE); `pool` is a memory cap shared with other
    queues. `codel` and `quantum` may be changed at any time.
    """

    def __init__(
        self,
        params: FqCodelParams = DEFAULT_PARAMS,
        codel: CodelParams = DEFAULT_CODEL,
        *,
        drop: Callable[[T, DropReason], object] = lambda item, reason: None,
        mark: Callable[[T], bool] = lambda item: False,
        random: Callable[[], float] | None = None,
        pool: MemoryPool | None = None,
    ) -> None:
        self.codel = codel
        self.quantum = params.quantum
        self.backlog_packets = 0
        self.backlog_bytes = 0
        self._params = params
        self._drop = drop
        self._mark = mark
        self._pool = pool
        self._flows: dict[Hashable, _Flow[T]] = {}
        self._new: deque[_Flow[T]] = deque()
        self._old: deque[_Flow[T]] = deque()
        self._served: _Flow[T] | None = None
        self._signals: dict[Hashable, SignalMemory] = {}
        self._blue = Blue(random)
        self._drops = dict.fromkeys(DropReason, 0)
        self._marks = 0
        self._sojourn = SojournHistogram()
        if pool is not None:
            pool.attach(self)

    def __len__(self) -> int:
        """Packets that wait."""
        return self.backlog_packets

    def enqueue(
        self, key: Hashable, item: T, size: int, now: int, packets: int = 1, stamp: int | None = None
    ) -> None:
        """Append `item`, of `size` bytes in `packets` packets, to the flow `key`; or drop it.

        `stamp` is when the item arrived, if that was before `now`: a kernel's receive timestamp. Raises
        ValueError when there is no size.
        """
        if size <= 0 or packets <= 0:
            raise ValueError(f"an item has at least a byte and a packet, not {size} and {packets}")
        if self._blue.probabilities and self._blue.refuses(key, key in self._flows, self.codel.target, now):
            self._discard(item, packets, DropReason.BLUE)
            return
        flow = self._flows.get(key)
        if flow is None:
            flow = self._meet(key)
        flow.entries.append((now if stamp is None else stamp, size, packets, item))
        flow.bytes += size
        self._account(size, packets)
        params = self._params
        while self.backlog_packets > params.packet_limit or self.memory() > params.memory_limit:
            self.shed(now)
        if self._pool is not None and self._pool.used > self._pool.limit:
            self._pool.relieve(now)

    def dequeue(self, now: int) -> T | None:
        """The next item to send, after whatever CoDel had to say; None when nothing waits."""
        new, old = self._new, self._old
        while True:
            if new:
                flow = new[0]
            elif old:
                flow = old[0]
            else:
                return None
            if flow.deficit <= 0:
                # A flow that is alone comes round until its debt, a whole train, is paid: at once, then.
                alone = len(self._flows) == 1
                self._end_turn(flow, -flow.deficit // self.quantum + 1 if alone else 1)
                continue
            entry = flow.dequeue(self.codel, now)
            if entry is not None:
                return self._serve(flow, entry, now)
            self._retire(flow, now)

    def dequeue_same(self, now: int, max_size: int, fits: Callable[[T], bool] | None = None) -> T | None:
        """The next item of the flow just served, if it may travel along in the same datagram.

        It must be the flow's turn still, the item at most `max_size` bytes, `fits(item)` true, and CoDel
        silent: an item that is due to be signalled is left for `dequeue`. Taking it changes nobody's order.
        """
        return None if self._served is None else self._take_along(self._served, now, max_size, fits)

    def dequeue_sparse(self, now: int, max_size: int, fits: Callable[[T], bool] | None = None) -> T | None:
        """The next item of a new flow, on the same conditions; that flow is then the one just served."""
        new = self._new
        while new:
            flow = new[0]
            if flow.deficit <= 0:
                self._end_turn(flow)
            elif not flow.entries:
                flow.dequeue(self.codel, now)  # CoDel is to know that the flow went empty
                self._retire(flow, now)
            else:
                return self._take_along(flow, now, max_size, fits)
        return None

    def is_sparse(self, key: Hashable) -> bool:
        """Whether the flow sends less than its share: it is new, or has nothing queued."""
        flow = self._flows.get(key)
        return flow is None or flow.is_new

    @property
    def served_key(self) -> Hashable:
        """The key of the flow that was served last; None if it has been forgotten since."""
        return None if self._served is None else self._served.key

    def memory(self) -> int:
        """Bytes of memory that the backlog takes, with an allowance for each packet."""
        return self.backlog_bytes + ITEM_OVERHEAD * self.backlog_packets

    def shed(self, now: int, at_least: int = 1) -> int:
        """Drop from the head of the fattest flow: half of its backlog, at most 64 items. Returns how many.

        The search looks at all flows, so it has to pay for itself: if the fattest of many is too thin for
        that, the next ones follow, until there is one drop for every 32 flows (and `at_least` so many).
        """
        at_least = max(at_least, len(self._flows) >> SCAN_SHIFT)
        dropped = 0
        for flow in nlargest(at_least, self._flows.values(), key=_bytes):
            dropped += self._drop_half(flow, now)
            if dropped >= at_least:
                break
        return dropped

    def clear(self) -> int:
        """Discard everything; returns the number of packets."""
        packets = self.backlog_packets
        for flow in self._flows.values():
            while (entry := flow.pull()) is not None:
                self._discard(entry[3], entry[2], DropReason.CLEARED)
        self._served = None
        self._flows.clear()
        self._new.clear()
        self._old.clear()
        return packets

    def close(self) -> None:
        """Discard everything and leave the memory pool: the queue will not be used again."""
        self.clear()
        if self._pool is not None:
            self._pool.detach(self)

    def stats(self, now: int) -> QueueStats:
        """The counters and the recent sojourn times."""
        p50, p95, p99 = self._sojourn.percentiles((50, 95, 99), now)
        return QueueStats(
            backlog_packets=self.backlog_packets,
            backlog_bytes=self.backlog_bytes,
            flows=len(self._flows),
            drops=dict(self._drops),
            marks=self._marks,
            sojourn_p50=p50,
            sojourn_p95=p95,
            sojourn_p99=p99,
        )

    def _meet(self, key: Hashable) -> _Flow[T]:
        """Put a flow on the list of new flows (of old ones if too many are new)."""
        if len(self._flows) >= self._params.packet_limit:
            self._forget_emptied()
        cap = self._params.new_flow_cap
        is_new = cap is None or len(self._new) < cap
        flow = _Flow(self, key, is_new)
        (self._new if is_new else self._old).append(flow)
        self._flows[key] = flow
        memory = self._signals.pop(key, None)
        if memory is not None:
            flow.recall(memory)
        return flow

    def _serve(self, flow: _Flow[T], entry: Entry[T], now: int) -> T:
        """Charge the flow for an entry that goes out."""
        stamp, size, packets, item = entry
        flow.deficit -= size + packets * self._params.packet_cost
        self._served = flow
        self._sojourn.record(now - stamp, now)
        return item

    def _take_along(
        self, flow: _Flow[T], now: int, max_size: int, fits: Callable[[T], bool] | None
    ) -> T | None:
        if flow.deficit <= 0 or not flow.entries:
            return None
        stamp, size, _, item = flow.entries[0]
        if size > max_size or (fits is not None and not fits(item)):
            return None
        if flow.signal_due(now - stamp, self.backlog_bytes - size, self.codel, now):
            return None
        entry = flow.dequeue(self.codel, now)
        assert entry is not None
        return self._serve(flow, entry, now)

    def _end_turn(self, flow: _Flow[T], rounds: int = 1) -> None:
        """The flow at the head has spent its quantum: it gets another one, and is last among the old."""
        flow.deficit += rounds * self.quantum
        self._make_last(flow)

    def _make_last(self, flow: _Flow[T]) -> None:
        """Move the flow at the head of its list to the tail of the old ones."""
        if flow.is_new:
            flow.is_new = False
            self._new.popleft()
            self._old.append(flow)
        else:
            self._old.rotate(-1)

    def _retire(self, flow: _Flow[T], now: int) -> None:
        """The flow at the head is empty. A new one passes through the old ones, lest it starve them."""
        if self._blue.probabilities:
            self._blue.emptied(flow.key, self.codel.target, now)
        if flow.is_new and self._old:
            self._make_last(flow)
        else:
            (self._new if flow.is_new else self._old).popleft()
            self._forget(flow)

    def _forget(self, flow: _Flow[T]) -> None:
        """Drop a flow that is on no list any more, but keep what CoDel learned of it."""
        del self._flows[flow.key]
        if flow is self._served:
            self._served = None
        memory = flow.remember()
        if memory is not None:
            if len(self._signals) >= REMEMBERED_FLOWS:
                del self._signals[next(iter(self._signals))]
            self._signals[flow.key] = memory

    def _forget_emptied(self) -> None:
        """Forget all emptied flows at once: when shedding empties more flows than the turns come round to."""
        for flows in (self._new, self._old):
            for flow in [flow for flow in flows if not flow.entries]:
                self._forget(flow)
            kept = [flow for flow in flows if flow.entries]
            flows.clear()
            flows.extend(kept)

    def _drop_half(self, flow: _Flow[T], now: int) -> int:
        """Drop from the head until half of the bytes or a batch is gone. Returns the number of items."""
        keep = flow.bytes - max(1, flow.bytes >> 1)
        dropped = 0
        while dropped < DROP_BATCH and flow.bytes > keep and (entry := flow.pull()) is not None:
            self._discard(entry[3], entry[2], DropReason.OVERLIMIT)
            dropped += 1
        flow.count += dropped  # as in Linux: CoDel is to signal harder, too
        self._blue.overflowed(flow.key, self.codel.target, now)
        return dropped

    def _account(self, size: int, packets: int) -> None:
        """Add to (or take off) the backlog."""
        self.backlog_bytes += size
        self.backlog_packets += packets
        if self._pool is not None:
            self._pool.used += size + ITEM_OVERHEAD * packets

    def _mark_item(self, entry: Entry[T]) -> bool:
        marked = self._mark(entry[3])
        if marked:
            self._marks += entry[2]
        return marked

    def _discard(self, item: T, packets: int, reason: DropReason) -> None:
        self._drops[reason] += packets
        self._drop(item, reason)
