"""Who has no way of its own goes through another member, and does not stay there for longer than it must."""

import pytest

from meshnode.values import MILLISECOND, SECOND
from tests.sim.host import Host
from tests.sim.mesh import Mesh
from tests.sim.nat import PORT_RESTRICTED, SYMMETRIC


def relayed(seed: int, *relays: str) -> tuple[Mesh, Host, Host]:
    """Two hosts behind symmetric NATs, and public members of these names (the first founds the network)."""
    mesh = Mesh(seed)
    mesh.grow(relays)
    ends = []
    for name in ("left", "right"):
        end = mesh.add_host(name, mesh.add_lan(f"lan-{name}", SYMMETRIC), families="4")
        mesh.enrol(end, mesh.hosts[relays[0]])
        ends.append(end)
    mesh.wait_all_up(15 * SECOND)
    mesh.run_for(10 * SECOND)
    return mesh, ends[0], ends[1]


def relay_of(mesh: Mesh, a: Host, b: Host) -> str | None:
    """The name of the relay between the two, None for a direct path."""
    path = a.path_to(b)
    assert path is not None
    return next((h.name for h in mesh.hosts.values() if h.node is not None and h.node.id == path.via), None)


def stream(mesh: Mesh, a: Host, b: Host, seconds: int) -> int:
    """Ten messages a second each way; how many came of `a`'s."""
    before = len(b.applications.inbox)
    for _ in range(seconds * 10):
        a.applications.send(b.member.ipv6, b"x")
        b.applications.send(a.member.ipv6, b"x")
        mesh.run_for(100 * MILLISECOND)
    return len(b.applications.inbox) - before


def test_two_that_cannot_meet_are_relayed_without_loss() -> None:
    mesh, left, right = relayed(1, "alpha")
    assert relay_of(mesh, left, right) == "alpha"
    assert stream(mesh, left, right, 20) == 200
    mesh.everybody_pings()


@pytest.mark.parametrize("how", ["crash", "stop", "suspend"])
def test_a_relay_that_goes_is_replaced_within_five_seconds(how: str) -> None:
    mesh, left, right = relayed(2, "alpha", "beta")
    stream(mesh, left, right, 3)
    gone = relay_of(mesh, left, right)
    assert gone is not None
    getattr(mesh.hosts[gone], how)()
    assert stream(mesh, left, right, 10) >= 50
    assert relay_of(mesh, left, right) not in (gone, None)


def test_a_relay_that_says_goodbye_is_left_at_once_also_when_nobody_talks() -> None:
    mesh, left, right = relayed(3, "alpha", "beta")
    gone = relay_of(mesh, left, right)
    assert gone is not None
    mesh.hosts[gone].stop()
    mesh.run_for(5 * SECOND)
    assert relay_of(mesh, left, right) not in (gone, None)
    assert stream(mesh, left, right, 2) == 20


def test_a_member_that_does_not_relay_is_not_asked() -> None:
    mesh, left, right = relayed(4, "alpha", "beta")
    gone = relay_of(mesh, left, right)
    assert gone is not None
    mesh.hosts[gone].relay = False
    mesh.hosts[gone].restart()
    stream(mesh, left, right, 20)
    assert relay_of(mesh, left, right) not in (gone, None)
    assert stream(mesh, left, right, 10) == 100


def test_who_moves_to_where_it_can_be_reached_goes_direct_and_loses_nothing() -> None:
    mesh, left, right = relayed(5, "alpha")
    lan = mesh.add_lan("cone", PORT_RESTRICTED)
    stream(mesh, left, right, 2)
    right.move_to(mesh.internet)
    mesh.run_for(15 * SECOND)
    assert relay_of(mesh, left, right) is None
    right.move_to(lan)
    stream(mesh, left, right, 15)
    assert stream(mesh, left, right, 5) == 50
