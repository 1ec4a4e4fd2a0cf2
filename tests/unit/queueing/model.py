"""fq_codel as a slow, obvious model, written from the text of RFC 8289 and RFC 8290 and from notes on Linux.

It forgets nothing, searches everything and copies itself to look ahead. What it does not model: the sweep of
emptied flows and the search that takes several flows at once, which need thousands of flows.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from math import sqrt
from random import Random

from meshnode.queueing.codel import CodelParams
from meshnode.queueing.fq_codel import FqCodelParams

LONG_AGO = -(10**18)


@dataclass(frozen=True)
class Packet:
    """What the differential test queues."""

    number: int
    ecn_capable: bool


@dataclass
class ModelFlow:
    packets: list = field(default_factory=list)
    deficit: int = 0
    first_above: int | None = None
    dropping: bool = False
    count: int = 0
    last_count: int = 0
    drop_next: int = 0
    probability: float = 0.0
    probability_changed: int = LONG_AGO

    def lower_probability(self, now: int) -> None:
        self.probability = max(0.0, self.probability - 1 / 4096)
        self.probability_changed = now if self.probability else LONG_AGO

    def bytes(self) -> int:
        return sum(size for _, size, _, _ in self.packets)


class ModelFqCodel:
    def __init__(self, params: FqCodelParams, codel: CodelParams, seed: int) -> None:
        self.params = params
        self.codel = codel
        self.flows: dict = {}
        self.new: list = []
        self.old: list = []
        self.events: list = []
        self.random = Random(seed)
        self.served = None

    def all_packets(self) -> list:
        return [packet for flow in self.flows.values() for packet in flow.packets]

    def backlog_bytes(self) -> int:
        return sum(size for _, size, _, _ in self.all_packets())

    def backlog_packets(self) -> int:
        return sum(packets for _, _, packets, _ in self.all_packets())

    # RFC 8290, 4.1

    def enqueue(self, key, item, size, now, packets=1) -> None:
        flow = self.flows.setdefault(key, ModelFlow())
        if self.blue_refuses(key, flow, now):
            self.events.append(("blue", item))
            return
        if key not in self.new and key not in self.old:
            self.flows[key] = self.flows.pop(
                key
            )  # of equally fat flows, the longest active is searched first
            flow.deficit = self.params.quantum
            cap = self.params.new_flow_cap
            (self.new if cap is None or len(self.new) < cap else self.old).append(key)
        flow.packets.append((now, size, packets, item))
        while (
            self.backlog_packets() > self.params.packet_limit
            or self.backlog_bytes() + 256 * self.backlog_packets() > self.params.memory_limit
        ):
            self.drop_from_fattest(now)

    def drop_from_fattest(self, now) -> None:
        flow = max(self.flows.values(), key=ModelFlow.bytes)
        half = flow.bytes() // 2
        dropped = dropped_bytes = 0
        while True:
            _, size, _, item = flow.packets.pop(0)
            self.events.append(("overlimit", item))
            dropped += 1
            dropped_bytes += size
            if dropped >= 64 or dropped_bytes >= half:
                break
        flow.count += dropped
        if now - flow.probability_changed > self.codel.target:
            flow.probability = min(1.0, flow.probability + 1 / 256)
            flow.probability_changed = now

    # RFC 8290, 4.2

    def dequeue(self, now):
        while self.new or self.old:
            which = self.new if self.new else self.old
            key = which[0]
            flow = self.flows[key]
            if flow.deficit <= 0:
                flow.deficit += self.params.quantum
                self.old.append(which.pop(0))
                continue
            packet = self.codel_dequeue(flow, now)
            if packet is not None:
                return self.serve(key, flow, packet)
            self.retire(which, flow, now)
        return None

    def retire(self, which, flow, now) -> None:
        """Off the list, but a new flow must pass through the old ones (Linux: if there are any)."""
        self.blue_empty(flow, now)
        key = which.pop(0)
        if which is self.new and self.old:
            self.old.append(key)
        elif self.served == key:
            self.served = None

    def serve(self, key, flow, packet):
        _, size, packets, item = packet
        flow.deficit -= size + packets * self.params.packet_cost
        self.served = key
        return item

    # RFC 8289, 5.5, with ECN and the memory of count as in Linux

    def codel_dequeue(self, flow, now):
        packet, ok_to_drop = self.dodequeue(flow, now)
        if packet is None:
            flow.dropping = False
            return None
        if flow.dropping:
            if not ok_to_drop:
                flow.dropping = False
            while flow.dropping and now >= flow.drop_next:
                flow.count += 1
                if self.codel.ecn and packet[3].ecn_capable:
                    self.events.append(("mark", packet[3]))
                    flow.drop_next = self.control_law(flow.drop_next, flow.count)
                    return packet
                self.events.append(("codel", packet[3]))
                packet, ok_to_drop = self.dodequeue(flow, now)
                if not ok_to_drop:
                    flow.dropping = False
                else:
                    flow.drop_next = self.control_law(flow.drop_next, flow.count)
        elif ok_to_drop:
            if self.codel.ecn and packet[3].ecn_capable:
                self.events.append(("mark", packet[3]))
            else:
                self.events.append(("codel", packet[3]))
                packet, ok_to_drop = self.dodequeue(flow, now)
            flow.dropping = True
            delta = flow.count - flow.last_count
            flow.count = 1
            if delta > 1 and now - flow.drop_next < 16 * self.codel.interval:
                flow.count = delta
            flow.drop_next = self.control_law(now, flow.count)
            flow.last_count = flow.count
        return packet

    def dodequeue(self, flow, now):
        if not flow.packets:
            flow.first_above = None
            return None, False
        packet = flow.packets.pop(0)
        sojourn = now - packet[0]
        if sojourn < self.codel.target or self.backlog_bytes() <= self.codel.mtu:
            flow.first_above = None
        elif flow.first_above is None:
            flow.first_above = now + self.codel.interval
        elif now >= flow.first_above:
            return packet, True
        return packet, False

    def control_law(self, time, count):
        return time + int(self.codel.interval / sqrt(count))

    # COBALT's BLUE, at enqueue

    def blue_refuses(self, key, flow, now) -> bool:
        if not flow.probability:
            return False
        if key not in self.new and key not in self.old:
            while now - flow.probability_changed >= self.codel.target and flow.probability:
                flow.lower_probability(flow.probability_changed + self.codel.target)
        return self.random.random() < flow.probability

    def blue_empty(self, flow, now) -> None:
        if flow.probability and now - flow.probability_changed > self.codel.target:
            flow.lower_probability(now)

    # Taking small packets along

    def dequeue_same(self, now, max_size):
        return None if self.served is None else self.take_along(self.served, now, max_size)

    def dequeue_sparse(self, now, max_size):
        while self.new:
            flow = self.flows[self.new[0]]
            if flow.deficit <= 0:
                flow.deficit += self.params.quantum
                self.old.append(self.new.pop(0))
            elif not flow.packets:
                self.codel_dequeue(flow, now)
                self.retire(self.new, flow, now)
            else:
                return self.take_along(self.new[0], now, max_size)
        return None

    def take_along(self, key, now, max_size):
        flow = self.flows[key]
        if flow.deficit <= 0 or not flow.packets or flow.packets[0][1] > max_size:
            return None
        trial = deepcopy(self)
        trial.codel_dequeue(trial.flows[key], now)
        if trial.events != self.events:
            return None
        return self.serve(key, flow, self.codel_dequeue(flow, now))
