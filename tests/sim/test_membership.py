"""Who belongs and who no longer does, as a whole mesh sees it."""

from meshnode.proto.invitations import InvitationTerms
from meshnode.values import MILLISECOND, SECOND
from meshnode.wire.statement import Role
from tests.sim.host import Host
from tests.sim.mesh import Mesh

DAY = 24 * 3600 * SECOND


def settled(seed: int, *names: str) -> Mesh:
    mesh = Mesh(seed)
    mesh.grow(names)
    mesh.wait_all_up(5 * SECOND)
    mesh.run_for(15 * SECOND)
    return mesh


def knows(host: Host) -> list[str]:
    """The members that a host counts, by name."""
    assert host.node is not None
    return sorted(member.label for member in host.node.membership.members.values())


def test_a_revoked_member_is_cut_off_everywhere_within_a_second() -> None:
    mesh = settled(1, "alpha", "beta", "gamma", "thief")
    alpha, beta, gamma, thief = mesh.hosts.values()
    thief.tolerates_errors = True
    alpha.revoke("thief")
    mesh.run_for(SECOND)
    for host in (alpha, beta, gamma):
        assert knows(host) == ["alpha", "beta", "gamma"]
        assert "thief" not in host.up()
    received = len(beta.applications.inbox)
    thief.applications.addresses = ()
    thief.restart()
    mesh.run_for(60 * SECOND)
    assert len(beta.applications.inbox) == received
    assert all("thief" not in host.up() for host in (alpha, beta, gamma))
    mesh.everybody_pings(hosts=[alpha, beta, gamma])


def test_a_member_that_was_away_learns_of_a_revocation_from_whom_it_meets() -> None:
    mesh = settled(2, "alpha", "beta", "thief")
    alpha, beta, thief = mesh.hosts.values()
    thief.tolerates_errors = True
    beta.crash()
    alpha.revoke("thief")
    mesh.run_for(5 * SECOND)
    beta.start()
    mesh.wait_all_up(5 * SECOND, [alpha, beta])
    mesh.run_for(2 * SECOND)
    assert knows(beta) == ["alpha", "beta"]
    assert beta.up() == ["alpha"]


def test_a_revocation_survives_a_restart_of_all() -> None:
    mesh = settled(3, "alpha", "beta", "thief")
    alpha, beta, thief = mesh.hosts.values()
    thief.tolerates_errors = True
    alpha.revoke("thief")
    mesh.run_for(10 * SECOND)
    alpha.restart()
    beta.restart()
    mesh.run_for(30 * SECOND)
    assert knows(alpha) == knows(beta) == ["alpha", "beta"]


def test_an_admin_invites_and_what_it_granted_stands_after_the_founder_left() -> None:
    mesh = settled(4, "alpha")
    alpha = mesh.hosts["alpha"]
    admin = mesh.add_host("admin")
    mesh.enrol(admin, alpha, InvitationTerms(roles=Role.ADMIN))
    mesh.wait_all_up(5 * SECOND)
    alpha.stop()
    late = mesh.add_host("late")
    mesh.enrol(late, admin)
    mesh.wait_all_up(5 * SECOND, [admin, late])
    alpha.start()
    mesh.wait_all_up(10 * SECOND)
    mesh.everybody_pings()


def test_revoking_an_admin_voids_its_grants_and_keep_saves_them() -> None:
    for keep in (False, True):
        mesh = settled(5, "alpha")
        alpha = mesh.hosts["alpha"]
        admin = mesh.add_host("admin")
        mesh.enrol(admin, alpha, InvitationTerms(roles=Role.ADMIN))
        late = mesh.add_host("late")
        mesh.enrol(late, admin)
        mesh.wait_all_up(5 * SECOND)
        mesh.run_for(5 * SECOND)
        admin.tolerates_errors = late.tolerates_errors = True
        alpha.revoke("admin", keep=keep)
        mesh.run_for(2 * SECOND)
        assert knows(alpha) == (["alpha", "late"] if keep else ["alpha"])
        if keep:
            mesh.everybody_pings(hosts=[alpha, late])


def test_a_grant_that_ends_is_renewed_by_an_admin_who_is_there() -> None:
    mesh = settled(6, "alpha")
    alpha = mesh.hosts["alpha"]
    guest = mesh.add_host("guest")
    mesh.enrol(guest, alpha, InvitationTerms(valid_seconds=1800))
    mesh.wait_all_up(5 * SECOND)
    ends = guest.member.not_after
    mesh.run_for(1500 * SECOND)
    assert guest.member.not_after > ends
    mesh.everybody_pings()


def test_a_grant_that_nobody_renews_ends() -> None:
    mesh = settled(7, "alpha")
    alpha = mesh.hosts["alpha"]
    guest = mesh.add_host("guest")
    mesh.enrol(guest, alpha, InvitationTerms(valid_seconds=60))
    mesh.wait_all_up(5 * SECOND)
    guest.suspend()
    mesh.run_for(DAY + 120 * SECOND)
    guest.tolerates_errors = True
    assert knows(alpha) == ["alpha"]
    guest.resume()
    mesh.run_for(60 * SECOND)
    assert alpha.up() == []


def test_two_admins_that_do_not_see_each_other_grant_one_name_twice() -> None:
    mesh = settled(8, "alpha")
    alpha = mesh.hosts["alpha"]
    admin = mesh.add_host("admin")
    mesh.enrol(admin, alpha, InvitationTerms(roles=Role.ADMIN))
    mesh.wait_all_up(5 * SECOND)
    mesh.partition({"alpha"}, {"admin"})
    first, second = mesh.add_host("first"), mesh.add_host("second")
    mesh.partition({"alpha", "first"}, {"admin", "second"})
    mesh.enrol(first, alpha, InvitationTerms(name="printer"))
    mesh.run_for(5 * SECOND)
    mesh.enrol(second, admin, InvitationTerms(name="printer"))
    mesh.heal()
    mesh.wait_all_up(60 * SECOND)
    mesh.run_for(5 * SECOND)
    everybody = [knows(host) for host in mesh.hosts.values()]
    assert all(names == everybody[0] for names in everybody)
    assert first.member.name == "printer"
    assert second.member.name is None
    mesh.everybody_pings()


def test_what_one_knows_all_know_soon() -> None:
    mesh = settled(9, *(f"node{number}" for number in range(10)))
    hosts = list(mesh.hosts.values())
    late = mesh.add_host("late")
    mesh.enrol(late, hosts[0])
    mesh.wait_for(lambda: all("late" in knows(host) for host in hosts), 500 * MILLISECOND, "all know late")
    mesh.wait_all_up(3 * SECOND)
