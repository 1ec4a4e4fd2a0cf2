"""NATs, roaming, partitions: who meets whom, and how fast after a change."""

from dataclasses import replace
from itertools import product

import pytest

from meshnode.values import MILLISECOND, SECOND
from tests.sim.host import Host
from tests.sim.mesh import UPLINK, Mesh
from tests.sim.nat import FULL_CONE, PORT_RESTRICTED, RESTRICTED_CONE, SYMMETRIC, NatKind

KINDS = [FULL_CONE, RESTRICTED_CONE, PORT_RESTRICTED, SYMMETRIC]


def behind(mesh: Mesh, name: str, kind: NatKind) -> Host:
    return mesh.add_host(name, mesh.add_lan(f"lan-{name}", kind), families="4")


def kinds(a: Host, b: Host) -> set[str]:
    """How two hosts reach each other, one kind if they agree."""
    return {path.kind.value for path in (a.path_to(b), b.path_to(a)) if path is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_behind_any_nat_reaches_a_public_one(kind: NatKind) -> None:
    mesh = Mesh(1)
    alpha, beta = mesh.add_host("alpha"), behind(mesh, "beta", kind)
    mesh.found(alpha)
    mesh.enrol(beta, alpha)
    mesh.wait_all_up(2 * SECOND)
    mesh.everybody_pings()
    for _ in range(10):
        mesh.run_for(60 * SECOND)
        assert mesh.is_up(alpha, beta)


def test_the_inviter_is_behind_a_nat_and_the_joiner_next_to_it() -> None:
    mesh = Mesh(2)
    lan = mesh.add_lan("home", PORT_RESTRICTED)
    alpha, beta = mesh.add_host("alpha", lan), mesh.add_host("beta", lan)
    mesh.found(alpha)
    mesh.enrol(beta, alpha)
    mesh.wait_all_up(2 * SECOND)
    mesh.everybody_pings()


def test_over_ipv6_two_homes_meet_through_their_firewalls() -> None:
    mesh = Mesh(3)
    alpha = mesh.add_host("alpha")
    mesh.found(alpha)
    homes = [
        mesh.add_host(name, mesh.add_lan(f"lan-{name}", SYMMETRIC, ipv6=True)) for name in ("beta", "gamma")
    ]
    for host in homes:
        mesh.enrol(host, alpha)
    mesh.wait_all_up(15 * SECOND)
    mesh.everybody_pings()


@pytest.mark.parametrize(
    ("kind_a", "kind_b"),
    [(a, b) for a, b in product(KINDS[:3], KINDS[:3]) if KINDS.index(a) <= KINDS.index(b)],
)
def test_two_cone_nats_are_punched(kind_a: NatKind, kind_b: NatKind) -> None:
    mesh = Mesh(4)
    alpha = mesh.add_host("alpha")
    beta, gamma = behind(mesh, "beta", kind_a), behind(mesh, "gamma", kind_b)
    mesh.found(alpha)
    mesh.enrol(beta, alpha)
    mesh.enrol(gamma, alpha)
    mesh.wait_all_up(15 * SECOND)
    mesh.run_for(15 * SECOND)
    assert kinds(beta, gamma) == {"udp"}
    mesh.everybody_pings()


@pytest.mark.parametrize("kind", KINDS)
def test_a_symmetric_nat_goes_direct_where_its_port_can_be_learnt_and_else_through_a_relay(
    kind: NatKind,
) -> None:
    mesh = Mesh(8)
    alpha = mesh.add_host("alpha")
    beta, gamma = behind(mesh, "beta", SYMMETRIC), behind(mesh, "gamma", kind)
    mesh.found(alpha)
    mesh.enrol(beta, alpha)
    mesh.enrol(gamma, alpha)
    mesh.wait_all_up(15 * SECOND)
    mesh.everybody_pings()
    mesh.run_for(15 * SECOND)
    wanted = "relay" if kind in (PORT_RESTRICTED, SYMMETRIC) else "udp"
    assert kinds(beta, gamma) == {wanted}


def test_a_nat_that_forgets_in_twenty_seconds_is_kept_awake_or_found_again() -> None:
    forgetful = replace(PORT_RESTRICTED, expiry=20 * SECOND, inbound_refreshes=False)
    mesh = Mesh(5)
    alpha, beta = mesh.add_host("alpha"), behind(mesh, "beta", forgetful)
    mesh.found(alpha)
    mesh.enrol(beta, alpha)
    mesh.wait_all_up(5 * SECOND)
    mesh.run_for(600 * SECOND)
    mesh.everybody_pings(within=10 * SECOND)


@pytest.mark.parametrize("fault", ["flush", "change_address"])
def test_a_router_that_forgets_or_moves_in_mid_transfer(fault: str) -> None:
    mesh = Mesh(6)
    alpha, beta = mesh.add_host("alpha"), behind(mesh, "beta", SYMMETRIC)
    mesh.found(alpha)
    mesh.enrol(beta, alpha)
    mesh.wait_all_up(5 * SECOND)
    mesh.run_for(10 * SECOND)
    getattr(mesh.router("lan-beta"), fault)()
    sent = 0
    for _ in range(100):
        alpha.applications.send(beta.member.ipv6, b"down")
        beta.applications.send(alpha.member.ipv6, b"up")
        sent += 1
        mesh.run_for(100 * MILLISECOND)
    mesh.run_for(SECOND)
    # Down stops until alpha has learnt the new address from what comes up: less than five of the ten seconds.
    assert len(alpha.applications.inbox) == sent
    assert len(beta.applications.inbox) > sent / 2
    mesh.everybody_pings()


def test_a_phone_that_roams_between_networks() -> None:
    mesh = Mesh(7)
    alpha = mesh.add_host("alpha")
    home, mobile = mesh.add_lan("home", PORT_RESTRICTED), mesh.add_lan("mobile", SYMMETRIC)
    phone = mesh.add_host("phone", home)
    mesh.found(alpha)
    mesh.enrol(phone, alpha)
    mesh.wait_all_up(5 * SECOND)
    for network in (mobile, home, mesh.internet, mobile):
        mesh.run_for(30 * SECOND)
        phone.move_to(network)
        mesh.run_for(5 * SECOND)
        mesh.everybody_pings()


def test_a_partition_of_ten_minutes_heals_without_a_storm() -> None:
    mesh = Mesh(8)
    hosts = mesh.grow([f"node{number}" for number in range(8)])
    mesh.wait_all_up(5 * SECOND)
    mesh.partition({h.name for h in hosts[:4]}, {h.name for h in hosts[4:]})
    mesh.run_for(600 * SECOND)
    assert hosts[0].up() == ["node1", "node2", "node3"]
    initiations = mesh.count_sent(1)
    mesh.heal()
    mesh.wait_all_up(20 * SECOND)
    mesh.everybody_pings()
    # 16 pairs, both sides, a few tries each: not hundreds.
    assert mesh.count_sent(1) - initiations <= 16 * 2 * 6


def test_an_address_family_that_stops_working_is_left() -> None:
    mesh = Mesh(9)
    hosts = mesh.grow(["alpha", "beta", "gamma"])
    mesh.wait_all_up(5 * SECOND)
    mesh.run_for(5 * SECOND)
    for gone in ("4", "6"):
        mesh.block_family(gone)
        for _ in range(100):
            hosts[0].applications.send(hosts[1].member.ipv6, b"x")
            mesh.run_for(100 * MILLISECOND)
        path = hosts[0].path_to(hosts[1])
        assert path is not None
        assert (":" in path.remote.host) == (gone == "4")
        mesh.run_for(60 * SECOND)
        mesh.everybody_pings()


def test_an_interface_that_flaps() -> None:
    mesh = Mesh(10)
    hosts = mesh.grow(["alpha", "beta"])
    mesh.wait_all_up(5 * SECOND)
    for _ in range(20):
        hosts[1].plug.connected = not hosts[1].plug.connected
        mesh.run_for(3 * SECOND)
    hosts[1].plug.connected = True
    mesh.wait_all_up(10 * SECOND)
    mesh.everybody_pings(within=5 * SECOND)


@pytest.mark.parametrize("hairpin", [True, False])
def test_two_homes_behind_one_carrier_grade_nat(hairpin: bool) -> None:
    mesh = Mesh(11)
    alpha = mesh.add_host("alpha")
    mesh.found(alpha)
    carrier, _ = mesh.internet.add_carrier("carrier", replace(PORT_RESTRICTED, hairpin=hairpin))
    homes = [
        mesh.add_host(name, mesh.add_lan(f"lan-{name}", FULL_CONE, outside=carrier), families="4")
        for name in ("beta", "gamma")
    ]
    for host in homes:
        mesh.enrol(host, alpha)
    mesh.wait_all_up(15 * SECOND)
    mesh.run_for(15 * SECOND)
    mesh.everybody_pings()
    assert kinds(*homes) == ({"udp"} if hairpin else {"relay"})


def test_a_line_that_loses_half_in_one_direction_only() -> None:
    mesh = Mesh(12)
    alpha, beta = mesh.add_host("alpha"), mesh.add_host("beta", link=replace(UPLINK, loss=0.5))
    mesh.found(alpha)
    mesh.enrol(beta, alpha)
    mesh.wait_all_up(30 * SECOND)
    down = 0
    for _ in range(600):
        alpha.applications.send(beta.member.ipv6, b"x")
        mesh.run_for(500 * MILLISECOND)
        down += not mesh.is_up(alpha, beta)
    # Half of the echoes are lost, but not three in a row for long; what goes the good way arrives.
    assert down < 60
    assert len(beta.applications.inbox) > 540
