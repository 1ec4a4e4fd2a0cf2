from collections import deque

import pytest

from meshnode.queueing.codel import MILLISECOND, Codel, CodelParams, SignalMemory, next_gap
from tests.unit.queueing.line import Line

PARAMS = CodelParams()
MS = MILLISECOND


def test_the_gaps_are_the_interval_over_the_square_root_of_the_count():
    # 100 ms / sqrt(1, 2, 3, 4, 100), by hand
    assert [next_gap(100 * MS, count) for count in (1, 2, 3, 4, 100)] == [
        100_000_000,
        70_710_678,
        57_735_026,
        50_000_000,
        10_000_000,
    ]
    assert next_gap(100 * MS, 10**18) == 0


def test_drop_times_of_a_standing_queue():
    line = Line()
    line.fill(1000)
    # Above target from 5 ms on, so the first drop is at 105 ms. Then 100, 70.7, 57.7, 50, 44.7 ms later, each counted
    # from when the last one was due, not from when a packet happened to be there: 205, 275.7, 333.4, 383.4, 428.2.
    assert line.signal_times(PARAMS, range(450)) == [105, 205, 276, 334, 384, 429]
    assert line.dropped == ["n"] * 6
    assert line.count == 6
    assert (
        line.drop_next
        == 105 * MS + 100_000_000 + 70_710_678 + 57_735_026 + 50_000_000 + 44_721_359 + 40_824_829
    )


def test_a_burst_that_drains_within_an_interval_is_not_signalled():
    line = Line()
    for start in (0, 500):  # the second does not inherit anything from the first
        line.fill(100, stamp=start * MS)
        assert line.signal_times(PARAMS, range(start + 5, start + 105)) == []
        assert line.dequeue(PARAMS, (start + 105) * MS) is None


def test_delay_must_reach_the_target():
    line = Line()
    line.fill(1000, stamp=0)
    for millisecond in range(5):
        line.dequeue(PARAMS, millisecond * MS)
    assert line.first_above == 0
    line.dequeue(PARAMS, 5 * MS - 1)
    assert line.first_above == 0
    line.dequeue(PARAMS, 5 * MS)
    assert line.first_above == 105 * MS


def test_one_good_packet_ends_the_dropping_state():
    line = Line()
    line.fill(1000)
    assert line.signal_times(PARAMS, range(205)) == [105]
    assert line.dropping
    line.entries.appendleft((204 * MS, 1500, 1, "fresh"))
    assert line.dequeue(PARAMS, 205 * MS)[3] == "fresh"
    assert not line.dropping
    assert line.signals() == 1
    # And then the delay has to be above target for a whole interval again.
    assert line.signal_times(PARAMS, range(206, 320)) == [306]


@pytest.mark.parametrize(("behind", "signals"), [(1514, 0), (1515, 10)])
def test_a_backlog_of_one_mtu_is_no_queue(behind, signals):
    line = Line()
    for second in range(11):
        line.entries = deque([(0, 60, 1, "ecn"), (0, behind, 1, "rest")])
        line.dequeue(PARAMS, (second + 1) * 1000 * MS)
    assert line.signals() == signals


def test_a_mark_schedules_the_next_and_ends_the_loop():
    line = Line()
    line.fill(1000, item="ecn")
    assert line.signal_times(PARAMS, range(450)) == [105, 205, 276, 334, 384, 429]
    assert line.dropped == []
    before = len(line.entries)
    # Many signals are overdue now. Marks are given one per packet, drops would have been given at once.
    for mark in range(5):
        assert line.dequeue(PARAMS, 5000 * MS)[3] == "ecn"
        assert len(line.marked) == 6 + mark + 1
    assert len(line.entries) == before - 5


def test_overdue_drops_are_given_at_once():
    line = Line()
    line.fill(1000)
    line.signal_times(PARAMS, range(450))
    assert line.signals() == 6
    # Due at 469.0, 506.8, 542.1, 575.5, 607.1, 637.2, 666.1, 693.8 ms.
    entries = len(line.entries)
    line.dequeue(PARAMS, 700 * MS)
    assert line.signals() == 6 + 8
    assert len(line.entries) == entries - 8 - 1


