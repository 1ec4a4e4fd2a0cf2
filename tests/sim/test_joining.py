"""From tokens to a full mesh, and everything that can go wrong on the way."""

from dataclasses import replace

import pytest

from meshnode.proto.invitations import InvitationTerms
from meshnode.values import MILLISECOND, SECOND, Endpoint
from meshnode.wire.token import Token
from tests.sim.host import Host
from tests.sim.link import Link, UdpPacket
from tests.sim.mesh import UPLINK, Mesh


def refusal(mesh: Mesh, host: Host, token: Token, name: str | None = None) -> str:
    """Join, wait until it is refused, and return what the person who typed the token reads."""
    host.join(token, name)
    mesh.wait_for(lambda: host.refused is not None or host.running, 60 * SECOND, "an answer")
    assert host.refused is not None, f"{host.name} was let in"
    assert host.disk.read("state") is None
    return host.refused


def test_twenty_hosts_join_and_form_a_full_mesh() -> None:
    mesh = Mesh(1)
    mesh.grow([f"node{number}" for number in range(20)])
    assert mesh.wait_all_up(2 * SECOND) <= 2 * SECOND
    mesh.everybody_pings()


def test_all_join_in_the_same_instant() -> None:
    mesh = Mesh(2)
    alpha, *others = [mesh.add_host(f"node{number}") for number in range(12)]
    mesh.found(alpha)
    token = alpha.invite(InvitationTerms(uses=11))
    for host in others:
        host.join(token)
    mesh.wait_for(lambda: all(h.running for h in others), 10 * SECOND, "all are members")
    mesh.wait_all_up(5 * SECOND)
    mesh.everybody_pings()
    assert len({h.member.label for h in mesh.hosts.values()}) == 12
    assert len({h.member.ipv4 for h in mesh.hosts.values()}) == 12


def test_a_token_for_one_is_redeemed_by_one_of_two_in_the_same_instant() -> None:
    mesh = Mesh(3)
    alpha, beta, gamma = (mesh.add_host(name) for name in ("alpha", "beta", "gamma"))
    mesh.found(alpha)
    token = alpha.invite()
    beta.join(token)
    gamma.join(token)
    mesh.wait_for(lambda: beta.running or gamma.running, 5 * SECOND, "one is let in")
    mesh.wait_for(lambda: (beta.refused or gamma.refused) is not None, 5 * SECOND, "one is refused")
    assert beta.running is not gamma.running
    assert "used" in str(beta.refused or gamma.refused)
    mesh.run_for(5 * SECOND)
    assert alpha.node is not None
    assert len(alpha.node.membership.members) == 2


def test_a_token_for_three_lets_in_three() -> None:
    mesh = Mesh(4)
    hosts = [mesh.add_host(name) for name in ("alpha", "beta", "gamma", "delta", "late")]
    mesh.found(hosts[0])
    token = hosts[0].invite(InvitationTerms(uses=3))
    for host in hosts[1:4]:
        host.join(token)
        mesh.wait_for(lambda host=host: host.running, 5 * SECOND, "is let in")  # type: ignore[misc]
    assert "used" in refusal(mesh, hosts[4], token)


@pytest.mark.parametrize("lost", [1, 2, 5])
def test_a_lost_answer_costs_nothing_and_the_same_joiner_gets_it_again(lost: int) -> None:
    mesh = Mesh(5)
    alpha, beta, gamma = (mesh.add_host(name) for name in ("alpha", "beta", "gamma"))
    mesh.found(alpha)
    token = alpha.invite()
    left = 2 * lost

    def lose_answers(packet: UdpPacket) -> tuple[UdpPacket, ...]:
        # The answer is a pair of sealed datagrams from alpha; requests pass.
        nonlocal left
        if packet.origin == "alpha" and packet.data[0] == 4 and left:
            left -= 1
            return ()
        return (packet,)

    beta.plug.on_path = lose_answers
    beta.join(token)
    mesh.wait_for(lambda: beta.running, 15 * SECOND, "beta is let in")
    assert left == 0
    assert "used" in refusal(mesh, gamma, token)
    mesh.wait_all_up(5 * SECOND)


def test_a_joiner_that_gave_up_before_the_answer_came_may_ask_again() -> None:
    mesh = Mesh(6)
    alpha, beta, gamma = (mesh.add_host(name) for name in ("alpha", "beta", "gamma"))
    mesh.found(alpha)
    token = alpha.invite()
    beta.plug.on_path = lambda packet: () if packet.origin == "alpha" and packet.data[0] == 4 else (packet,)
    assert "did not answer" in refusal(mesh, beta, token)
    assert "used" in refusal(mesh, gamma, token)
    beta.plug.on_path = None
    beta.join(token)
    mesh.wait_for(lambda: beta.running, 5 * SECOND, "beta is let in after all")
    mesh.wait_all_up(5 * SECOND, [alpha, beta])


def test_the_inviter_crashes_between_the_disk_and_the_answer() -> None:
    mesh = Mesh(7)
    alpha, beta, gamma = (mesh.add_host(name) for name in ("alpha", "beta", "gamma"))
    mesh.found(alpha)
    token = alpha.invite()
    writes = alpha.disk.writes
    beta.join(token)
    mesh.wait_for(lambda: alpha.disk.writes > writes, 5 * SECOND, "the redemption is on disk")
    alpha.restart()
    mesh.wait_for(lambda: beta.running, 30 * SECOND, "beta is let in")
    assert "used" in refusal(mesh, gamma, token)
    mesh.wait_all_up(5 * SECOND)


