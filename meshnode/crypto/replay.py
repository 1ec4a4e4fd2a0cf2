"""The replay window of one receive key (RFC 6479: a ring that moves with the highest counter)."""

from __future__ import annotations

WINDOW = 8192
"""How far behind the highest counter a datagram may come and still be new."""

_MASK = WINDOW - 1


class ReplayWindow:
    """Which counters have been seen, one byte for each: in Python that is faster than bits.

    The counter's own limit, the suite's `reject_after`, is for the caller to hold.
    """

    __slots__ = ("_seen", "highest")

    def __init__(self) -> None:
        self._seen = bytearray(WINDOW)
        self.highest = -1

    def check(self, counter: int) -> bool:
        """Whether `accept` would say yes now. Changes nothing: the tag has not been checked yet."""
        ahead = counter - self.highest
        return ahead > 0 or (ahead > -WINDOW and not self._seen[counter & _MASK])

    def accept(self, counter: int) -> bool:
        """Mark an authenticated counter. False for one seen before or too old: then drop the datagram."""
        ahead = counter - self.highest
        if ahead > 0:
            if ahead > 1:
                self._forget(ahead - 1)
            self.highest = counter
        elif ahead <= -WINDOW or self._seen[counter & _MASK]:
            return False
        self._seen[counter & _MASK] = 1
        return True

    def _forget(self, count: int) -> None:
        """The `count` counters after the highest are new; their places still tell of older ones."""
        if count >= WINDOW:
            self._seen = bytearray(WINDOW)
            return
        start = (self.highest + 1) & _MASK
        end = start + count
        if end <= WINDOW:
            self._seen[start:end] = bytes(count)
        else:
            self._seen[start:] = bytes(WINDOW - start)
            self._seen[: end - WINDOW] = bytes(end - WINDOW)