def test_what_cannot_be_marked_is_dropped():
    line = Line()
    line.fill(300, item="not ecn")
    assert line.signal_times(PARAMS, range(220)) == [105, 205]
    assert (len(line.dropped), len(line.marked)) == (2, 0)
    no_ecn = Line()
    no_ecn.fill(300, item="ecn")
    no_ecn.signal_times(CodelParams(ecn=False), range(220))
    assert (len(no_ecn.dropped), len(no_ecn.marked)) == (2, 0)


def test_overdue_drops_stop_at_a_mark():
    line = Line()
    line.fill(450)
    line.signal_times(PARAMS, range(429))
    line.entries.clear()
    line.fill(2, item="n")
    line.fill(5, item="ecn")
    assert line.dequeue(PARAMS, 2000 * MS)[3] == "ecn"
    assert line.marked == ["ecn"]
    assert line.dropped[5:] == ["n"] * 2


def test_the_queue_may_run_dry_while_dropping():
    line = Line()
    line.fill(450)
    line.signal_times(PARAMS, range(428))
    line.entries.clear()
    line.fill(3, item="n")
    # The first is dropped; with the second gone there is one MTU left, which ends the state.
    assert line.dequeue(PARAMS, 2000 * MS)[3] == "n"
    assert not line.dropping
    assert line.dequeue(PARAMS, 2000 * MS)[3] == "n"
    assert line.dequeue(PARAMS, 2000 * MS) is None


def test_the_first_drop_may_be_the_last_packet():
    class SharedLine(Line):
        def backlog(self):
            return 10_000  # in the other queues of the same link

    line = SharedLine()
    line.fill(2)
    assert line.dequeue(PARAMS, 10 * MS) is not None
    assert line.dequeue(PARAMS, 110 * MS) is None
    assert line.signals() == 1
    assert line.dropping
    assert line.dequeue(PARAMS, 111 * MS) is None
    assert not line.dropping


@pytest.mark.parametrize(("pause", "count"), [(15, 5), (17, 1)])
def test_the_signal_rate_is_taken_up_again_within_sixteen_intervals(pause, count):
    line = Line()
    line.fill(450)
    line.signal_times(PARAMS, range(450))
    assert (line.count, line.last_count) == (6, 1)  # learned: 5
    line.entries.clear()
    assert line.dequeue(PARAMS, 450 * MS) is None
    start = line.drop_next + pause * 100 * MS - 110 * MS
    line.fill(200, stamp=start)
    assert line.dequeue(PARAMS, start + 5 * MS) is not None
    assert line.signals() == 6
    line.dequeue(PARAMS, start + 105 * MS)
    assert line.signals() == 7
    assert (line.count, line.last_count) == (count, count)
    assert line.drop_next == start + 105 * MS + next_gap(100 * MS, count)


def test_memory_survives_the_queue():
    line = Line()
    assert line.remember() is None
    line.fill(450)
    line.signal_times(PARAMS, range(450))
    memory = line.remember()
    assert memory == SignalMemory(signals=6, last_signals=1, drop_next=line.drop_next)
    again = Line()
    again.recall(memory)
    assert (again.count, again.last_count, again.drop_next) == (6, 1, line.drop_next)


def test_signal_due_says_what_dequeue_would_do():
    line = Line()
    line.fill(500)
    for millisecond in range(450):
        now = millisecond * MS
        due = line.signal_due(now, line.backlog() - 1500, PARAMS, now)
        before = line.signals()
        line.dequeue(PARAMS, now)
        assert due == (line.signals() > before), millisecond
    assert line.signals() == 6
    assert not line.signal_due(900 * MS, PARAMS.mtu, PARAMS, 900 * MS)
    assert not line.signal_due(PARAMS.target - 1, 10**6, PARAMS, 900 * MS)


@pytest.mark.parametrize("wrong", [{"target": 0}, {"target": 2, "interval": 1}, {"mtu": 0}])
def test_senseless_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match="CoDel needs"):
        CodelParams(**wrong)


def test_a_queue_must_be_supplied():
    bare = Codel()
    entry = (0, 1, 1, None)
    for method in (bare.pull, bare.backlog, lambda: bare.mark(entry), lambda: bare.drop(entry)):
        with pytest.raises(NotImplementedError):
            method()
