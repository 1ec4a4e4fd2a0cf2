"""How big a datagram may be on one path: packetization layer path MTU discovery (RFC 8899) with sealed probes.

Sizes are those of the outer IP packet. The search asks for what is wanted and for the base first; where the wanted
size does not pass, all common sizes are asked for at once, so that a path is known after a round trip or two. Later the
size in use is confirmed regularly: a path that has shrunk (a black hole, RFC 8899 section 4.3) is noticed by three
misses, and one that has grown by asking for the wanted size again. Liveness probes are small and never feed this.
"""

from __future__ import annotations

from enum import Enum

from meshnode.proto.constants import (
    BASE_MTU,
    LEAST_MTU,
    MTU_BUSY_INTERVAL,
    MTU_IDLE_INTERVAL,
    MTU_PROBE_TIMEOUT,
    MTU_PROBES,
)
from meshnode.values import Nanos

COMMON_SIZES = (
    9000,
    1500,
    1492,
    1480,
    1460,
    1440,
    1420,
    1400,
    1380,
    1340,
    1300,
    1280,
    1200,
    1024,
    768,
    576,
    512,
)
"""Ethernet, PPPoE, tunnels in tunnels, clouds, the IPv6 minimum, and what is left of old links."""


class Phase(Enum):
    """States of RFC 8899 section 5.2, BASE and SEARCH told apart by what is asked for."""

    BASE = "base"
    SEARCH = "search"
    COMPLETE = "complete"


class PathMtu:
    """The search on one path. `size` is what datagrams may have now: assumed at first, then confirmed."""

    def __init__(self, wanted: int, now: Nanos) -> None:
        self.wanted = wanted
        self.size = min(wanted, BASE_MTU)
        self.confirmed = False
        self._phase = Phase.BASE
        self._asked: tuple[int, ...] = ()
        self._waiting: dict[bytes, int] = {}
        self._sent: dict[bytes, Nanos] = {}
        self._misses: dict[int, int] = {}
        self._interval: Nanos = MTU_PROBE_TIMEOUT
        self._next = now
        self._confirmed_at = now
        self._begin(now)

    def due(self, now: Nanos) -> list[int]:
        """The sizes to probe now; overdue answers are counted as misses first."""
        self._count_misses(now)
        if now < self._next:
            return []
        if self._phase is Phase.COMPLETE:
            return list(dict.fromkeys((self.size, self.wanted)))
        return [size for size in self._asked if size not in self._waiting.values()]

    def sent(self, size: int, token: bytes, now: Nanos) -> None:
        """A probe of `size` with `token` has gone out."""
        self._waiting[token] = size
        self._sent[token] = now
        self._next = now + self._interval

    def echoed(self, token: bytes, now: Nanos) -> bool | None:
        """An echo came: None when it is not one of ours here, else whether `size` has changed."""
        size = self._waiting.pop(token, None)
        if size is None:
            return None
        del self._sent[token]
        self._misses = {s: n for s, n in self._misses.items() if s > size}
        before = (self.size, self.confirmed)
        if size > self.size or not self.confirmed:
            self.size = max(size, self.size if self.confirmed else 0)
            self.confirmed = True
        self._asked = tuple(s for s in self._asked if s > self.size)
        if self._phase is Phase.COMPLETE:
            self._complete(now)
        elif not self._asked:
            self._conclude(now)  # the wanted size may have failed before the base was confirmed
        return (self.size, self.confirmed) != before

    def too_big(self, size: int, now: Nanos) -> bool:
        """The kernel refused `size` (EMSGSIZE): as good as all misses at once. Whether `size` in use has changed."""
        before = self.size
        if size <= self.size and (self.confirmed or self.size > LEAST_MTU):
            self._fall(now)
        elif size in self._waiting.values():
            for token in [t for t, waiting in self._waiting.items() if waiting == size]:
                del self._waiting[token], self._sent[token]
            self._misses[size] = MTU_PROBES
            self._conclude(now)
        return self.size != before

    def busy(self, now: Nanos) -> None:
        """User traffic flows: the size in use is confirmed more often."""
        if self._phase is Phase.COMPLETE:
            self._interval = MTU_BUSY_INTERVAL
            self._next = min(self._next, max(now, self._confirmed_at + MTU_BUSY_INTERVAL))

    def next_wakeup(self) -> Nanos:
        """When `due` should be called next."""
        overdue = (sent + MTU_PROBE_TIMEOUT for sent in self._sent.values())
        return min((self._next, *overdue))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _begin(self, now: Nanos) -> None:
        self._phase = Phase.BASE
        self._asked = tuple(dict.fromkeys((self.wanted, min(self.wanted, BASE_MTU))))
        self._waiting.clear()
        self._sent.clear()
        self._misses.clear()
        self._interval = MTU_PROBE_TIMEOUT
        self._next = now

    def _complete(self, now: Nanos) -> None:
        self._phase = Phase.COMPLETE
        self._misses.clear()
        self._interval = MTU_IDLE_INTERVAL
        self._next = now + self._interval
        self._confirmed_at = now

    def _count_misses(self, now: Nanos) -> None:
        late = [t for t, sent in self._sent.items() if now - sent >= MTU_PROBE_TIMEOUT]
        for token in late:
            size = self._waiting.pop(token)
            del self._sent[token]
            self._misses[size] = self._misses.get(size, 0) + 1
        if late:
            self._conclude(now)

    def _conclude(self, now: Nanos) -> None:
        """What the misses so far mean."""
        failed = {size for size, misses in self._misses.items() if misses >= MTU_PROBES}
        if self._phase is Phase.COMPLETE:
            if self.size in failed:
                self._fall(now)
            elif self._misses.get(self.size):
                self._next = now  # ask again at once: is it loss, or a black hole?
            return
        self._next = now
        self._asked = tuple(size for size in self._asked if size not in failed)
        if self._asked:
            return
        if self._phase is Phase.BASE:
            self._search(failed, now)
        else:
            self._complete(now)

    def _search(self, failed: set[int], now: Nanos) -> None:
        """The wanted size does not pass: ask for all common sizes between the confirmed one and it."""
        self._phase = Phase.SEARCH
        if not self.confirmed:
            self.size = LEAST_MTU
        self._misses.clear()
        floor = self.size if self.confirmed else LEAST_MTU - 1
        self._asked = tuple(s for s in COMMON_SIZES if floor < s < self.wanted and s not in failed)
        self._next = now
        if not self._asked:
            self._complete(now)

    def _fall(self, now: Nanos) -> None:
        """The size in use does not pass any more: start over from the least."""
        self.confirmed = False
        self.size = LEAST_MTU
        self._begin(now)
