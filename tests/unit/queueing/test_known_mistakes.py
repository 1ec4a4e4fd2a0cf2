"""Ten mistakes that re-implementations of fq_codel have made. Each test fails if ours makes it."""

from collections import Counter
from random import Random

import pytest

from meshnode.queueing.codel import MILLISECOND, CodelParams
from meshnode.queueing.fq_codel import FqCodel, FqCodelParams
from meshnode.queueing.packet_queue import DropReason

MS = MILLISECOND


def recording_queue(params=None, codel=None, mark=lambda item: False):
    drops = []
    queue = FqCodel(
        params or FqCodelParams(),
        codel or CodelParams(),
        drop=lambda item, reason: drops.append((item, reason)),
        mark=mark,
    )
    return queue, drops


def test_1_every_item_leaves_once_and_the_accounts_return_to_zero():
    """ZeroTier's CoDel drops left the byte and packet counters as they were and leaked the packet; an empty list was
    read; some packets were sent twice; and its millisecond clock was as coarse as a fifth of the target."""
    queue, drops = recording_queue()
    dice = Random(1)
    sent, now, total = [], 0, 3000
    for number in range(total):
        queue.enqueue(dice.choice("abc"), number, dice.choice([60, 1400]), now)
        now += 3 * MS // 10
        if number % 3 == 0:
            sent.append(queue.dequeue(now))
    while (item := queue.dequeue(now)) is not None:
        sent.append(item)
        now += MS // 10
    assert queue.dequeue(now) is None
    assert Counter(sent) + Counter(item for item, _ in drops) == Counter(range(total))
    assert {reason for _, reason in drops} == {DropReason.CODEL}
    assert (queue.backlog_bytes, queue.backlog_packets, len(queue), queue.memory()) == (0, 0, 0, 0)
    assert queue.stats(now).flows == 0


def test_1_a_tenth_of_a_millisecond_makes_a_difference():
    for wait, first_above in ((5 * MS - 1, 0), (5 * MS, 105 * MS)):
        queue, _ = recording_queue()
        for number in range(10):
            queue.enqueue("flow", number, 1500, 0)
        queue.dequeue(wait)
        assert queue._flows["flow"].first_above == first_above


def test_1_flows_are_exact_and_not_a_few_buckets():
    queue, _ = recording_queue()
    for flow in range(2000):
        queue.enqueue(flow.to_bytes(2, "big"), flow, 100, 0)
    assert queue.stats(0).flows == 2000


def test_2_a_full_queue_drops_a_batch_and_not_one():
    """Linux once clamped its batch with min() where max() was meant."""
    queue, drops = recording_queue(FqCodelParams(packet_limit=1000))
    for number in range(1001):
        queue.enqueue("fat", number, 100, 0)
    assert len(drops) == 64
    queue, drops = recording_queue(FqCodelParams(packet_limit=40))
    for number in range(41):
        queue.enqueue("fat", number, 100, 0)
    assert len(drops) == 21  # half of 4100 bytes


def test_3_the_mtu_guard_is_not_the_largest_superpacket():
    """Compared with the largest item seen, a backlog of one train would never be a queue."""
    queue, drops = recording_queue(FqCodelParams(quantum=64_000))
    for number in range(40):
        queue.enqueue("bulk", number, 64_000, 0, packets=45)
    for step in range(20):  # one train each 26 ms: 20 Mbit/s, 60 KB of backlog and more all the time
        queue.dequeue(step * 26 * MS)
    assert len(drops) >= 3
    # Even the last but one train is signalled, while 64 KB wait behind it: far more than one packet on the wire.
    queue, drops = recording_queue(FqCodelParams(quantum=64_000))
    for second in range(1, 4):
        queue.enqueue("bulk", "signalled", 64_000, (second - 1) * 1000 * MS, packets=45)
        queue.enqueue("bulk", "last", 64_000, (second - 1) * 1000 * MS, packets=45)
        queue._flows["bulk"].first_above = 1
        assert queue.dequeue(second * 1000 * MS) == "last"
    assert [item for item, _ in drops] == ["signalled"] * 3


def test_4_numbers_given_at_the_dequeue_are_in_order():
    """The ath9k bug: sequence numbers given before the queue look like replays after it, because FQ reorders flows.
    Within a flow it must never reorder."""
    queue, _ = recording_queue()
    for number in range(60):
        queue.enqueue("ab"[number % 3 == 0], number, 1400, 0)
    order = [queue.dequeue(0) for _ in range(60)]
    assert order != sorted(order)
    for rest in (lambda number: number % 3 == 0, lambda number: number % 3 != 0):
        flow = [number for number in order if rest(number)]
        assert flow == sorted(flow)


