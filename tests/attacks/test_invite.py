"""Tokens: who holds one gets in, once, and nobody else does.

A one-off key was used twice because checking and writing were two steps (TS-2025-007).
"""

import pytest

from meshnode.proto.guests import redeem_proof
from meshnode.proto.invitations import Invitations, InvitationTerms, redeem_hash
from meshnode.values import BadPacket
from meshnode.wire import schema
from meshnode.wire.control import Redeem, parse_control_untrusted
from meshnode.wire.token import Token
from tests.attacks.field import COOKIE, at, push
from tests.sim.host import Host
from tests.sim.mesh import Mesh

SECOND = 10**9


def two_join_at_once(mesh: Mesh) -> int:
    """How many of two joiners a token for one lets in, when the disk takes its time."""
    alpha, beta, gamma = (mesh.add_host(name) for name in ("alpha", "beta", "gamma"))
    mesh.found(alpha)
    token = alpha.invite()
    alpha.disk.delay = SECOND // 5
    beta.join(token)
    gamma.join(token)
    mesh.run_for(10 * SECOND)
    return beta.running + gamma.running


def test_two_in_one_tick_are_one_too_many() -> None:
    assert two_join_at_once(Mesh(1)) == 1


def test_checking_without_reserving_lets_both_in(monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = Invitations.reserve

    def check_only(self: Invitations, *arguments: object) -> bool:
        self._reserved.clear()
        fresh: bool = reserve(self, *arguments)  # type: ignore[arg-type]
        return fresh

    monkeypatch.setattr(Invitations, "reserve", check_only)
    monkeypatch.setattr(Invitations, "commit", lambda *_: None)
    assert two_join_at_once(Mesh(1)) == 2


def joined(mesh: Mesh) -> tuple[Host, Host, Token]:
    alpha, beta = mesh.add_host("alpha"), mesh.add_host("beta")
    mesh.found(alpha)
    token = alpha.invite()
    beta.join(token)
    mesh.wait_for(lambda: beta.running, 5 * SECOND, "beta joins")
    mesh.run_for(5 * SECOND)
    return alpha, beta, token


def places_of(secret: bytes, hosts: tuple[Host, ...], mesh: Mesh) -> list[str]:
    """Where a token's secret can be read: disks, notices, the trace."""
    found = []
    for host in hosts:
        found += [f"{host.name}: {name}" for name, data in host.disk.files.items() if secret in data]
        found += [f"{host.name}: {n.text}" for n in host.notices if secret.hex() in n.text]
    return found + ["trace"] * (secret.hex() in mesh.world.trace.to_text())


def test_the_secret_is_kept_nowhere_not_even_at_the_inviter() -> None:
    mesh = Mesh(2)
    alpha, beta, token = joined(mesh)
    assert places_of(token.secret, (alpha, beta), mesh) == []
    assert token.secret.hex() not in repr(token)


def test_the_search_for_secrets_finds_what_is_stored() -> None:
    mesh = Mesh(2)
    alpha, beta, token = joined(mesh)
    assert places_of(redeem_hash(token.secret), (alpha, beta), mesh) == ["alpha: state"]


def test_a_recorded_enrolment_lets_nobody_else_in() -> None:
    mesh = Mesh(3)
    mallory = mesh.add_attacker()
    alpha, beta = mesh.add_host("alpha"), mesh.add_host("beta")
    for host in (alpha, beta):
        mallory.tap(host.plug)
    mesh.found(alpha)
    token = alpha.invite(InvitationTerms(uses=5))
    beta.join(token)
    mesh.wait_for(lambda: beta.running, 5 * SECOND, "beta joins")
    mesh.run_for(5 * SECOND)
    assert alpha.node is not None
    members = len(alpha.node.membership.members)
    for packet in list(mallory.overheard):
        push(alpha, packet.data, mallory.endpoint())
        push(alpha, packet.data, packet.source)
    mesh.run_for(5 * SECOND)
    assert len(alpha.node.membership.members) == members
    # So many at once that some are asked for a cookie; nothing else is answered.
    assert all(packet.data[0] == COOKIE for packet in mallory.received)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "a\0b",
        "a" * 300,
        "",
        "a\nb",
        "\x1b[2J",
        "a b",
        "-rf",
        ".hidden",
        "x" * 100_000,
        "é",
    ],
    ids=repr,
)
def test_a_hostile_name_is_refused_and_the_invitation_is_not_used_up(name: str) -> None:
    with pytest.raises(BadPacket):
        parse_control_untrusted(schema.pack((1, bytes(16), bytes(32), bytes(64), name[:1000], False)))
    mesh = Mesh(4)
    alpha, beta = mesh.add_host("alpha"), mesh.add_host("beta")
    mesh.found(alpha)
    token = alpha.invite()
    beta.join(token, "beta")
    mesh.wait_for(lambda: beta.running, 5 * SECOND, "an honest one may still use it")


