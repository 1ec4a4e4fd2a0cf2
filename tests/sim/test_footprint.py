"""Nothing grows for ever: after a day of everything a node remembers what it remembered before."""

import pytest

from meshnode.values import SECOND
from tests.sim.footprint import check_bounds, footprint
from tests.sim.host import Host
from tests.sim.invariants import Broken
from tests.sim.mesh import Mesh
from tests.sim.nat import SYMMETRIC


def grown(before: dict[str, int], host: Host, tolerance: int = 64) -> dict[str, tuple[int, int]]:
    """Tables that have grown by more than `tolerance` entries since `before`.

    That much lies about for a while: cancelled timers, and candidates of addresses that a peer once had.
    """
    now = footprint(host)
    return {
        name: (before.get(name, 0), size)
        for name, size in now.items()
        if size > before.get(name, 0) + tolerance
    }


def settled(seed: int) -> Mesh:
    mesh = Mesh(seed, cheap=True)
    mesh.grow(["alpha", "beta", "gamma"])
    mesh.wait_all_up(5 * SECOND)
    mesh.run_for(300 * SECOND)
    return mesh


def test_rekeying_for_hours_leaves_nothing_behind() -> None:
    mesh = settled(1)
    alpha = mesh.hosts["alpha"]
    before = footprint(alpha)
    for _ in range(120):
        alpha.applications.send(mesh.hosts["beta"].member.ipv6, b"x")
        mesh.run_for(60 * SECOND)
    assert grown(before, alpha) == {}


def test_a_peer_that_restarts_and_roams_all_day_leaves_nothing_behind() -> None:
    mesh = settled(2)
    alpha, beta = mesh.hosts["alpha"], mesh.hosts["beta"]
    networks = [mesh.add_lan("mobile", SYMMETRIC), mesh.internet]
    before = footprint(alpha)
    for number in range(60):
        beta.restart()
        mesh.run_for(10 * SECOND)
        beta.move_to(networks[number % 2])
        mesh.run_for(10 * SECOND)
    mesh.run_for(300 * SECOND)
    assert grown(before, alpha) == {}
    check_bounds(alpha)


def test_joiners_that_come_and_go_leave_nothing_behind_but_their_membership() -> None:
    mesh = settled(3)
    alpha = mesh.hosts["alpha"]
    for number in range(12):
        guest = mesh.add_host(f"guest{number}")
        guest.tolerates_errors = True
        mesh.enrol(guest, alpha)
        mesh.run_for(5 * SECOND)
        alpha.revoke(guest.name)
        guest.crash()
    mesh.run_for(300 * SECOND)
    check_bounds(alpha)
    assert alpha.node is not None
    assert len(alpha.node.peers) == 2
    assert alpha.plane is not None
    assert len(alpha.plane._peers) <= 3


def test_a_table_that_only_grows_is_noticed() -> None:
    mesh = settled(4)
    alpha = mesh.hosts["alpha"]
    before = footprint(alpha)
    assert alpha.node is not None
    alpha.node._leak = dict.fromkeys(range(100000), b"")  # type: ignore[attr-defined]
    assert grown(before, alpha) == {"Node._leak": (0, 100_000)}
    with pytest.raises(Broken, match="_leak"):
        check_bounds(alpha)
