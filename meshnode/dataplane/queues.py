"""The queues in front of the crypto steps: fq_codel, or the FIFOs that it is measured against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from meshnode.dataplane.config import PlaneConfig
from meshnode.dataplane.runs import Run
from meshnode.dataplane.trains import Train
from meshnode.queueing.codel import CodelParams
from meshnode.queueing.fifo import Fifo
from meshnode.queueing.fq_codel import FqCodel, FqCodelParams
from meshnode.queueing.memory_pool import MemoryPool
from meshnode.queueing.packet_queue import DropReason
from meshnode.values import SECOND, Entropy, Nanos

MAX_SEALED = 4096
"""Datagrams that wait to be opened for one peer: half a replay window, so that reordering here never looks
like a replay."""

MAX_UNPROVEN = 256
"""Datagrams from unproven paths that wait, of all peers together."""

MAX_NEW_FLOWS = 32
"""Tags that are served before the old ones at a time: whoever makes up tags does not get ahead of everybody.
"""

LARGEST_QUANTUM, SMALLEST_QUANTUM = 1514, 300
"""A turn of a flow in bytes: an Ethernet frame, or what 0.25 ms of the rate are (as in CAKE)."""

FIFO_PACKETS_OUT = 1000
FIFO_PACKETS_IN = 2800
"""4 MB of full-sized datagrams: the socket buffer of other VPNs."""


class QueueFactory:
    """Makes the queues of all peers; they share one memory pool, and count what they drop in `counters`."""

    def __init__(self, config: PlaneConfig, entropy: Entropy, counters: Counter[str]) -> None:
        self._config = config
        self._fifo = config.queue == "fifo"
        self._codel = CodelParams(config.codel_target, config.codel_interval)
        self._entropy = entropy
        self._counters = counters
        self.pool = MemoryPool(config.memory_limit)

    def out(self) -> FqCodel[Train] | Fifo[Train]:
        """A queue in front of the seal."""
        drop: Callable[[Train, DropReason], None] = self._dropper("out")
        if self._fifo:
            return Fifo(FIFO_PACKETS_OUT, drop=drop, pool=self.pool)
        params = FqCodelParams()
        return FqCodel(params, self._codel, drop=drop, mark=Train.mark, random=self._random, pool=self.pool)

    def incoming(self) -> FqCodel[Run] | Fifo[Run]:
        """A queue in front of opening, for datagrams from proven paths of one peer."""
        drop: Callable[[Run, DropReason], None] = self._dropper("in")
        if self._fifo:
            return Fifo(FIFO_PACKETS_IN, drop=drop, pool=self.pool)
        params = FqCodelParams(packet_limit=MAX_SEALED, new_flow_cap=MAX_NEW_FLOWS)
        return FqCodel(params, self._codel, drop=drop, mark=Run.mark, random=self._random, pool=self.pool)

    def unproven(self) -> FqCodel[Run]:
        """The one small queue for what comes from elsewhere."""
        params = FqCodelParams(packet_limit=MAX_UNPROVEN, memory_limit=1 << 20, new_flow_cap=MAX_NEW_FLOWS)
        return FqCodel(params, self._codel, drop=self._dropper("in unproven"), mark=Run.mark, pool=self.pool)

    def follow(self, queue: FqCodel[Run] | Fifo[Run], interval: Nanos) -> None:
        """Fit a queue in front of opening to the round trip of its peer."""
        if isinstance(queue, FqCodel):
            queue.codel = CodelParams(self._codel.target, max(self._config.codel_interval, interval))

    def tune(self, queue: FqCodel[Train] | Fifo[Train], rate: int | None, interval: Nanos) -> None:
        """Fit a queue to a rate in bit/s (None: whatever the CPU gives) and to the round trip of its peer.

        On a slow link one packet may take longer than CoDel's target: then it is one and a half packets (RFC 8289,
        section 4.2), and turns are shorter, so that small packets need not wait for many large ones.
        """
        if isinstance(queue, Fifo):
            return
        config, codel = self._config, self._codel
        queue.quantum = LARGEST_QUANTUM
        interval = max(config.codel_interval, interval)
        queue.codel = CodelParams(codel.target, interval)
        if rate is not None:
            target = max(codel.target, 3 * 8 * codel.mtu * SECOND // (2 * rate))
            queue.codel = CodelParams(target, interval + target - codel.target)
            queue.quantum = min(LARGEST_QUANTUM, max(SMALLEST_QUANTUM, rate >> 15))

    def _random(self) -> float:
        return int.from_bytes(self._entropy.token(4), "big") / 2**32

    def _dropper(self, place: str) -> Callable[[object, DropReason], None]:
        names = {reason: f"{place} queue {reason.value}" for reason in DropReason}
        counters = self._counters

        def count(item: object, reason: DropReason) -> None:
            counters[names[reason]] += 1

        return count