def test_the_inviter_crashes_before_the_disk_has_it() -> None:
    mesh = Mesh(8)
    alpha, beta = mesh.add_host("alpha"), mesh.add_host("beta")
    mesh.found(alpha)
    token = alpha.invite()
    alpha.disk.delay = 500 * MILLISECOND
    beta.join(token)
    mesh.run_for(300 * MILLISECOND)
    assert not beta.running
    alpha.restart()
    mesh.wait_for(lambda: beta.running, 30 * SECOND, "beta is let in")
    mesh.wait_all_up(5 * SECOND)


def test_a_full_disk_neither_loses_the_invitation_nor_lets_it_be_used_twice() -> None:
    mesh = Mesh(9)
    alpha, beta, gamma = (mesh.add_host(name) for name in ("alpha", "beta", "gamma"))
    mesh.found(alpha)
    token = alpha.invite()
    alpha.disk.full = alpha.tolerates_errors = True
    assert "try again" in refusal(mesh, beta, token)
    mesh.run_for(10 * SECOND)
    assert alpha.node is not None
    assert len(alpha.node.membership.members) == 1
    alpha.disk.full = False
    beta.join(token)
    mesh.wait_for(lambda: beta.running, 10 * SECOND, "beta is let in now")
    assert "used" in refusal(mesh, gamma, token)
    alpha.restart()
    assert "used" in refusal(mesh, gamma, token)
    mesh.wait_all_up(10 * SECOND)


def test_a_disk_that_was_full_for_a_moment_does_not_hold_a_use_that_was_refused() -> None:
    mesh = Mesh(10)
    alpha, beta, gamma = (mesh.add_host(name) for name in ("alpha", "beta", "gamma"))
    mesh.found(alpha)
    token = alpha.invite()
    alpha.disk.full = alpha.tolerates_errors = True
    assert "try again" in refusal(mesh, beta, token)
    alpha.disk.full = False
    mesh.run_for(10 * SECOND)
    alpha.restart()
    gamma.join(token)
    mesh.wait_for(lambda: gamma.running, 10 * SECOND, "another may use it")
    assert "used" in refusal(mesh, beta, token)


def test_a_member_granted_while_another_was_off_meets_it_without_the_inviter() -> None:
    mesh = Mesh(11)
    alpha, beta = mesh.grow(["alpha", "beta"])
    mesh.wait_all_up(5 * SECOND)
    mesh.run_for(10 * SECOND)
    beta.stop()
    gamma = mesh.add_host("gamma")
    mesh.enrol(gamma, alpha)
    mesh.wait_all_up(5 * SECOND, [alpha, gamma])
    mesh.run_for(5 * SECOND)
    alpha.stop()
    beta.start()
    mesh.wait_all_up(20 * SECOND, [beta, gamma])
    mesh.everybody_pings(hosts=[beta, gamma])


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_a_default_name_that_is_taken_gets_a_number(name: str) -> None:
    mesh = Mesh(12)
    alpha, _ = mesh.grow(["alpha", "beta"])
    twin = mesh.add_host("twin")
    twin.name = name
    twin.join(alpha.invite())
    mesh.wait_for(lambda: twin.running, 5 * SECOND, "is let in")
    assert twin.member.label == f"{name}-2"


def test_an_explicit_name_that_is_taken_is_refused_and_uses_nothing_up() -> None:
    mesh = Mesh(13)
    alpha, _ = mesh.grow(["alpha", "beta"])
    twin = mesh.add_host("twin")
    token = alpha.invite()
    assert "beta is taken" in refusal(mesh, twin, token, "beta")
    twin.join(token, "gamma")
    mesh.wait_for(lambda: twin.running, 5 * SECOND, "is let in under another name")
    assert twin.member.label == "gamma"


def test_a_token_that_has_expired_or_that_the_inviter_does_not_know_is_refused() -> None:
    mesh = Mesh(14)
    alpha, beta = mesh.add_host("alpha"), mesh.add_host("beta")
    mesh.found(alpha)
    expired = alpha.invite(InvitationTerms(expires=60 * SECOND))
    mesh.run_for(61 * SECOND)
    assert "expired" in refusal(mesh, beta, expired)
    invented = replace(alpha.invite(), secret=bytes(16))
    assert "did not answer" in refusal(mesh, beta, invented)


def test_a_token_of_another_network_gets_no_answer_at_all() -> None:
    mesh = Mesh(15)
    alpha, other, beta = (mesh.add_host(name) for name in ("alpha", "other", "beta"))
    mesh.found(alpha)
    mesh.found(other, "office")
    token = replace(other.invite(), endpoints=tuple(map(str, alpha.endpoints())))
    sent = mesh.world.trace.count
    assert "did not answer" in refusal(mesh, beta, token)
    assert mesh.world.trace.count > sent
    assert not [e for e in mesh.world.trace.entries if e.actor == "alpha" and e.kind == "send"]


def test_enrolment_survives_a_terrible_network() -> None:
    for seed in range(5):
        mesh = Mesh(seed)
        awful = replace(UPLINK, loss=0.3, duplication=0.1, reordering=0.1, corruption=0.05)
        alpha, beta = mesh.add_host("alpha", link=awful), mesh.add_host("beta", link=awful)
        mesh.found(alpha)
        mesh.enrol(beta, alpha)
        mesh.wait_all_up(15 * SECOND)


def test_a_token_may_name_endpoints_that_lead_nowhere() -> None:
    mesh = Mesh(17)
    alpha, beta = mesh.add_host("alpha"), mesh.add_host("beta", link=Link(latency=20 * MILLISECOND))
    mesh.found(alpha)
    nowhere = Endpoint("45.7.200.200", 4655)
    mesh.invariants.addresses.vouch(nowhere)
    beta.join(alpha.invite(endpoints=[nowhere, *alpha.endpoints()]))
    mesh.wait_for(lambda: beta.running, 5 * SECOND, "is let in")
