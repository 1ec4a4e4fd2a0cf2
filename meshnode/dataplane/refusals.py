"""Answers to local senders whose packets do not fit: ICMP, but never more than a trickle of it."""

from __future__ import annotations

from collections import Counter

from meshnode.dataplane import icmp
from meshnode.dataplane.tun_writer import TunWriter
from meshnode.values import MILLISECOND, Nanos
from meshnode.wire.ip import Packet

BURST = 50
INTERVAL: Nanos = 10 * MILLISECOND
"""At most 100 messages a second, and 50 at once (RFC 1812, 4.3.2.8)."""


class Refusals:
    """Writes ICMP messages to the TUN."""

    __slots__ = ("_counters", "_settled", "_tokens", "_writer")

    def __init__(self, writer: TunWriter, counters: Counter[str], now: Nanos) -> None:
        self._writer = writer
        self._counters = counters
        self._tokens = BURST
        self._settled = now

    def too_big(self, packet: Packet, mtu: int, now: Nanos) -> None:
        """Tell the sender of `packet` to use at most `mtu` bytes, if it may be told and the rate allows it."""
        answer = icmp.too_big(packet, mtu)
        if answer is None:
            return
        earned = (now - self._settled) // INTERVAL
        self._settled += earned * INTERVAL
        self._tokens = min(BURST, self._tokens + earned)
        if self._tokens <= 0:
            self._counters["icmp rate"] += 1
            return
        self._tokens -= 1
        self._writer.write_untrusted(bytearray(answer), False)
