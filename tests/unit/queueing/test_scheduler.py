from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.queueing.scheduler import MAX_DEBT_ROUNDS, LaneState, Scheduler

TURN = 200_000


def work(scheduler, costs, times, now=0):
    """Let busy lanes work `times` batches; nanoseconds spent by lane. `costs[name]()` is what one batch takes."""
    spent = Counter()
    for _ in range(times):
        lane = scheduler.next(now)
        cost = costs[lane.name]()
        scheduler.charge(lane, cost)
        spent[lane.name] += cost
    return spent


def busy(scheduler, *names, weight=256):
    lanes = [scheduler.add(name, weight) for name in names]
    for lane in lanes:
        scheduler.wake(lane)
    return lanes


def jain(shares):
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def test_time_is_shared_equally_whatever_a_batch_costs():
    dice = Random(7)
    scheduler = Scheduler(TURN)
    busy(scheduler, *range(20))
    costs = {name: lambda name=name: dice.randrange(1000, 10_000 * (name + 1)) for name in range(20)}
    spent = work(scheduler, costs, 60_000)
    assert jain(list(spent.values())) > 0.9999


def test_a_light_lane_gets_its_weight():
    scheduler = Scheduler(TURN)
    busy(scheduler, "proven", "also proven")
    busy(scheduler, "stranger", weight=16)
    spent = work(scheduler, dict.fromkeys(("proven", "also proven", "stranger"), lambda: 50_000), 20_000)
    assert spent["proven"] / spent["stranger"] == pytest.approx(16, rel=0.02)
    assert spent["proven"] == pytest.approx(spent["also proven"], rel=0.01)


def test_a_turn_is_bounded():
    scheduler = Scheduler(TURN)
    busy(scheduler, "a", "b")
    order = []
    for _ in range(400):
        lane = scheduler.next(0)
        order.append(lane.name)
        scheduler.charge(lane, 50_000)
    runs = [len(run) for run in "".join(order).replace("ab", "a b").replace("ba", "b a").split()]
    assert set(runs) == {4}


def test_nothing_to_do():
    scheduler = Scheduler()
    lane = scheduler.add("lane")
    assert scheduler.next(0) is None
    assert scheduler.poll_timeout() is None
    scheduler.block(lane, 5)  # an idle lane has nothing to wait with
    scheduler.unblock(lane)
    scheduler.rest(lane)
    assert lane.state is LaneState.IDLE
    assert scheduler.next(10) is None


def test_a_lane_that_wakes_goes_first_once():
    scheduler = Scheduler(TURN)
    busy(scheduler, "a", "b", "c")
    work(scheduler, dict.fromkeys("abc", lambda: 70_000), 20)
    sparse = scheduler.add("sparse")
    scheduler.wake(sparse)
    scheduler.wake(sparse)
    assert scheduler.next(0) is sparse
    scheduler.charge(sparse, 300_000)
    assert scheduler.next(0).name in "abc"
    assert sparse.state is LaneState.OLD


def test_waking_often_gains_nothing():
    """A lane that rests after each batch passes through the old ones before it may be new again."""
    scheduler = Scheduler(TURN)
    busy(scheduler, "steady")
    clever = scheduler.add("clever")
    spent = Counter()
    for _ in range(2000):
        scheduler.wake(clever)
        lane = scheduler.next(0)
        scheduler.charge(lane, 150_000)
        spent[lane.name] += 150_000
        if lane is clever:
            scheduler.rest(clever)
    assert 0.3 < spent["clever"] / spent.total() < 0.51


def test_debts_are_paid_even_by_the_idle():
    scheduler = Scheduler(TURN)
    busy(scheduler, "steady")
    (debtor,) = busy(scheduler, "debtor")
    scheduler.charge(debtor, 10 * TURN)
    scheduler.rest(debtor)
    assert debtor.state is LaneState.OLD
    scheduler.wake(debtor)  # work again, at once: it is in the round and stays in debt
    spent = 0
    while (lane := scheduler.next(0)) is not debtor:
        scheduler.charge(lane, 50_000)
        spent += 50_000
    assert spent >= 9 * TURN
    scheduler.rest(debtor)
    assert debtor.state is LaneState.IDLE


def test_a_monstrous_cost_is_forgiven():
    """A batch during which the machine was suspended."""
    scheduler = Scheduler(TURN)
    (lane,) = busy(scheduler, "lane")
    scheduler.charge(lane, 10**18)
    assert lane.deficit == -MAX_DEBT_ROUNDS * TURN
    assert scheduler.next(0) is lane


