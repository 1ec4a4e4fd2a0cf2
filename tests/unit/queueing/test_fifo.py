import pytest

from meshnode.queueing.codel import MILLISECOND
from meshnode.queueing.fifo import Fifo
from meshnode.queueing.packet_queue import DropReason, PacketQueue

MS = MILLISECOND


def test_first_in_first_out_and_the_tail_is_dropped():
    drops = []
    queue = Fifo(packet_limit=5, drop=lambda item, reason: drops.append((item, reason)))
    for number in range(4):
        queue.enqueue("ab"[number % 2], number, 1000, 0)
    queue.enqueue("train", "does not fit", 2000, 0, packets=2)
    queue.enqueue("a", 4, 1000, 0)
    queue.enqueue("a", "full", 1000, 0)
    assert drops == [("does not fit", DropReason.OVERLIMIT), ("full", DropReason.OVERLIMIT)]
    assert (len(queue), queue.backlog_bytes, queue.memory()) == (5, 5000, 5 * 1256)
    assert [queue.dequeue(10 * MS) for _ in range(6)] == [0, 1, 2, 3, 4, None]
    stats = queue.stats(10 * MS)
    assert (stats.dropped, stats.flows, stats.marks, stats.backlog_packets) == (3, 0, 0, 0)
    assert 9 * MS < stats.sojourn_p50 < 11 * MS


def test_there_is_no_aqm():
    queue = Fifo()
    for number in range(1000):
        queue.enqueue("flow", number, 1500, 0, stamp=-1000 * MS)
    assert [queue.dequeue(second * 1000 * MS) for second in range(1000)] == list(range(1000))
    assert queue.stats(0).dropped == 0


def test_taking_along_what_is_next_anyway():
    queue = Fifo()
    for key, item, size in (("a", 1, 60), ("a", 2, 60), ("a", 3, 900), ("b", 4, 60)):
        queue.enqueue(key, item, size, 0)
    assert queue.dequeue_same(0, 500) is None
    assert queue.dequeue(0) == 1
    assert queue.served_key == "a"
    assert queue.dequeue_same(0, 500, lambda item: item != 2) is None
    assert queue.dequeue_same(0, 500, lambda item: item == 2) == 2
    assert queue.dequeue_same(0, 500) is None
    assert queue.dequeue(0) == 3
    assert queue.dequeue_same(0, 500) is None
    assert queue.dequeue(0) == 4
    assert queue.dequeue_same(0, 500) is None
    assert queue.dequeue_sparse(0, 500) is None
    assert not queue.is_sparse("b")


def test_shed_and_clear():
    drops = []
    queue = Fifo(drop=lambda item, reason: drops.append((item, reason.value)))
    for number in range(5):
        queue.enqueue("a", number, 100, 0)
    assert queue.shed(0) == 1
    assert queue.shed(0, at_least=2) == 2
    assert queue.clear() == 2
    assert queue.shed(0) == 0
    assert drops == [(4, "overlimit"), (3, "overlimit"), (2, "overlimit"), (0, "cleared"), (1, "cleared")]
    assert (len(queue), queue.backlog_bytes) == (0, 0)
    queue.close()


def test_it_is_a_packet_queue():
    queue: PacketQueue[str] = Fifo[str]()
    queue.enqueue("key", "item", 1, 0)
    assert queue.dequeue(0) == "item"


def test_senseless_arguments_are_refused():
    with pytest.raises(ValueError, match="packet_limit"):
        Fifo(packet_limit=0)
    with pytest.raises(ValueError, match="at least a byte"):
        Fifo().enqueue("a", 1, 0, 0)
