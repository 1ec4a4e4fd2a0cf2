"""The world itself: order of events, clocks, waiting."""

import subprocess
import sys

import pytest

from meshnode.values import SECOND
from tests.sim.entropy import SeededEntropy
from tests.sim.trace import Trace
from tests.sim.world import EPOCH, HostClock, NeverHappened, World


def test_events_of_one_instant_happen_in_the_order_they_were_scheduled() -> None:
    world = World()
    seen: list[str] = []
    world.at(2, lambda: seen.append("late"))
    world.at(1, lambda: seen.append("first"))
    world.at(1, lambda: seen.append("second"))
    world.run_for(5)
    assert seen == ["first", "second", "late"]
    assert world.time == 5


def test_an_event_scheduled_for_the_past_happens_now_and_time_never_goes_back() -> None:
    world = World()
    times: list[int] = []

    def look_back() -> None:
        world.at(3, lambda: times.append(world.time))

    world.at(10, look_back)
    world.run_for(20)
    assert times == [10]


def test_a_cancelled_event_does_not_happen() -> None:
    world = World()
    seen: list[int] = []
    world.at(1, lambda: seen.append(1)).cancel()
    world.run_for(2)
    assert seen == []


def test_waiting_ends_with_the_event_that_was_waited_for() -> None:
    world = World()
    seen: list[int] = []
    world.at(7, lambda: seen.append(1))
    world.at(9, lambda: seen.append(2))
    assert world.wait_until(lambda: bool(seen), within=20) == 7
    assert seen == [1]


def test_waiting_for_what_never_comes_fails_at_the_deadline() -> None:
    world = World()
    with pytest.raises(NeverHappened, match="a miracle"):
        world.wait_until(lambda: False, within=3 * SECOND, what="a miracle")
    assert world.time == 3 * SECOND


def test_checks_run_after_every_event() -> None:
    world = World()
    count: list[int] = []
    world.after_step.append(lambda: count.append(world.time))
    world.at(1, lambda: None)
    world.at(4, lambda: None)
    world.run_for(9)
    assert count == [1, 4]


def test_a_wall_clock_can_be_wrong_and_be_set_and_the_boot_clock_cares_for_neither() -> None:
    world = World()
    clock = HostClock(world, "a", skew=-5)
    before = clock.now()
    assert before.wall == EPOCH - 5
    clock.step_wall(-100)
    world.run_for(10)
    after = clock.now()
    assert after.wall - before.wall == 10 - 100
    assert after.boot - before.boot == 10
    assert clock.world_time(after.boot) == world.time


def test_a_reboot_restarts_the_boot_clock_only() -> None:
    world = World()
    clock = HostClock(world, "a")
    world.run_for(10)
    wall = clock.now().wall
    clock.reboot()
    assert clock.now().boot == 0
    assert clock.now().wall == wall


def test_two_machines_did_not_boot_in_the_same_second() -> None:
    world = World()
    assert HostClock(world, "a").now().boot != HostClock(world, "b").now().boot


def test_entropy_is_the_same_under_every_hash_seed_and_differs_by_name() -> None:
    program = "from tests.sim.entropy import SeededEntropy as E; print(E(7, 'a').token(16).hex())"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "1", "4711")
    }
    assert outputs == {SeededEntropy(7, "a").token(16).hex()}
    assert SeededEntropy(7, "b").token(16).hex() not in outputs
    assert SeededEntropy(8, "a").token(16).hex() not in outputs


def test_the_digest_of_a_trace_covers_bytes_that_the_text_does_not_show() -> None:
    first, second = Trace(), Trace()
    first.add(1, "a", "send", "hello", data=b"1")
    second.add(1, "a", "send", "hello", data=b"2")
    assert first.to_text() == second.to_text()
    assert first.digest() != second.digest()


def test_a_trace_becomes_a_diagram() -> None:
    trace = Trace()
    trace.add(SECOND, "a", "arrive", "initiation; 148 B", to="b")
    trace.add(SECOND, "b", "event", "PeerUp a")
    trace.add(SECOND, "b", "lost", "data", to="a")
    page = trace.to_markdown("a story", messages=2)
    assert "a->>b: 1.000 initiation, 148 B" in page
    assert "Note over b: 1.000 PeerUp a" in page
    assert "1 more arrows are left out" in page


def test_a_trace_forgets_its_beginning_but_its_digest_does_not() -> None:
    short, long = Trace(limit=1), Trace(limit=10)
    for trace in (short, long):
        trace.add(1, "a", "event", "one")
        trace.add(2, "a", "event", "two")
    assert len(short.entries) == 1
    assert short.digest() == long.digest()
