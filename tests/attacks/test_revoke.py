"""Coming back after one was thrown out.

A certificate whose signature can be altered has two fingerprints (nebula CVE-2026-25793); lists can be rolled back; a
node that was away can be met first by whom it should not meet.
"""

import pytest

from meshnode.crypto.primitives import SODIUM
from meshnode.proto.invitations import InvitationTerms
from meshnode.proto.membership import Membership, _Rules
from meshnode.values import BadPacket
from meshnode.wire.control import Statements
from tests.attacks.field import Field, control, say, settled
from tests.sim.host import Host

ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of the Ed25519 group (RFC 8032): S + ORDER verifies wherever S is not checked to be reduced."""


def revoked() -> Field:
    """alpha, beta and a thief whom alpha has revoked; the thief's node runs on."""
    field = settled("alpha", "beta", "thief", seed=6)
    field.host("thief").tolerates_errors = True
    field.alpha.revoke("thief")
    field.run(2)
    return field


def counts(host: Host, name: str) -> bool:
    assert host.node is not None
    return any(m.label == name for m in host.node.membership.members.values())


def grant_of(host: Host, name: str) -> bytes:
    """The grant of a member, as a host knows it."""
    assert host.node is not None
    member = next(m for m in host.node.membership.members.values() if m.label == name)
    return host.node.membership.chain(member.identity)[0]


def malleated(statement: bytes) -> bytes:
    """The same statement with the other value of S: equal for a careless verifier, other bytes for a list."""
    s = int.from_bytes(statement[-32:], "little") + ORDER
    return statement[:-32] + s.to_bytes(32, "little")


def comes_back(field: Field) -> bool:
    """The thief's node, made to forget that it was revoked, tries for two minutes."""
    thief = field.host("thief")
    field.run(5)
    thief.crash()
    thief.disk.write("state", field_state_before(field))
    thief.start()
    field.run(120)
    return any("thief" in host.up() for host in (field.alpha, field.beta)) or counts(field.beta, "thief")


_before: dict[int, bytes] = {}


def field_state_before(field: Field) -> bytes:
    return _before[id(field)]


def revoked_with_a_backup() -> Field:
    field = settled("alpha", "beta", "thief", seed=6)
    state = field.host("thief").disk.read("state")
    assert state is not None
    _before[id(field)] = state
    field.host("thief").tolerates_errors = True
    field.alpha.revoke("thief")
    field.run(2)
    return field


def test_an_old_disk_does_not_bring_him_back() -> None:
    assert not comes_back(revoked_with_a_backup())


def test_without_revocations_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    field = revoked_with_a_backup()
    monkeypatch.setattr(_Rules, "_revoke", lambda *_: None)
    for host in (field.alpha, field.beta):
        assert host.node is not None
        host.node.membership.refresh(host.clock.now().wall)
    assert comes_back(field)


def test_old_statements_told_again_change_nothing() -> None:
    field = settled("alpha", "beta", "gamma", "thief", seed=7)
    assert field.alpha.node is not None
    old = field.alpha.node.membership.statements()
    field.host("thief").tolerates_errors = True
    field.alpha.revoke("thief")
    field.run(2)
    for raw in old:
        say(field.host("gamma"), field.beta, control(Statements((raw,))))
    field.run(5)
    assert not counts(field.beta, "thief")


def test_a_grant_with_the_other_s_is_no_grant() -> None:
    field = settled("alpha", "beta", seed=8)
    other = malleated(grant_of(field.alpha, "beta"))
    assert other != grant_of(field.alpha, "beta")
    assert field.alpha.node is not None
    with pytest.raises(BadPacket, match="signature"):
        Membership(
            SODIUM, field.alpha.node.membership.genesis_statement, field.alpha.clock.now().wall
        ).add_untrusted(other, field.alpha.clock.now().wall)


def test_a_verifier_that_does_not_reduce_s_is_noticed() -> None:
    field = settled("alpha", "beta", seed=8)

    class Lenient:
        def __getattr__(self, name: str) -> object:
            return getattr(SODIUM, name)

        def verify(self, public: bytes, signature: bytes, message: bytes) -> bool:
            s = int.from_bytes(signature[32:], "little") % ORDER
            return SODIUM.verify(public, signature[:32] + s.to_bytes(32, "little"), message)

    assert field.alpha.node is not None
    wall = field.alpha.clock.now().wall
    membership = Membership(Lenient(), field.alpha.node.membership.genesis_statement, wall)  # type: ignore[arg-type]
    assert membership.add_untrusted(malleated(grant_of(field.alpha, "beta")), wall) is not None


def test_one_who_was_away_cuts_him_off_within_one_round_of_gossip() -> None:
    field = settled("alpha", "beta", "thief", seed=9)
    thief = field.host("thief")
    thief.tolerates_errors = True
    field.mesh.partition({"alpha"}, {"beta", "thief"})
    field.alpha.revoke("thief")
    field.run(60)
    assert "thief" in field.beta.up()
    field.mesh.heal()
    field.mesh.wait_for(lambda: "alpha" in field.beta.up(), 60 * 10**9, "beta hears alpha again")
    field.run(1)
    assert "thief" not in field.beta.up()
    assert not counts(field.beta, "thief")


@pytest.mark.parametrize("skew", [-20, 0, 20])
def test_an_expired_member_stays_out_whichever_clock_is_a_little_wrong(skew: int) -> None:
    field = settled("alpha", "beta", seed=10)
    field.beta.clock.step_wall(skew * 3600 * 10**9)
    guest = field.mesh.add_host("guest", families="4")
    guest.tolerates_errors = True
    field.mesh.enrol(guest, field.alpha, InvitationTerms(valid_seconds=60))
    field.run(2)
    guest.crash()
    for host in (field.alpha, field.beta, guest):
        host.clock.step_wall(2 * 86_400 * 10**9)
    field.run(3700)
    assert not counts(field.beta, "guest")
    assert not counts(field.alpha, "guest")
    with pytest.raises(ValueError, match="no grant"):
        guest.start()
    guest.clock.step_wall(-2 * 86_400 * 10**9)
    guest.start()
    field.run(30)
    assert field.alpha.up() == ["beta"]
    assert field.beta.up() == ["alpha"]
