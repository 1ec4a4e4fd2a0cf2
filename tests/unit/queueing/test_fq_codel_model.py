"""FqCodel does what the slow model does: whatever is put in, and whenever."""

from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.queueing.codel import MILLISECOND, CodelParams
from meshnode.queueing.fq_codel import FqCodel, FqCodelParams
from tests.unit.queueing.model import ModelFqCodel, Packet


class Enqueue(NamedTuple):
    key: str
    size: int
    packets: int
    ecn_capable: bool
    repeat: int


class Dequeue(NamedTuple):
    repeat: int


class Along(NamedTuple):
    sparse: bool
    max_size: int


class Wait(NamedTuple):
    time: int


KEYS = "abcd"
SIZES = st.sampled_from([1, 60, 1400, 1514, 3000, 64_000])
OPERATIONS = st.one_of(
    st.builds(
        Enqueue,
        st.sampled_from(KEYS),
        SIZES,
        st.sampled_from([1, 1, 1, 3]),
        st.booleans(),
        st.integers(1, 12),
    ),
    st.builds(Dequeue, st.integers(1, 8)),
    st.builds(Along, st.booleans(), st.sampled_from([60, 1400, 100_000])),
    st.builds(Wait, st.sampled_from([1, 1, 4, 5, 11, 60, 100, 250, 1700])),
)
PARAMS = st.builds(
    FqCodelParams,
    quantum=st.sampled_from([300, 1514, 9000]),
    packet_cost=st.sampled_from([0, 500]),
    packet_limit=st.sampled_from([7, 30, 200]),
    memory_limit=st.sampled_from([20_000, 10_000_000]),
    new_flow_cap=st.sampled_from([None, 0, 2]),
)
CODEL = st.builds(
    CodelParams,
    target=st.sampled_from([MILLISECOND, 5 * MILLISECOND]),
    interval=st.sampled_from([20 * MILLISECOND, 100 * MILLISECOND]),
    ecn=st.booleans(),
    mtu=st.sampled_from([60, 1514]),
)


class Both:
    """The queue and the model, given the same; what differs fails."""

    def __init__(self, params, codel, seed):
        self.events = []
        self.params = params
        self.number = 0
        self.queue = FqCodel(
            params,
            codel,
            drop=lambda item, reason: self.events.append((reason.value, item)),
            mark=self.mark,
            random=Random(seed).random,
        )
        self.model = ModelFqCodel(params, codel, seed)

    def mark(self, item):
        if item.ecn_capable:
            self.events.append(("mark", item))
        return item.ecn_capable

    def enqueue(self, key, size, now, packets, ecn_capable):
        self.number += 1
        item = Packet(self.number, ecn_capable)
        self.queue.enqueue(key, item, size, now, packets)
        self.model.enqueue(key, item, size, now, packets)

    def dequeue(self, now):
        assert self.queue.dequeue(now) == self.model.dequeue(now)

    def along(self, sparse, now, max_size):
        if sparse:
            assert self.queue.dequeue_sparse(now, max_size) == self.model.dequeue_sparse(now, max_size)
        else:
            assert self.queue.dequeue_same(now, max_size) == self.model.dequeue_same(now, max_size)

    def compare(self, now):
        queue, model = self.queue, self.model
        assert self.events == model.events
        assert queue.backlog_bytes == model.backlog_bytes()
        assert queue.backlog_packets == model.backlog_packets() == len(queue) <= self.params.packet_limit
        assert queue.memory() <= self.params.memory_limit
        assert all(queue.is_sparse(key) == (key not in model.old) for key in KEYS)
        assert queue.served_key == model.served
        stats = queue.stats(now)
        assert stats.flows == len(model.new) + len(model.old)


@settings(max_examples=150, deadline=None)
@given(PARAMS, CODEL, st.lists(OPERATIONS, max_size=60), st.integers(0, 3))
def test_same_as_the_model(params, codel, operations, seed):
    both = Both(params, codel, seed)
    now = 10**12
    for operation in operations:
        match operation:
            case Enqueue(key, size, packets, ecn_capable, repeat):
                for _ in range(repeat):
                    both.enqueue(key, size, now, packets, ecn_capable)
            case Dequeue(repeat):
                for _ in range(repeat):
                    both.dequeue(now)
            case Along(sparse, max_size):
                both.along(sparse, now, max_size)
            case Wait(time):
                now += time * MILLISECOND
        both.compare(now)


@pytest.mark.parametrize("seed", range(40))
def test_same_as_the_model_under_long_overload(seed):
    """Long runs near and above capacity, which reach deep dropping states and high BLUE probabilities."""
    dice = Random(seed)
    params = FqCodelParams(
        quantum=dice.choice([300, 1514, 9000]),
        packet_cost=dice.choice([0, 500]),
        packet_limit=dice.choice([7, 30, 60]),
        memory_limit=dice.choice([20_000, 10_000_000]),
        new_flow_cap=dice.choice([None, 0, 2]),
    )
    codel = CodelParams(
        target=dice.choice([1, 5]) * MILLISECOND,
        interval=dice.choice([20, 100]) * MILLISECOND,
        ecn=dice.random() < 0.5,
        mtu=dice.choice([60, 1514]),
    )
    both = Both(params, codel, seed)
    now = 10**12
    step = dice.choice([1, 3, 10, 30]) * MILLISECOND // dice.choice([1, 4])
    load = dice.random()
    for _ in range(400):
        if dice.random() < 0.05:
            load = dice.random()
        if dice.random() < load:
            size = dice.choice([1, 60, 1400, 1514, 3000, 64_000])
            both.enqueue(dice.choice(KEYS), size, now, dice.choice([1, 1, 3]), dice.random() < 0.3)
        elif dice.random() < 0.8:
            both.dequeue(now)
        else:
            both.along(dice.random() < 0.5, now, dice.choice([60, 1400, 100_000]))
        now += dice.choice([0, 1, 1, 2]) * step if dice.random() < 0.99 else 1700 * MILLISECOND
        both.compare(now)
