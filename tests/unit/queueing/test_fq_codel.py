from collections import Counter
from random import Random

import pytest

from meshnode.queueing import fq_codel
from meshnode.queueing.codel import MILLISECOND, CodelParams
from meshnode.queueing.fq_codel import FqCodel, FqCodelParams
from meshnode.queueing.packet_queue import ITEM_OVERHEAD, DropReason

MS = MILLISECOND


def jain(shares):
    """Jain's index: 1 when all are equal, 1/n when one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def fill(queue, key, number, size=1500, now=0, packets=1):
    for item in range(number):
        queue.enqueue(key, (key, item, size), size, now, packets)


def drain(queue, now=0):
    items = []
    while (item := queue.dequeue(now)) is not None:
        items.append(item)
    return items


def test_an_empty_queue_gives_nothing():
    queue = FqCodel()
    assert queue.dequeue(0) is None
    assert queue.dequeue_same(0, 1500) is None
    assert queue.dequeue_sparse(0, 1500) is None
    assert queue.served_key is None
    assert queue.is_sparse("unknown")


def test_bytes_are_shared_equally_whatever_the_packet_size():
    queue = FqCodel(FqCodelParams(packet_limit=10**6, memory_limit=10**9))
    sizes = {0: 60, 1: 300, 2: 576, 3: 1200, 4: 1500, 5: 9000, 6: 64_000, 7: 1000}
    for key, size in sizes.items():
        fill(queue, key, 4_000_000 // size, size)
    sent = Counter()
    while sum(sent.values()) < 16_000_000:
        key, _, size = queue.dequeue(0)
        sent[key] += size
    assert jain(list(sent.values())) > 0.9999


def test_cost_is_shared_equally_when_packets_cost_more_than_their_bytes():
    queue = FqCodel(FqCodelParams(packet_cost=3000, quantum=4500, packet_limit=10**6, memory_limit=10**9))
    fill(queue, "acks", 5000, 60)
    fill(queue, "data", 5000, 1500)
    fill(queue, "trains", 200, 62_000, packets=45)
    cost = Counter()
    for _ in range(3000):
        key, _, size = queue.dequeue(0)
        cost[key] += size + 3000 * (45 if key == "trains" else 1)
    assert jain(list(cost.values())) > 0.999


def test_a_sparse_flow_passes_elephants():
    """Less than a packet per round, and it never waits for one of theirs."""
    queue = FqCodel()
    dice = Random(3)
    for elephant in range(10):
        fill(queue, elephant, 500)
    for now in range(100):
        for _ in range(dice.randrange(24, 40)):  # a round is up to two packets for each
            assert queue.dequeue(now) != "ping"
        queue.enqueue("ping", "ping", 84, now)
        assert queue.is_sparse("ping")
        assert queue.dequeue(now) == "ping"


def test_a_flow_that_sends_too_much_is_no_longer_sparse():
    queue = FqCodel()
    fill(queue, "elephant", 100)
    fill(queue, "pretender", 100)
    assert queue.is_sparse("pretender")
    served = []
    for _ in range(100):
        queue.dequeue(0)
        served.append(queue.served_key)
    assert not queue.is_sparse("pretender")
    assert abs(served.count("pretender") - 50) <= 2


def test_an_emptied_new_flow_waits_among_the_old_ones():
    """A trickle that is always empty when its turn ends must not starve the others (RFC 8290, 4.2)."""
    queue = FqCodel()
    fill(queue, "elephant", 1000)
    for _ in range(3):
        queue.dequeue(0)
    served = Counter()
    for _ in range(200):
        queue.enqueue("trickle", "trickle", 1514, 0)
        queue.dequeue(0)
        served[queue.served_key] += 1
    assert served["elephant"] >= 90


def test_the_lone_debtor_is_served_at_once():
    queue = FqCodel(FqCodelParams(quantum=300))
    fill(queue, "train", 3, 64_000)
    assert len(drain(queue)) == 3
    queue.enqueue("train", "next", 64_000, 0)
    assert queue.dequeue(0) == "next"


def test_emptied_flows_are_forgotten():
    queue = FqCodel()
    for key in range(100):
        fill(queue, key, 2)
    assert queue.stats(0).flows == 100
    assert len(drain(queue)) == 200
    assert queue.stats(0).flows == 0
    assert queue.served_key is None


def test_too_many_new_flows_start_as_old_ones():
    queue = FqCodel(FqCodelParams(new_flow_cap=3))
    for key in range(5):
        fill(queue, key, 1)
    assert [queue.is_sparse(key) for key in range(5)] == [True, True, True, False, False]
    assert [key for key, _, _ in drain(queue)] == [0, 1, 2, 3, 4]
    fill(queue, "next", 1)
    assert queue.is_sparse("next")


def test_the_fattest_flow_pays_for_a_full_queue():
    drops = []
    queue = FqCodel(
        FqCodelParams(packet_limit=100), drop=lambda item, reason: drops.append((item[0], reason))
    )
    fill(queue, "fat", 90)
    fill(queue, "thin", 10)
    fill(queue, "late", 1)
    assert drops == [("fat", DropReason.OVERLIMIT)] * 45
    assert queue._flows["fat"].count == 45  # CoDel is to be as much firmer
    assert len(queue) == 56
    assert queue.stats(0).drops == {
        DropReason.CODEL: 0,
        DropReason.OVERLIMIT: 45,
        DropReason.BLUE: 0,
        DropReason.CLEARED: 0,
    }


def test_the_fattest_flow_is_fattest_by_bytes():
    drops = []
    queue = FqCodel(FqCodelParams(packet_limit=100), drop=lambda item, reason: drops.append(item[0]))
    fill(queue, "many", 90, 60)
    fill(queue, "fat", 11, 1500)
    assert set(drops) == {"fat"}


def test_the_memory_limit_counts_more_than_bytes():
    queue = FqCodel(FqCodelParams(memory_limit=100_000))
    fill(queue, "tiny", 10_000, 1)
    assert queue.memory() <= 100_000
    assert queue.memory() == len(queue) * (1 + ITEM_OVERHEAD)


def test_one_item_larger_than_the_limit_is_dropped_itself():
    drops = []
    queue = FqCodel(FqCodelParams(memory_limit=10_000), drop=lambda item, reason: drops.append(item))
    queue.enqueue("flow", "train", 64_000, 0, packets=45)
    assert drops == ["train"]
    assert (len(queue), queue.memory()) == (0, 0)


def test_a_train_that_does_not_fit_makes_room_in_several_steps():
    queue = FqCodel(FqCodelParams(packet_limit=400))
    fill(queue, "packets", 400, 1500)
    queue.enqueue("train", "train", 300 * 1400, 0, packets=300)
    assert len(queue) <= 400


def test_a_flood_of_flows_is_bounded_and_shared_out():
    """Nothing is dequeued (the peer is away), and every packet is a new flow."""
    drops = []
    queue = FqCodel(FqCodelParams(packet_limit=1000), drop=lambda item, reason: drops.append(item))
    for number in range(20_000):
        queue.enqueue(number, number, 64, 0)
        assert len(queue) <= 1000
        assert len(queue._flows) <= 1001
    assert len(drops) == 20_000 - len(queue)
    assert len(queue._signals) <= fq_codel.REMEMBERED_FLOWS
    left = drain(queue)
    assert len(left) + len(drops) == 20_000
    assert sorted(left) == left


def test_forgetting_emptied_flows_keeps_both_lists():
    queue = FqCodel(FqCodelParams(packet_limit=4))
    for key in "abcd":
        fill(queue, key, 1, 2000)
    queue.dequeue(0)  # a spent its turn: the next look moves it among the old ones
    queue.enqueue("b", ("b", 9, 60), 60, 0)
    assert queue.dequeue(0)[0] == "b"
    fill(queue, "e", 2, 60)
    assert len(queue) <= 4
    fill(queue, "f", 1, 60)
    assert len(queue._flows) <= 5
    keys = {key for key, _, _ in drain(queue)}
    assert keys <= set("bcdef")
    assert queue.stats(0).flows == 0


def test_blue_refuses_floods_at_the_door_and_forgives():
    drops = Counter()
    queue = FqCodel(
        FqCodelParams(packet_limit=100),
        drop=lambda item, reason: drops.update([(item, reason)]),
        random=Random(5).random,
    )
    now = 0
    for step in range(40_000):  # a flood at four times the rate of the link, for ten seconds
        now += MS // 4
        queue.enqueue("flood", "flood", 1000, now)
        if step % 4 == 0:
            queue.enqueue("call", "call", 200, now)
            queue.dequeue(now)
            queue.dequeue(now)
    refused, overflown = drops["flood", DropReason.BLUE], drops["flood", DropReason.OVERLIMIT]
    assert refused > overflown
    assert not any(item == "call" for item, _ in drops)
    assert queue.stats(now).drops[DropReason.BLUE] == refused
    # When the flood has gone, its flow is forgiven within 4096 targets at most.
    drain(queue, now)
    now += 4096 * 5 * MS
    queue.enqueue("flood", "reformed", 1000, now)
    assert queue.dequeue(now) == "reformed"
    assert queue._blue.probabilities == {}


def test_without_a_die_there_is_no_blue():
    queue = FqCodel(FqCodelParams(packet_limit=10))
    fill(queue, "flood", 1000)
    assert queue.stats(0).drops[DropReason.BLUE] == 0


def test_what_codel_learned_of_the_last_flows_is_kept():
    queue = FqCodel(FqCodelParams(packet_limit=100))
    for key in range(100):
        queue.enqueue(key, "lost", 1500, 0)
    queue.enqueue(100, "one too many", 1500, 0)
    for _ in range(fq_codel.REMEMBERED_FLOWS + 10):
        fill(queue, "next", 200)
        drain(queue)
    assert len(queue._signals) <= fq_codel.REMEMBERED_FLOWS
    for key in range(200, 300):
        fill(queue, key, 101)
        drain(queue)
    assert list(queue._signals) == list(range(300 - fq_codel.REMEMBERED_FLOWS, 300))


# Taking small packets along


def test_packets_of_the_same_flow_travel_together_while_its_turn_lasts():
    queue = FqCodel(FqCodelParams(quantum=300))
    fill(queue, "acks", 10, 60)
    fill(queue, "data", 10)
    assert queue.dequeue(0)[0] == "acks"
    along = []
    while (item := queue.dequeue_same(0, 1000)) is not None:
        along.append(item)
    assert along == [("acks", number, 60) for number in range(1, 5)]  # 300 bytes in all: the quantum
    assert queue.dequeue(0)[0] == "data"
    assert queue.served_key == "data"


def test_only_what_fits_is_taken_along():
    queue = FqCodel()
    queue.enqueue("flow", "first", 60, 0)
    queue.enqueue("flow", "second", 60, 0)
    assert queue.dequeue_same(0, 1500) is None  # nothing has been served yet
    assert queue.dequeue(0) == "first"
    assert queue.dequeue_same(0, 59) is None
    assert queue.dequeue_same(0, 60, lambda item: item != "second") is None
    assert queue.dequeue_same(0, 60, lambda item: item == "second") == "second"
    assert queue.dequeue_same(0, 60) is None


def test_packets_of_sparse_flows_travel_together():
    queue = FqCodel()
    fill(queue, "elephant", 100)
    for _ in range(3):
        queue.dequeue(0)
    for key in ("dns", "ssh", "ntp"):
        queue.enqueue(key, key, 80, 0)
    queue.enqueue("big", "big", 1400, 0)
    assert queue.dequeue(0) == "dns"
    assert queue.dequeue_sparse(0, 500) == "ssh"
    assert queue.served_key == "ssh"
    assert queue.dequeue_sparse(0, 500, lambda item: item != "ntp") is None
    assert queue.dequeue_sparse(0, 500) == "ntp"
    assert queue.dequeue_sparse(0, 500) is None
    assert queue.dequeue(0) == "big"
    assert queue.dequeue_sparse(0, 500) is None
    assert queue.dequeue(0)[0] == "elephant"


def test_a_new_flow_that_has_spent_its_turn_is_passed_over():
    queue = FqCodel(FqCodelParams(quantum=100))
    fill(queue, "a", 2, 100)
    fill(queue, "b", 1, 60)
    assert queue.dequeue(0)[0] == "a"
    assert queue.dequeue_sparse(0, 500)[0] == "b"
    assert not queue.is_sparse("a")


def test_codel_signals_are_left_to_dequeue():
    marked = []
    queue = FqCodel(mark=lambda item: marked.append(item) or True)
    fill(queue, "acks", 300, 60)
    fill(queue, "data", 300)
    assert queue.dequeue(10 * MS)[0] == "acks"
    assert queue.dequeue_same(10 * MS, 500) is not None
    # By now CoDel wants to signal the flow.
    assert queue.dequeue_same(120 * MS, 500) is None
    assert marked == []
    assert queue.dequeue(120 * MS)[0] == "acks"
    assert [key for key, _, _ in marked] == ["acks"]
    assert queue.dequeue_same(121 * MS, 500) is not None
    assert queue.stats(121 * MS).marks == 1


# The rest


def test_marks_and_drops_are_counted_in_packets():
    queue = FqCodel(mark=lambda item: True)
    fill(queue, "trains", 10, 60_000, packets=40)
    queue.dequeue(10 * MS)
    queue.dequeue(110 * MS)
    assert queue.stats(110 * MS).marks == 40
    queue.codel = CodelParams(ecn=False)
    queue.dequeue(2000 * MS)
    stats = queue.stats(2000 * MS)
    assert stats.drops[DropReason.CODEL] == stats.dropped > 0
    assert stats.dropped % 40 == 0


def test_parameters_may_change_at_any_time():
    queue = FqCodel(FqCodelParams(quantum=300))
    fill(queue, "a", 10)
    queue.quantum = 15_000
    queue.dequeue(0)
    fill(queue, "b", 10)
    queue.codel = CodelParams(target=50 * MS, interval=100 * MS)
    assert [key for key, _, _ in drain(queue, 49 * MS)] == ["b"] * 10 + ["a"] * 9
    assert queue.stats(49 * MS).dropped == 0


def test_clear_discards_everything():
    drops = []
    queue = FqCodel(drop=lambda item, reason: drops.append(reason))
    fill(queue, "a", 3)
    fill(queue, "b", 2, packets=2)
    queue.dequeue(0)
    assert queue.clear() == 6
    assert drops == [DropReason.CLEARED] * 4
    assert (len(queue), queue.backlog_bytes, queue.stats(0).flows) == (0, 0, 0)
    assert queue.dequeue(0) is None
    assert queue.dequeue_same(0, 1500) is None
    queue.close()


def test_stats_tell_backlog_and_sojourn():
    queue = FqCodel()
    fill(queue, "a", 50, 1000)
    for millisecond in range(1, 21):
        queue.dequeue(millisecond * MS)
    stats = queue.stats(20 * MS)
    assert (stats.backlog_packets, stats.backlog_bytes, stats.flows, stats.dropped, stats.marks) == (
        30,
        30_000,
        1,
        0,
        0,
    )
    assert 9 * MS < stats.sojourn_p50 < 11 * MS
    assert 17 * MS < stats.sojourn_p95 <= stats.sojourn_p99 < 22 * MS


@pytest.mark.parametrize(
    "wrong",
    [{"quantum": 0}, {"packet_limit": 0}, {"memory_limit": 0}, {"packet_cost": -1}, {"new_flow_cap": -1}],
)
def test_senseless_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be positive|cannot be negative"):
        FqCodelParams(**wrong)


@pytest.mark.parametrize(("size", "packets"), [(0, 1), (1, 0), (-1, 1)])
def test_items_need_a_size(size, packets):
    with pytest.raises(ValueError, match="at least a byte"):
        FqCodel().enqueue("flow", "item", size, 0, packets)
