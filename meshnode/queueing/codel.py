"""CoDel, controlled delay: signal senders when packets have waited too long for too long (RFC 8289).

The estimator is the time each packet spent in the queue. As long as one packet per `interval` gets through
within `target`, the queue is a good one that merely absorbs bursts. When none does, CoDel enters its
*dropping state*: it drops (or CE-marks) one packet now, the next `interval` later, and then at intervals that
shrink with the square root of the number of signals, because TCP's throughput falls with the square root of
its loss rate. It leaves the state with the first packet that waited less than `target`.

Where RFC 8289 leaves room, this follows Linux (`include/net/codel_impl.h`): a mark schedules the next signal
and ends the loop; the signal rate that worked last time is taken up again if that was less than 16 intervals
ago.

    >>> gaps = [next_gap(100 * MILLISECOND, count) for count in (1, 2, 3, 4)]
    >>> [round(gap / MILLISECOND, 1) for gap in gaps]
    [100.0, 70.7, 57.7, 50.0]
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Generic, NamedTuple, TypeVar

MILLISECOND = 1_000_000

MEMORY_INTERVALS = 16
"""For how many intervals the last signal rate is worth taking up again (Linux; RFC 8289 section 5.5)."""

T = TypeVar("T")

Entry = tuple[int, int, int, T]
"""Time of arrival in ns, bytes, packets, and the item. A plain tuple, as one is made for every packet."""


@dataclass(frozen=True, slots=True)
class CodelParams:
    """How patient CoDel is. Times in nanoseconds.

    `target` is the standing delay that is tolerated, `interval` about the worst round-trip time of the flows:
    a sender needs one to react. `ecn`: mark the items that can be marked instead of dropping them. `mtu` is
    the largest packet *on the wire*, in bytes: a backlog of one such packet is no queue. (Never the largest
    superpacket: a 64 KB guard would switch CoDel off on slow links.) Raises ValueError if a value makes no
    sense.
    """

    target: int = 5 * MILLISECOND
    interval: int = 100 * MILLISECOND
    ecn: bool = True
    mtu: int = 1514

    def __post_init__(self) -> None:
        if not 0 < self.target <= self.interval:
            raise ValueError(f"CoDel needs 0 < target <= interval, not {self.target} and {self.interval} ns")
        if self.mtu <= 0:
            raise ValueError(f"CoDel needs a positive mtu, not {self.mtu}")


class SignalMemory(NamedTuple):
    """What outlives a flow that went empty, so that it need not be taught again from the first signal."""

    signals: int
    last_signals: int
    drop_next: int


def next_gap(interval: int, count: int) -> int:
    """The control law, interval / sqrt(count), in whole nanoseconds: the same on every machine."""
    return isqrt(interval * interval // count)


class Codel(Generic[T]):
    """The CoDel state of one queue. A subclass supplies the queue: `pull`, `backlog`, `mark` and `drop`.

    `first_above` is when a standing queue is proven (0: the delay is fine), `drop_next` the time of the next
    signal, `count` the number of signals in this dropping state, `last_count` the `count` with which it was
    entered.
    """

    __slots__ = ("count", "drop_next", "dropping", "first_above", "last_count")

    def __init__(self) -> None:
        self.first_above = 0
        self.drop_next = 0
        self.count = 0
        self.last_count = 0
        self.dropping = False

    def pull(self) -> Entry[T] | None:
        """Take the entry at the head off the queue and off its accounts; None when it is empty."""
        raise NotImplementedError

    def backlog(self) -> int:
        """Bytes that wait behind what was pulled, in all queues that share the link (as in Linux)."""
        raise NotImplementedError

    def mark(self, entry: Entry[T]) -> bool:
        """Set CE on the item; False when it is not ECN-capable and has to be dropped instead."""
        raise NotImplementedError

    def drop(self, entry: Entry[T]) -> None:
        """Discard the item, which `pull` has taken out already."""
        raise NotImplementedError

    def dequeue(self, params: CodelParams, now: int) -> Entry[T] | None:
        """The next entry to send, after all signals that are due at `now`; None when the queue is empty."""
        entry = self.pull()
        if not self._ok_to_drop(entry, params, now):
            self.dropping = False
            return entry
        assert entry is not None  # or it would not be ok to drop
        if self.dropping:
            return self._stay(entry, params, now)
        return self._enter(entry, params, now)

    def signal_due(self, sojourn: int, backlog: int, params: CodelParams, now: int) -> bool:
        """Whether `dequeue` would signal an entry that waited `sojourn`, with `backlog` bytes behind it.

        It only looks: for callers that take an item along if CoDel has nothing to say about it.
        """
        above = sojourn >= params.target and backlog > params.mtu
        if not above or self.first_above == 0 or now < self.first_above:
            return False
        return not self.dropping or now >= self.drop_next

    def remember(self) -> SignalMemory | None:
        """What to keep when the queue goes away; None if it never had to be signalled."""
        return SignalMemory(self.count, self.last_count, self.drop_next) if self.count else None

    def recall(self, memory: SignalMemory) -> None:
        """Take up where an earlier queue of the same flow left off."""
        self.count, self.last_count, self.drop_next = memory

    def _ok_to_drop(self, entry: Entry[T] | None, params: CodelParams, now: int) -> bool:
        """Whether the delay has been above target for a whole interval; keeps `first_above`."""
        if entry is None or now - entry[0] < params.target or self.backlog() <= params.mtu:
            self.first_above = 0
            return False
        if self.first_above == 0:
            self.first_above = now + params.interval
            return False
        return now >= self.first_above

    def _enter(self, entry: Entry[T], params: CodelParams, now: int) -> Entry[T] | None:
        """Enter the dropping state with one signal."""
        sent: Entry[T] | None = entry
        if not (params.ecn and self.mark(entry)):
            self.drop(entry)
            sent = self.pull()
            self._ok_to_drop(sent, params, now)  # keeps the estimator up to date; this one passes in any case
        self.dropping = True
        # What it took beyond the first signal last time is a rate that controlled this flow: begin there.
        learned = self.count - self.last_count
        recent = now - self.drop_next < MEMORY_INTERVALS * params.interval
        self.count = learned if learned > 1 and recent else 1
        self.last_count = self.count
        self.drop_next = now + next_gap(params.interval, self.count)
        return sent

    def _stay(self, entry: Entry[T], params: CodelParams, now: int) -> Entry[T] | None:
        """Give the signals that are due: a mark ends it, drops go on until the schedule is met."""
        head: Entry[T] | None = entry
        while self.dropping and now >= self.drop_next:
            assert head is not None
            self.count += 1
            if params.ecn and self.mark(head):
                self.drop_next += next_gap(params.interval, self.count)
                return head
            self.drop(head)
            head = self.pull()
            if self._ok_to_drop(head, params, now):
                self.drop_next += next_gap(params.interval, self.count)
            else:
                self.dropping = False
        return head
