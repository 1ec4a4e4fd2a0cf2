"""One rate for everything that leaves this node: whose turn it is, by deficit round robin over the peers' lanes.

The CPU's scheduler cannot do this: its turns are fractions of a millisecond of work, and for a slow uplink that is
dozens of packets. Here the currency is bytes on the wire.
"""

from __future__ import annotations

from collections import deque

from meshnode.dataplane.peer import Peer
from meshnode.queueing.scheduler import Lane
from meshnode.queueing.shaper import TokenBucket
from meshnode.values import Nanos

QUANTUM = 1514
"""Bytes of a turn."""


class Uplink:
    """Lets one peer send at a time. `bucket` is the rate; peers that have to wait stand in line."""

    __slots__ = ("_credit", "_line", "bucket")

    def __init__(self, bits_per_second: int, now: Nanos) -> None:
        self.bucket = TokenBucket(bits_per_second, now=now)
        self._line: deque[Peer] = deque()
        self._credit: dict[Peer, int] = {}

    def admits(self, peer: Peer, now: Nanos) -> bool:
        """Whether `peer` may send now. If not, it stands in line."""
        if peer not in self._credit:
            self._credit[peer] = QUANTUM
            self._line.append(peer)
        return self._line[0] is peer and self._ready_at(peer, now) <= now

    def spend(self, peer: Peer, now: Nanos, size: int, datagrams: int) -> None:
        """The peer, which was admitted, has sent. When its turn is over it goes to the end of the line."""
        self.bucket.spend(now, size, datagrams)
        self._credit[peer] -= size + datagrams * self.bucket.overhead
        if self._credit[peer] <= 0:
            self._next()

    def leave(self, peer: Peer) -> None:
        """The peer has nothing to send."""
        if self._credit.pop(peer, None) is not None:
            self._line.remove(peer)

    def first(self, now: Nanos) -> Lane | None:
        """The lane that may send now, if one waits."""
        if self._line and self._ready_at(self._line[0], now) <= now:
            return self._line[0].seal_lane
        return None

    def poll_timeout(self, now: Nanos) -> Nanos | None:
        """When the first in line may send."""
        return self._ready_at(self._line[0], now) if self._line else None

    def _next(self) -> None:
        """Each goes to the end of the line with a new quantum, until one has any credit."""
        while True:
            peer = self._line[0]
            if self._credit[peer] > 0:
                return
            self._credit[peer] += QUANTUM
            self._line.rotate(-1)

    def _ready_at(self, peer: Peer, now: Nanos) -> Nanos:
        return self.bucket.ready_at(now, peer.largest_datagram)