def test_a_blocked_lane_holds_up_nobody_and_returns_in_time():
    scheduler = Scheduler(TURN)
    limited, free = busy(scheduler, "limited", "free")
    assert scheduler.next(0) is limited
    scheduler.charge(limited, 50_000)
    scheduler.block(limited, until=1_000_000)
    assert scheduler.poll_timeout() == 1_000_000
    scheduler.wake(limited)  # more for its queue; still blocked
    for now in range(0, 1_000_000, 50_000):
        assert scheduler.next(now) is free
        scheduler.charge(free, 50_000)
    assert scheduler.next(1_000_000) is limited
    assert limited.deficit == 150_000  # the rest of its turn
    assert scheduler.poll_timeout() is None


def test_blocked_lanes_return_in_the_order_of_their_times():
    scheduler = Scheduler(TURN)
    lanes = busy(scheduler, "a", "b", "c", "d")
    for lane, until in zip(lanes, (300, 100, 200, 900), strict=True):
        scheduler.block(lane, until)
    assert scheduler.next(99) is None
    assert scheduler.poll_timeout() == 100
    order = []
    while (lane := scheduler.next(500)) is not None:
        order.append(lane.name)
        scheduler.block(lane)
    assert order == ["b", "c", "a"]
    assert scheduler.poll_timeout() == 900


def test_a_lane_may_wait_for_its_socket():
    scheduler = Scheduler(TURN)
    (lane,) = busy(scheduler, "lane")
    scheduler.block(lane)
    assert scheduler.next(10**15) is None
    assert scheduler.poll_timeout() is None
    scheduler.unblock(lane)
    assert scheduler.next(0) is lane
    scheduler.block(lane, 50)
    scheduler.block(lane, 70)  # waits anew
    scheduler.unblock(lane)
    assert scheduler.next(0) is lane
    assert scheduler.poll_timeout() == 50  # too early does no harm
    assert scheduler.next(50) is lane
    assert scheduler.poll_timeout() is None


def test_a_blocked_lane_may_rest_or_go():
    scheduler = Scheduler(TURN)
    emptied, debtor, gone = busy(scheduler, "emptied", "debtor", "gone")
    scheduler.charge(debtor, TURN)
    for lane in (emptied, debtor, gone):
        scheduler.block(lane, 100)
    scheduler.rest(emptied)
    scheduler.rest(debtor)
    scheduler.remove(gone)
    assert (emptied.state, debtor.state, gone.state) == (LaneState.IDLE, LaneState.BLOCKED, LaneState.IDLE)
    assert scheduler.next(100) is debtor
    scheduler.remove(debtor)
    assert scheduler.next(200) is None


def test_senseless_arguments_are_refused():
    with pytest.raises(ValueError, match="must last"):
        Scheduler(0)
    with pytest.raises(ValueError, match="leaves nothing"):
        Scheduler(100).add("lane", 2)
    with pytest.raises(ValueError, match="leaves nothing"):
        Scheduler(100).add("lane", -1)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["wake", "work", "work", "rest", "block", "block for ever", "unblock", "wait"]),
        st.integers(0, 3),
        st.integers(1, 500_000),
    ),
    max_size=80,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_every_lane_is_in_exactly_one_place(steps):
    scheduler = Scheduler(TURN)
    lanes = [scheduler.add(name, 64 + 64 * name) for name in range(4)]
    now = 0
    for what, number, amount in steps:
        lane = lanes[number]
        if what == "wake":
            scheduler.wake(lane)
        elif what == "rest":
            scheduler.rest(lane)
        elif what.startswith("block"):
            scheduler.block(lane, None if what == "block for ever" else now + amount)
        elif what == "unblock":
            scheduler.unblock(lane)
        elif what == "wait":
            now += amount
        else:
            turn = scheduler.next(now)
            if turn is not None:
                assert turn.state in (LaneState.NEW, LaneState.OLD)
                assert 0 < turn.deficit <= turn.share
                scheduler.charge(turn, amount)
            else:
                assert all(lane.state in (LaneState.IDLE, LaneState.BLOCKED) for lane in lanes)
        places = {
            LaneState.NEW: list(scheduler._new),
            LaneState.OLD: list(scheduler._old),
            LaneState.BLOCKED: scheduler._blocked,
        }
        for each in lanes:
            for state, place in places.items():
                assert place.count(each) == (each.state is state)
        deadlines = [lane.until for lane in scheduler._blocked if lane.until is not None]
        wake_up = scheduler.poll_timeout()
        assert all(wake_up is not None and wake_up <= deadline for deadline in deadlines)
