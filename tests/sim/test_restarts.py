"""Nodes that die and come back, with and without what they knew."""

import pytest

from meshnode.values import MILLISECOND, SECOND
from tests.sim.mesh import Mesh
from tests.sim.nat import PORT_RESTRICTED, SYMMETRIC


def settled(seed: int, *names: str) -> Mesh:
    """A mesh that has been up for a while."""
    mesh = Mesh(seed)
    mesh.grow(names)
    mesh.wait_all_up(5 * SECOND)
    mesh.run_for(10 * SECOND)
    return mesh


def test_a_node_that_was_killed_is_back_in_seconds() -> None:
    mesh = settled(1, "alpha", "beta", "gamma")
    mesh.hosts["beta"].restart()
    mesh.wait_all_up(5 * SECOND)
    mesh.everybody_pings()


def test_both_sides_are_killed_at_once() -> None:
    mesh = settled(2, "alpha", "beta")
    for host in mesh.hosts.values():
        host.crash()
    mesh.run_for(20 * SECOND)
    for host in mesh.hosts.values():
        host.start()
    mesh.wait_all_up(5 * SECOND)
    mesh.everybody_pings()


def test_a_whole_mesh_loses_its_power_and_gets_it_back() -> None:
    mesh = settled(3, *(f"node{number}" for number in range(8)))
    for host in mesh.hosts.values():
        host.crash()
    mesh.run_for(3600 * SECOND)
    for host in mesh.hosts.values():
        host.clock.reboot()
        host.start()
    mesh.wait_all_up(5 * SECOND)
    mesh.everybody_pings()


@pytest.mark.parametrize("who", ["alpha", "beta"])
def test_a_responder_dies_between_the_two_messages(who: str) -> None:
    mesh = settled(4, "alpha", "beta")
    mesh.hosts["beta"].restart()
    # The initiation is on its way; the response will find, or come from, a process that has forgotten it.
    mesh.run_for(15 * MILLISECOND)
    mesh.hosts[who].restart()
    mesh.wait_all_up(5 * SECOND)
    mesh.everybody_pings()


def test_a_node_behind_a_nat_restarts() -> None:
    mesh = Mesh(5)
    alpha = mesh.add_host("alpha")
    beta = mesh.add_host("beta", mesh.add_lan("home", PORT_RESTRICTED), families="4")
    mesh.found(alpha)
    mesh.enrol(beta, alpha)
    mesh.wait_all_up(5 * SECOND)
    mesh.run_for(10 * SECOND)
    beta.restart()
    mesh.wait_all_up(5 * SECOND)
    mesh.run_for(10 * SECOND)
    alpha.restart()
    # Only beta can open its NAT: alpha's initiations pass as long as the mapping lives, which it does here.
    mesh.wait_all_up(20 * SECOND)
    mesh.everybody_pings()


def test_a_peer_that_dies_right_after_its_response_is_missed() -> None:
    mesh = Mesh(13)
    alpha = mesh.add_host("alpha")
    beta = mesh.add_host("beta", mesh.add_lan("home", SYMMETRIC), families="4")
    mesh.found(alpha)
    mesh.enrol(beta, alpha)
    mesh.wait_all_up(5 * SECOND)
    mesh.run_for(5 * SECOND)
    mesh.router("home").flush()
    beta.restart()
    mesh.wait_for(lambda: beta.up() == ["alpha"], 5 * SECOND, "beta has the response")
    # Alpha hears nothing of it any more, and after its restart cannot reach beta: only beta can mend it.
    alpha.restart()
    mesh.wait_all_up(40 * SECOND)
    mesh.everybody_pings()


def test_a_node_that_lost_its_disk_is_a_stranger_and_nobody_is_confused() -> None:
    mesh = settled(6, "alpha", "beta", "gamma")
    alpha, beta, gamma = mesh.hosts.values()
    old = beta.member.peer
    beta.restart(wipe=True)
    mesh.run_for(60 * SECOND)
    assert not beta.running
    assert alpha.up() == ["gamma"]
    beta.join(alpha.invite())
    mesh.wait_for(lambda: beta.running, 5 * SECOND, "joins as somebody else")
    assert beta.member.peer != old
    assert beta.member.label == "beta-2"
    mesh.wait_all_up(5 * SECOND)
    mesh.everybody_pings()
    assert alpha.up() == ["beta-2", "gamma"]
    assert gamma.up() == ["alpha", "beta-2"]


def test_the_old_name_is_free_again_once_the_old_key_is_revoked() -> None:
    mesh = settled(7, "alpha", "beta")
    alpha, beta = mesh.hosts.values()
    beta.restart(wipe=True)
    alpha.revoke("beta")
    beta.join(alpha.invite())
    mesh.wait_for(lambda: beta.running, 5 * SECOND, "joins anew")
    assert beta.member.label == "beta"
    mesh.wait_all_up(5 * SECOND)
    mesh.everybody_pings()


def test_a_node_with_the_keys_of_a_stranger_gets_no_byte() -> None:
    mesh = settled(8, "alpha", "beta")
    alpha, beta = mesh.hosts.values()
    beta.crash()
    for key in ("identity.key", "static.key"):
        beta.disk.write(key, bytes(range(32)))
    with pytest.raises(ValueError, match="no grant"):
        beta.start()
    assert alpha.up() in ([], ["beta"])


def test_restarting_all_day_locks_nobody_out() -> None:
    mesh = settled(9, "alpha", "beta")
    beta = mesh.hosts["beta"]
    for _ in range(60):
        mesh.run_for(8 * SECOND)
        beta.restart()
    mesh.wait_all_up(10 * SECOND)
    mesh.everybody_pings()


def test_a_goodbye_is_noticed_at_once_and_the_return_too() -> None:
    mesh = settled(10, "alpha", "beta")
    alpha, beta = mesh.hosts.values()
    beta.stop()
    mesh.run_for(100 * MILLISECOND)
    assert alpha.up() == []
    mesh.run_for(300 * SECOND)
    beta.start()
    mesh.wait_all_up(2 * SECOND)
    mesh.everybody_pings()


def test_a_node_that_moved_while_it_was_off_is_found_by_itself() -> None:
    mesh = settled(11, "alpha", "beta", "gamma")
    beta = mesh.hosts["beta"]
    beta.crash()
    mesh.run_for(600 * SECOND)
    beta.renumber()
    beta.start()
    mesh.wait_all_up(5 * SECOND)
    mesh.everybody_pings()


def test_no_key_and_nonce_repeat_over_a_hundred_restarts() -> None:
    mesh = settled(12, "alpha", "beta")
    alpha, beta = mesh.hosts.values()
    before = mesh.invariants.nonces.keys()
    for _ in range(50):
        alpha.restart()
        beta.restart()
        mesh.run_for(4 * SECOND)
    # The ledger has seen every nonce of them all; it is what fails on a repeat.
    assert mesh.invariants.nonces.keys() > before + 100
