"""Suspend, and wall clocks that are wrong."""

import pytest

from meshnode.values import SECOND
from tests.sim.mesh import Mesh

HOUR = 3600 * SECOND
DAY = 24 * HOUR


def settled(seed: int, *names: str) -> Mesh:
    mesh = Mesh(seed)
    mesh.grow(names)
    mesh.wait_all_up(5 * SECOND)
    mesh.run_for(10 * SECOND)
    return mesh


def test_a_laptop_that_slept_is_back_in_seconds() -> None:
    mesh = settled(1, "alpha", "beta", "laptop")
    laptop = mesh.hosts["laptop"]
    laptop.suspend()
    mesh.run_for(HOUR)
    assert mesh.hosts["alpha"].up() == ["beta"]
    laptop.resume()
    mesh.wait_all_up(5 * SECOND)
    mesh.everybody_pings()


def test_nothing_old_is_sealed_after_a_sleep() -> None:
    mesh = settled(2, "alpha", "laptop")
    laptop, alpha = mesh.hosts["laptop"], mesh.hosts["alpha"]
    keys = mesh.invariants.nonces.keys()
    laptop.suspend()
    mesh.run_for(HOUR)
    laptop.resume()
    laptop.applications.send(alpha.member.ipv6, b"first after sleep")
    mesh.run_for(5 * SECOND)
    assert mesh.invariants.nonces.keys() > keys
    assert alpha.applications.messages() == [b"first after sleep"]


def test_both_sleep_and_wake_at_different_times() -> None:
    mesh = settled(3, "alpha", "beta")
    alpha, beta = mesh.hosts.values()
    alpha.suspend()
    beta.suspend()
    mesh.run_for(HOUR)
    alpha.resume()
    mesh.run_for(HOUR)
    beta.resume()
    mesh.wait_all_up(10 * SECOND)
    mesh.everybody_pings()


@pytest.mark.parametrize("step", [-HOUR, HOUR, -DAY, -365 * DAY])
def test_a_clock_that_is_set_does_not_stop_rekeying(step: int) -> None:
    mesh = settled(4, "alpha", "beta")
    alpha, beta = mesh.hosts.values()
    beta.clock.step_wall(step)
    for _ in range(10):
        mesh.run_for(60 * SECOND)
        assert mesh.is_up(alpha, beta)
    mesh.everybody_pings()


@pytest.mark.parametrize("step", [-HOUR, -DAY, -365 * DAY])
def test_a_clock_set_back_while_the_node_was_off(step: int) -> None:
    mesh = settled(5, "alpha", "beta")
    _, beta = mesh.hosts.values()
    beta.crash()
    beta.clock.step_wall(step)
    mesh.run_for(60 * SECOND)
    beta.start()
    mesh.wait_all_up(10 * SECOND)
    mesh.everybody_pings()


def test_a_clock_set_forward_and_right_again_locks_nobody_out() -> None:
    mesh = settled(6, "alpha", "beta")
    _, beta = mesh.hosts.values()
    beta.clock.step_wall(3650 * DAY)
    mesh.run_for(600 * SECOND)
    beta.clock.step_wall(-3650 * DAY)
    mesh.run_for(600 * SECOND)
    beta.restart()
    mesh.wait_all_up(10 * SECOND)
    mesh.everybody_pings()


def test_a_machine_without_a_battery_starts_in_1970_and_meets_everybody() -> None:
    mesh = settled(7, "alpha", "beta", "raspberry")
    raspberry = mesh.hosts["raspberry"]
    raspberry.crash()
    raspberry.clock.step_wall(-raspberry.clock.now().wall + 20 * SECOND)
    raspberry.start()
    mesh.wait_all_up(10 * SECOND)
    mesh.everybody_pings()


def test_everybodys_clock_is_wrong_in_another_way() -> None:
    mesh = Mesh(8)
    hosts = [mesh.add_host(f"node{number}") for number in range(5)]
    for host, skew in zip(hosts, (0, -20 * HOUR, 20 * HOUR, -HOUR, 90 * SECOND), strict=True):
        host.clock.step_wall(skew)
    mesh.found(hosts[0])
    for host in hosts[1:]:
        mesh.enrol(host, hosts[0])
    mesh.wait_all_up(10 * SECOND)
    mesh.run_for(300 * SECOND)
    mesh.everybody_pings()
