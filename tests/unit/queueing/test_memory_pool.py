from collections import Counter
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meshnode.queueing.codel import MILLISECOND
from meshnode.queueing.fifo import Fifo
from meshnode.queueing.fq_codel import FqCodel, FqCodelParams
from meshnode.queueing.memory_pool import MemoryPool
from meshnode.queueing.packet_queue import ITEM_OVERHEAD


def test_the_fattest_flow_of_the_fattest_queue_pays():
    pool = MemoryPool(limit=100_000)
    drops = Counter()
    queues = {}
    for name in ("flooded", "busy", "quiet"):
        queues[name] = FqCodel(drop=lambda item, reason: drops.update([item]), pool=pool)
    for number in range(3):
        queues["quiet"].enqueue("call", "call", 200, number)
    for number in range(10):
        queues["busy"].enqueue("web", "web", 1400, number)
        queues["flooded"].enqueue("ssh", "ssh", 60, number)
    for number in range(1000):
        queues["flooded"].enqueue("flood", "flood", 500, number)
        assert pool.used <= pool.limit
    assert set(drops) == {"flood"}
    assert pool.used == sum(queue.memory() for queue in queues.values())


def test_many_thin_queues_are_relieved_in_batches():
    pool = MemoryPool(limit=200 * (100 + ITEM_OVERHEAD))
    sheds = []

    class Watched(FqCodel):
        def shed(self, now, at_least=1):
            sheds.append(at_least)
            return super().shed(now, at_least)

    queues = [Watched(pool=pool) for _ in range(200)]
    for queue in queues:
        for flow in range(3):
            queue.enqueue(flow, flow, 100, 0)
    assert pool.used <= pool.limit
    assert set(sheds) == {200 >> 5}


def test_fifos_share_a_pool_with_flow_queues():
    pool = MemoryPool(limit=50_000)
    fifo, fair = Fifo(pool=pool), FqCodel(pool=pool)
    for number in range(100):
        fifo.enqueue("flow", number, 1000, 0)
        fair.enqueue("flow", number, 1000, 0)
        assert pool.used == fifo.memory() + fair.memory() <= 50_000
    assert fifo.stats(0).dropped > 0
    assert fair.stats(0).dropped > 0
    while fifo.dequeue(0) is not None:
        pass
    fair.clear()
    assert pool.used == 0


@pytest.mark.parametrize("kind", [Fifo, FqCodel])
def test_a_closed_queue_leaves_the_pool(kind):
    pool = MemoryPool(limit=50_000)
    gone, stays = kind(pool=pool), kind(pool=pool)
    gone.enqueue("flow", "item", 1000, 0)
    gone.close()
    assert pool.used == 0
    for number in range(200):
        stays.enqueue("flow", number, 1000, 0)
    assert pool.used == stays.memory() <= 50_000


def test_a_pool_needs_a_limit():
    with pytest.raises(ValueError, match="positive limit"):
        MemoryPool(0)


class Pooled(RuleBasedStateMachine):
    """Several queues and one pool: whatever happens, the pool holds, its account is right, and nothing is lost."""

    @initialize(limit=st.sampled_from([2_000, 20_000, 200_000]), seed=st.integers(0, 9))
    def start(self, limit, seed):
        self.pool = MemoryPool(limit)
        self.inside = set()
        self.number = 0
        self.now = 0
        params = FqCodelParams(packet_limit=50)
        random = Random(seed).random
        self.queues = [
            FqCodel(params, drop=self.left, random=random, pool=self.pool),
            FqCodel(params, drop=self.left, mark=lambda item: item % 2 == 0, random=random, pool=self.pool),
            Fifo(30, drop=self.left, pool=self.pool),
        ]

    def left(self, item, reason=None):
        self.inside.remove(item)

    @rule(
        which=st.integers(0, 2),
        flow=st.integers(0, 3),
        size=st.sampled_from([1, 60, 1500, 60_000]),
        packets=st.sampled_from([1, 1, 40]),
        repeat=st.integers(1, 30),
    )
    def enqueue(self, which, flow, size, packets, repeat):
        for _ in range(repeat):
            self.number += 1
            self.inside.add(self.number)
            self.queues[which].enqueue(flow, self.number, size, self.now, packets)

    @rule(which=st.integers(0, 2), repeat=st.integers(1, 10))
    def dequeue(self, which, repeat):
        for _ in range(repeat):
            item = self.queues[which].dequeue(self.now)
            if item is not None:
                self.left(item)

    @rule(which=st.integers(0, 2))
    def clear(self, which):
        self.queues[which].clear()

    @rule(milliseconds=st.sampled_from([1, 6, 120, 3000]))
    def wait(self, milliseconds):
        self.now += milliseconds * MILLISECOND

    @invariant()
    def the_pool_holds(self):
        assert self.pool.used == sum(queue.memory() for queue in self.queues) <= self.pool.limit

    @invariant()
    def what_is_inside_can_be_counted(self):
        assert len(self.inside) <= sum(len(queue) for queue in self.queues) <= 130

    def teardown(self):
        for queue in getattr(self, "queues", []):
            while (item := queue.dequeue(self.now)) is not None:
                self.left(item)
        assert not getattr(self, "inside", set())


Pooled.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestPooled = Pooled.TestCase
