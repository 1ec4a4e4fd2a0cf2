"""A token bucket: when may the next packet leave, so that the rate on the wire is exactly what was asked for?

Tokens are kept in billionths of a bit: a rate in bit/s times a time in nanoseconds is a number of them, so
nothing is ever rounded and a rate holds over hours as over milliseconds.

    >>> bucket = TokenBucket(rate_bps=10_000_000, overhead=OVERHEAD_IPV4)
    >>> bucket.ready_at(now=0, size=1190)       # 1250 bytes with the overhead take a millisecond
    1000000
    >>> bucket.spend(now=1_000_000, size=1190)
    >>> bucket.ready_at(now=1_000_000, size=1190)
    2000000
"""

from __future__ import annotations

OVERHEAD_IPV4 = 20 + 8 + 16 + 16
"""Bytes that each datagram adds over IPv4: IP, UDP, our header and the AEAD tag."""

OVERHEAD_IPV6 = 40 + 8 + 16 + 16
"""The same over IPv6."""

BURST = 2_000_000
"""Nanoseconds of the rate that may be saved up: what a late timer costs must be made up for, and no more."""

TOKENS_PER_BYTE = 8 * 1_000_000_000
"""A token is 10^-9 bit."""


class TokenBucket:
    """Shapes to `rate_bps` (None: not at all). It is empty at `now`.

    It saves up at most `burst` nanoseconds of the rate and one packet of `mtu` bytes on the wire. `overhead`
    is added to every packet; it may be changed at any time, as when a path's family changes. An item that is
    larger than the bucket may go when the bucket is full, and is paid off afterwards.
    """

    __slots__ = ("_burst", "_capacity", "_mtu", "_rate", "_settled", "_tokens", "overhead")

    def __init__(
        self,
        rate_bps: int | None = None,
        burst: int = BURST,
        *,
        now: int = 0,
        mtu: int = 1500,
        overhead: int = OVERHEAD_IPV4,
    ) -> None:
        self.overhead = overhead
        self._burst = burst
        self._mtu = mtu
        self._rate: int | None = None
        self._capacity = 0
        self._tokens = 0
        self._settled = now
        self.set_rate(rate_bps, now)

    @property
    def rate_bps(self) -> int | None:
        """Bits per second on the wire; None when open."""
        return self._rate

    def set_rate(self, rate_bps: int | None, now: int) -> None:
        """Change the rate at once, without a burst and without a stall.

        What was saved is cut to what the new rate may save. A debt lasts no longer than it would have: at a
        lower rate it is scaled down. From no rate to one the bucket starts empty: nothing was saved, nothing
        is owed. Raises ValueError unless the rate is positive or None.
        """
        if rate_bps is not None and rate_bps <= 0:
            raise ValueError(f"a rate must be positive, not {rate_bps} bit/s; None is no limit")
        old, self._rate = self._rate, rate_bps
        tokens = 0 if old is None else self._tokens_at(old, now)
        if old is not None and rate_bps is not None and tokens < 0 and rate_bps < old:
            tokens = tokens * rate_bps // old
        self._capacity = 0 if rate_bps is None else rate_bps * self._burst + self._mtu * TOKENS_PER_BYTE
        self._tokens = min(tokens, self._capacity)
        self._settled = max(now, self._settled)

    def ready_at(self, now: int, size: int, packets: int = 1) -> int:
        """The first time, from `now` on, at which `size` bytes in `packets` packets may leave."""
        rate = self._rate
        if rate is None:
            return now
        price = (size + packets * self.overhead) * TOKENS_PER_BYTE
        missing = min(price, self._capacity) - self._tokens_at(rate, now)
        return now if missing <= 0 else max(now, self._settled) + -(-missing // rate)

    def spend(self, now: int, size: int, packets: int = 1) -> None:
        """`size` bytes in `packets` packets leave at `now`. Free of charge while there is no rate."""
        rate = self._rate
        if rate is None:
            return
        price = (size + packets * self.overhead) * TOKENS_PER_BYTE
        self._tokens = self._tokens_at(rate, now) - price
        self._settled = max(now, self._settled)

    def _tokens_at(self, rate: int, now: int) -> int:
        """What there is at `now`; a `now` before the last one adds nothing."""
        tokens = self._tokens
        if now > self._settled:
            tokens += rate * (now - self._settled)
        return min(tokens, self._capacity)