def claims_another_identity(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a holder of a token gets a grant for an identity key that it does not own."""
    alpha, beta = mesh.add_host("alpha"), mesh.add_host("beta")
    mesh.found(alpha)
    victim = mesh.equipment.ciphers.identity_key(bytes(range(32)))
    pack = Redeem.__init__

    def lie(
        self: Redeem, secret: bytes, identity: bytes, signature: bytes, name: str, explicit: bool
    ) -> None:
        pack(self, secret, victim, signature, name, explicit)

    with monkeypatch.context() as patch:
        patch.setattr("meshnode.proto.joiner.Redeem", lambda **fields: _with(Redeem(**fields), victim))
        beta.join(alpha.invite())
        mesh.run_for(5 * SECOND)
    assert alpha.node is not None
    return any(m.identity == victim for m in alpha.node.membership.members.values())


def _with(redeem: Redeem, identity: bytes) -> Redeem:
    return Redeem(redeem.secret, identity, redeem.signature, redeem.name, redeem.explicit)


def test_nobody_gets_a_grant_for_another_ones_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not claims_another_identity(Mesh(5), monkeypatch)


def test_without_the_proof_he_would(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = Mesh(5)
    ciphers = mesh.equipment.ciphers

    class Credulous:
        def __getattr__(self, name: str) -> object:
            return getattr(ciphers, name)

        def verify(self, public: bytes, signature: bytes, message: bytes) -> bool:
            return message.startswith(b"meshnode redeem") or ciphers.verify(public, signature, message)

    mesh.equipment.ciphers = Credulous()  # type: ignore[assignment]
    assert claims_another_identity(mesh, monkeypatch)


def test_the_proof_is_bound_to_the_session() -> None:
    assert redeem_proof(bytes(32), bytes(32), b"one") != redeem_proof(bytes(32), bytes(32), b"two")


def test_an_expired_token_is_refused_whichever_clock_is_wrong() -> None:
    for skew in (-86_400, 0, 86_400):
        mesh = Mesh(6)
        alpha, beta = mesh.add_host("alpha"), mesh.add_host("beta")
        beta.clock.step_wall(skew * SECOND)
        mesh.found(alpha)
        token = alpha.invite(InvitationTerms(expires=60 * SECOND))
        mesh.run_for(61 * SECOND)
        beta.join(token)
        mesh.wait_for(lambda beta=beta: beta.refused is not None, 60 * SECOND, "an answer")  # type: ignore[misc]
        assert "expired" in str(beta.refused)


def test_who_listens_where_the_token_points_learns_nothing() -> None:
    mesh = Mesh(7)
    mallory = mesh.add_attacker()
    alpha, beta = mesh.add_host("alpha", families="4"), mesh.add_host("beta", families="4")
    mesh.found(alpha)
    token = alpha.invite(endpoints=[mallory.endpoint(), at(alpha)])
    mesh.invariants.addresses.vouch(mallory.endpoint())
    beta.join(token)
    mesh.wait_for(lambda: beta.running, 5 * SECOND, "beta joins")
    for packet in mallory.received:
        assert packet.data[0] == 1
        assert token.secret not in packet.data