def test_5_a_sparse_packet_does_not_wait_for_older_ones():
    """Popping the oldest of all packets is fair in its drops, but has the latency of a FIFO."""
    queue, _ = recording_queue()
    for number in range(200):
        queue.enqueue(number % 4, "bulk", 1500, 0)
    for _ in range(20):
        queue.dequeue(0)
    queue.enqueue("ssh", "keystroke", 60, 1)
    assert queue.dequeue(1) == "keystroke"


@pytest.mark.parametrize("empty_between", [False, True])
def test_6_the_signal_rate_is_remembered(empty_between):
    """Starting again from one signal, or from count - 2, each time the queue dips below target."""
    queue, _ = recording_queue(mark=lambda item: True)
    now = 0
    for _ in range(1000):
        queue.enqueue("bulk", "packet", 1500, now)
    while queue._flows["bulk"].count < 6:
        now += MS
        queue.dequeue(now)
    learned = queue._flows["bulk"].count - queue._flows["bulk"].last_count
    assert learned == 5
    if empty_between:  # the flow is even forgotten, and comes back
        while queue.dequeue(0) is not None:  # at a time when they had not waited
            pass
        assert queue.stats(now).flows == 0
    else:
        queue._flows["bulk"].entries.appendleft((now, 1500, 1, "fresh"))
        assert queue.dequeue(now) == "fresh"
        assert not queue._flows["bulk"].dropping
    for _ in range(1000):
        queue.enqueue("bulk", "packet", 1500, now, stamp=now - 10 * MS)
    marks = queue.stats(now).marks
    while queue.stats(now).marks == marks:
        now += MS
        queue.dequeue(now)
    assert queue._flows["bulk"].count == learned


def test_7_a_superpacket_is_paid_for_in_full():
    """64 KB that count as one packet are 26 ms at 20 Mbit/s, again and again. Here they cost their flow 43 turns."""
    queue, _ = recording_queue()
    for number in range(100):
        queue.enqueue("trains", number, 64_000, 0, packets=45)
        for _ in range(50):
            queue.enqueue("packets", "packet", 1400, 0)
    bytes_sent = {"trains": 0, "packets": 0}
    for _ in range(1000):
        item = queue.dequeue(0)
        bytes_sent[queue.served_key] += 1400 if item == "packet" else 64_000
    assert abs(bytes_sent["trains"] - bytes_sent["packets"]) <= 64_000 + 1514


@pytest.mark.parametrize("flows", [1, 2000])
def test_8_a_flood_does_not_cost_a_search_per_packet(flows):
    """Linear searches for the fattest flow "ate low end CPUs for breakfast" until they dropped in batches."""
    searches = []

    class Watched(FqCodel):
        def shed(self, now, at_least=1):
            searches.append(len(self._flows))
            return super().shed(now, at_least)

    queue = Watched(FqCodelParams(packet_limit=2000))
    for number in range(12_000):
        queue.enqueue(number % (flows * 2), number, 64, 0)
    looked_at = sum(searches)
    assert queue.stats(0).dropped >= 10_000
    assert looked_at <= 40 * queue.stats(0).dropped


def test_9_drops_come_from_the_head():
    """A signal from the tail arrives a whole queue later."""
    queue, drops = recording_queue(FqCodelParams(packet_limit=10))
    for number in range(11):
        queue.enqueue("flow", number, 100, 0)
    assert [item for item, _ in drops] == [0, 1, 2, 3, 4, 5]
    queue, drops = recording_queue()
    for number in range(200):
        queue.enqueue("flow", number, 1500, 0)
    out = [queue.dequeue(5 * MS + step * MS) for step in range(101)]
    assert [item for item, _ in drops] == [100]
    assert out[-1] == 101


def test_10_time_below_and_before_the_queue_counts():
    """A queue that measures only itself and releases into a deep buffer controls nothing. What waited in a socket
    comes with the time at which the kernel got it."""
    queue, drops = recording_queue()
    for step in range(150):
        now = 200 * MS + step * MS
        for _ in range(2):
            queue.enqueue("flow", "late", 1500, now, stamp=now - 50 * MS)
        queue.dequeue(now)
    assert len(drops) == 1
    assert queue.stats(now).sojourn_p50 > 49 * MS
