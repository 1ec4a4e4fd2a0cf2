"""What an admin may sign, for whom, and what it has to refuse with a line for people."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshnode.crypto.primitives import SODIUM
from meshnode.proto import registrar as module
from meshnode.proto.constants import MAX_CHAIN_BYTES, RENEWAL_S
from meshnode.proto.invitations import Invitations, InvitationTerms, Refusal
from meshnode.proto.membership import Member, Membership
from meshnode.proto.registrar import SUCCESSION_BYTES, Registrar, found_network
from meshnode.values import SECOND, Prefix
from meshnode.wire.control import Redeem
from meshnode.wire.state import StoredInvitation
from meshnode.wire.statement import Genesis, Grant, Role, parse_statement_untrusted
from tests.unit.proto.entropy import Dice
from tests.unit.proto.people import (
    FOUNDED,
    ROOT,
    WALL,
    Person,
    admin,
    grant,
    membership,
    names,
    revocation,
    settled,
    sign,
    succession,
)

ANN, BOB, CAT, DAN, EVE = (Person(name) for name in ("ann", "bob", "cat", "dan", "eve"))
NOW = WALL // SECOND
DAY = 86_400
V6_PREFIXES: tuple[Prefix, ...] = tuple((bytes((0x20, 1, 0xD, 0xB8, n)) + bytes(11), 40) for n in range(8))


def desk(members: Membership, person: Person, root: bool = False) -> Registrar:
    """Where `person` signs; with `root` it holds the root's key, too."""
    return Registrar(SODIUM, members, Invitations(()), person.seed, ROOT.seed if root else None)


def opened(members: Membership, raw: bytes) -> Grant:
    """The grant in `raw`, which must count from now on."""
    members.add_untrusted(raw, WALL)
    body = parse_statement_untrusted(raw).body
    assert isinstance(body, Grant)
    return body


def invitation(**terms: object) -> StoredInvitation:
    plain = StoredInvitation(bytes(16), bytes(32), bytes(32), None, 1, NOW + DAY, 0)
    return replace(plain, **terms)  # type: ignore[arg-type]


def redemption(person: Person, name: str | None = None, explicit: bool = False) -> Redeem:
    return Redeem(bytes(16), person.identity, bytes(64), name or person.name, explicit)


def admitted(members: Membership, registrar: Registrar, redeem: Redeem, **terms: object) -> Grant:
    return opened(members, registrar.admit(invitation(**terms), redeem, bytes(31) + b"\x09", WALL))


# --- founding ---------------------------------------------------------------------------------------------------------


def found(prefix: Prefix = (bytes((10, 77, 0, 0)), 16)) -> Membership:
    state = found_network(SODIUM, "home", "ann", ANN.seed, ANN.static, ROOT.seed, prefix, WALL)
    return (
        Membership(SODIUM, state.genesis, WALL)
        if not state.statements
        else _read(state.genesis, state.statements)
    )


def _read(genesis: bytes, statements: tuple[bytes, ...]) -> Membership:
    members = Membership(SODIUM, genesis, WALL)
    for raw in statements:
        assert members.add_untrusted(raw, WALL) is not None
    return members


def test_the_founder_is_the_only_member_and_may_do_everything() -> None:
    members = found()
    founder = members.members[ANN.id]
    assert list(members.members) == [ANN.id]
    assert founder.roles == Role.ADMIN | Role.ROUTER
    assert founder.not_after == 0
    assert founder.ipv4 is not None
    assert founder.ipv4[:2] == bytes((10, 77))
    assert desk(members, ANN, root=True).level() == 0
    assert members.genesis.name == "home"


def test_a_prefix_without_hosts_is_refused_with_a_line() -> None:
    with pytest.raises(Refusal, match="no free address"):
        found((bytes((10, 77, 0, 1)), 32))


# --- authority --------------------------------------------------------------------------------------------------------


def test_who_may_grant() -> None:
    members = membership(admin(ROOT, ANN), admin(ANN, BOB), admin(BOB, CAT), grant(ROOT, DAN))
    people = [(ANN, 1), (BOB, 2), (CAT, 3), (DAN, None), (EVE, None)]
    assert [desk(members, p).level() for p, _ in people] == [level for _, level in people]
    assert [desk(members, p).may_grant() for p, _ in people] == [True, True, False, False, False]
    assert desk(members, DAN, root=True).may_grant()


@pytest.mark.parametrize(("person", "code"), [(CAT, "depth"), (DAN, "not-admin")])
def test_who_may_not_grant_is_told_so_before_there_is_a_token(person: Person, code: str) -> None:
    members = membership(admin(ROOT, ANN), admin(ANN, BOB), admin(BOB, CAT), grant(ROOT, DAN))
    with pytest.raises(Refusal) as refused:
        desk(members, person).invite(InvitationTerms(), person.static, (), Dice("token"), WALL)
    assert refused.value.code == code


def test_an_old_root_key_that_is_no_root_here_signs_nothing() -> None:
    registrar = Registrar(SODIUM, membership(grant(ROOT, ANN)), Invitations(()), ANN.seed, EVE.seed)
    assert not registrar.holds_root()
    assert not registrar.may_grant()
    members = membership(admin(ROOT, ANN))
    granted = Registrar(SODIUM, members, Invitations(()), ANN.seed, EVE.seed).grant(
        BOB.identity, BOB.static, "bob", Role.NONE, (), 0, WALL
    )
    assert parse_statement_untrusted(granted).signer == ANN.identity


def test_a_successor_signs_as_a_root() -> None:
    heir = Person("heir")
    members = membership(succession(ROOT, heir), grant(ROOT, ANN))
    registrar = Registrar(SODIUM, members, Invitations(()), ANN.seed, heir.seed)
    granted = registrar.grant(BOB.identity, BOB.static, "bob", Role.NONE, (), 0, WALL)
    assert opened(members, granted).name == "bob"
    assert members.chain(BOB.identity) == (granted, succession(ROOT, heir))


# --- invitations ------------------------------------------------------------------------------------------------------


def test_a_token_says_where_to_go_and_what_to_expect() -> None:
    members = membership(admin(ROOT, ANN))
    token = desk(members, ANN).invite(
        InvitationTerms(expires=DAY * SECOND), ANN.static, ("192.0.2.1:4655",), Dice("token"), WALL
    )
    assert (token.network_id, token.static) == (members.network_id, ANN.static)
    assert (token.name, token.expires, token.endpoints) == ("home", NOW + DAY, ("192.0.2.1:4655",))


def test_no_token_for_a_name_that_is_taken_or_is_none() -> None:
    registrar = desk(membership(admin(ROOT, ANN)), ANN)
    for name, code in (("ann", "name-taken"), ("-", "name"), ("a b", "name"), ("x" * 64, "name")):
        with pytest.raises(Refusal) as refused:
            registrar.invite(InvitationTerms(name=name), ANN.static, (), Dice("token"), WALL)
        assert refused.value.code == code


def test_no_token_for_prefixes_that_are_against_the_protocol() -> None:
    """Else the joiner's redemption would fail on the inviter's node, long after the mistake."""
    registrar = desk(membership(admin(ROOT, ANN)), ANN)
    terms = InvitationTerms(prefixes=((bytes((10, 0, 0, 1)), 8),))
    with pytest.raises(ValueError, match="protocol"):
        registrar.invite(terms, ANN.static, (), Dice("token"), WALL)


# --- joiners ----------------------------------------------------------------------------------------------------------


def test_a_joiner_gets_what_the_invitation_says() -> None:
    members = membership(admin(ROOT, ANN))
    granted = admitted(
        members,
        desk(members, ANN),
        redemption(BOB),
        roles=int(Role.ROUTER),
        prefixes=V6_PREFIXES[:1],
        valid_seconds=DAY,
    )
    assert (granted.subject, granted.static, granted.name) == (BOB.identity, bytes(31) + b"\x09", "bob")
    assert (granted.roles, granted.prefixes) == (Role.ROUTER, V6_PREFIXES[:1])
    assert (granted.not_before, granted.not_after) == (NOW, NOW + DAY)


def test_a_defaulted_name_that_is_taken_gets_a_number() -> None:
    members = membership(admin(ROOT, ANN))
    registrar = desk(members, ANN)
    for person, expected in ((BOB, "ann-2"), (CAT, "ann-3")):
        assert admitted(members, registrar, redemption(person, "ann")).name == expected
    long = "x" * 63
    assert admitted(members, registrar, redemption(DAN, long)).name == long
    assert admitted(members, registrar, redemption(EVE, long)).name == "x" * 58 + "-2"


def test_an_explicit_name_that_is_taken_fails() -> None:
    members = membership(admin(ROOT, ANN))
    with pytest.raises(Refusal) as refused:
        admitted(members, desk(members, ANN), redemption(BOB, "ann", explicit=True))
    assert refused.value.code == "name-taken"


def test_a_promised_name_or_address_is_taken_too() -> None:
    members = membership(admin(ROOT, ANN))
    registrar = desk(members, ANN)
    first = parse_statement_untrusted(
        registrar.admit(invitation(), redemption(BOB, "nas"), BOB.static, WALL)
    ).body
    assert isinstance(first, Grant)
    # The same key would get the same address: a second grant for it shows that this one counts as given.
    second = parse_statement_untrusted(
        registrar.admit(invitation(), redemption(BOB, "nas"), BOB.static, WALL, (first,))
    ).body
    assert isinstance(second, Grant)
    assert second.name == "nas-2"
    assert second.ipv4 != first.ipv4


def test_the_inviters_name_for_a_joiner_holds() -> None:
    members = membership(admin(ROOT, ANN))
    registrar = desk(members, ANN)
    for joiner in (redemption(BOB, "other", explicit=True), redemption(BOB, "nas")):
        with pytest.raises(Refusal) as refused:
            registrar.admit(invitation(name="nas" if joiner.explicit else "ann"), joiner, BOB.static, WALL)
        assert refused.value.code == ("name" if joiner.explicit else "name-taken")
    assert admitted(members, registrar, redemption(BOB, "other"), name="nas").name == "nas"
    assert admitted(members, registrar, redemption(CAT, "tv", explicit=True), name="tv").name == "tv"


def test_an_impossible_name_is_refused() -> None:
    with pytest.raises(Refusal) as refused:
        desk(membership(admin(ROOT, ANN)), ANN).admit(invitation(), redemption(BOB, "a b"), BOB.static, WALL)
    assert refused.value.code == "name"


def test_numbers_end_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NUMBERED_NAMES", 3)
    members = membership(admin(ROOT, ANN), grant(ROOT, BOB, name="ann-2"))
    with pytest.raises(Refusal) as refused:
        admitted(members, desk(members, ANN), redemption(CAT, "ann"))
    assert refused.value.code == "name-taken"


def test_a_revoked_key_does_not_come_back_with_a_new_token() -> None:
    members = membership(admin(ROOT, ANN), grant(ROOT, BOB), revocation(ROOT, BOB))
    with pytest.raises(Refusal) as refused:
        admitted(members, desk(members, ANN), redemption(BOB))
    assert refused.value.code == "revoked"


def test_addresses_are_given_out_once_until_there_are_none() -> None:
    genesis = sign(Genesis(ROOT.identity, FOUNDED, (bytes((10, 9, 8, 0)), 29), "home"), ROOT)
    members = Membership(SODIUM, genesis, WALL)
    registrar = desk(members, ANN, root=True)
    addresses = []
    for number in range(6):
        person = Person(f"host-{number}")
        raw = registrar.grant(person.identity, person.static, person.name, Role.NONE, (), 0, WALL)
        addresses.append(opened(members, raw).ipv4)
    assert sorted(a for a in addresses if a) == [bytes((10, 9, 8, n)) for n in range(1, 7)]
    with pytest.raises(Refusal, match="no free address"):
        registrar.grant(BOB.identity, BOB.static, "bob", Role.NONE, (), 0, WALL)


def test_a_full_network_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MEMBERS", 1)
    members = membership(admin(ROOT, ANN))
    with pytest.raises(Refusal) as refused:
        admitted(members, desk(members, ANN), redemption(BOB))
    assert refused.value.code == "full"


def test_a_key_whose_serials_are_used_up_can_be_revoked_at_least() -> None:
    members = membership(admin(ROOT, ANN), grant(ROOT, BOB, serial=2**32 - 1, not_after=NOW + 1))
    registrar = desk(members, ANN, root=True)
    bob = members.members[BOB.id]
    assert not registrar.due_for_renewal(bob, WALL)
    with pytest.raises(Refusal) as refused:
        registrar.renew(bob, WALL)
    assert refused.value.code == "serial"
    for raw in registrar.revoke(bob, False, WALL):
        members.add_untrusted(raw, WALL)
    assert BOB.id not in members.members


# --- the length of chains ---------------------------------------------------------------------------------------------


def test_the_longest_grant_of_the_root_fits() -> None:
    members = membership(admin(ROOT, ANN))
    registrar = desk(members, ANN, root=True)
    raw = registrar.grant(BOB.identity, BOB.static, "b" * 63, Role.ADMIN, V6_PREFIXES, 0, WALL)
    assert len(raw) == 397
    assert opened(members, raw).prefixes == V6_PREFIXES


def test_a_chain_that_would_not_fit_is_refused_where_it_is_made() -> None:
    long = grant(ROOT, ANN, roles=Role.ADMIN, name="a" * 63, prefixes=V6_PREFIXES)
    members = membership(long)
    terms = InvitationTerms(name="b" * 63, roles=int(Role.ADMIN), prefixes=V6_PREFIXES)
    desk(members, ANN).invite(terms, ANN.static, (), Dice("token"), WALL)
    members.add_untrusted(grant(ANN, BOB, roles=Role.ADMIN, name="b" * 63, prefixes=V6_PREFIXES), WALL)
    with pytest.raises(Refusal) as refused:
        desk(members, BOB).invite(InvitationTerms(), BOB.static, (), Dice("token"), WALL)
    assert refused.value.code == "too-long"


@pytest.mark.parametrize("prefixes", range(9))
def test_every_chain_that_may_be_granted_fits_with_a_succession_behind_it(prefixes: int) -> None:
    members = membership()
    signer, root, made = ANN, True, 0
    for name in ("bob", "cat", "dan"):
        person = Person(name)
        try:
            raw = desk(members, signer, root).grant(
                person.identity, person.static, name * 20, Role.ADMIN, V6_PREFIXES[:prefixes], 0, WALL
            )
        except Refusal:
            break
        members.add_untrusted(raw, WALL)
        chain = members.chain(person.identity)
        assert sum(map(len, chain)) + SUCCESSION_BYTES <= MAX_CHAIN_BYTES
        signer, root, made = person, False, made + 1
    assert made == (3 if prefixes < 2 else 2)


def test_a_succession_has_the_length_that_is_kept_free_for_it() -> None:
    assert len(succession(ROOT, BOB)) == SUCCESSION_BYTES


# --- revocation -------------------------------------------------------------------------------------------------------


def revoke(members: Membership, registrar: Registrar, person: Person, keep: bool = False) -> None:
    for raw in registrar.revoke(members.members[person.id], keep, WALL):
        assert members.add_untrusted(raw, WALL) is not None


def test_an_admin_revokes_members_but_neither_admins_nor_itself() -> None:
    members = membership(admin(ROOT, ANN), admin(ROOT, BOB), grant(ROOT, CAT))
    registrar = desk(members, ANN)
    revoke(members, registrar, CAT)
    assert names(members) == {"ann", "bob"}
    for person, code in ((BOB, "root"), (ANN, "self")):
        with pytest.raises(Refusal) as refused:
            revoke(members, registrar, person)
        assert refused.value.code == code


def test_a_member_revokes_nobody() -> None:
    members = membership(grant(ROOT, ANN), grant(ROOT, BOB))
    with pytest.raises(Refusal) as refused:
        revoke(members, desk(members, ANN), BOB)
    assert refused.value.code == "not-admin"


def test_an_admin_too_far_from_the_root_to_grant_still_revokes() -> None:
    members = membership(admin(ROOT, ANN), admin(ANN, BOB), admin(BOB, CAT), grant(ROOT, DAN))
    revoke(members, desk(members, CAT), DAN)
    assert "dan" not in names(members)


def test_without_keep_those_whom_only_the_admin_let_in_are_out() -> None:
    members = membership(grant(ROOT, ANN), admin(ROOT, BOB), grant(BOB, CAT))
    revoke(members, desk(members, ANN, root=True), BOB)
    assert names(members) == {"ann"}


def test_with_keep_nothing_changes_but_for_the_admin() -> None:
    """Also those whom it had revoked stay out; names and precedence stay."""
    members = membership(
        grant(ROOT, ANN),
        admin(ROOT, BOB),
        grant(BOB, CAT, not_before=FOUNDED + 3),
        admin(BOB, DAN),
        grant(DAN, Person("fay")),
        grant(ROOT, EVE),
        revocation(BOB, EVE),
        grant(ROOT, Person("gus")),
        revocation(BOB, Person("gus")),
        revocation(ROOT, Person("gus")),
    )
    revoke(members, desk(members, ANN, root=True), BOB, keep=True)
    assert names(members) == {"ann", "cat", "dan", "fay"}
    assert members.members[CAT.id].not_before == FOUNDED + 3
    assert set(members.revoked) == {BOB.id, EVE.id, Person("gus").id}


# --- renewal ----------------------------------------------------------------------------------------------------------


def member(members: Membership, person: Person) -> Member:
    return members.members[person.id]


@pytest.mark.parametrize(
    ("life", "left", "due"), [(90, 31, False), (90, 29, True), (900, 31, False), (9, 2, True)]
)
def test_a_grant_is_renewed_in_its_last_third(life: int, left: int, due: bool) -> None:
    raw = grant(ROOT, BOB, not_before=NOW + (left - life) * DAY, not_after=NOW + left * DAY)
    members = membership(admin(ROOT, ANN), raw)
    assert desk(members, ANN).due_for_renewal(member(members, BOB), WALL) is due


def test_a_renewal_is_the_same_grant_with_a_new_end() -> None:
    raw = grant(
        ROOT,
        BOB,
        serial=4,
        roles=Role.ROUTER,
        not_before=NOW - 80 * DAY,
        not_after=NOW + 10 * DAY,
        ipv4=bytes((10, 77, 1, 1)),
        prefixes=V6_PREFIXES[:2],
    )
    members = membership(admin(ROOT, ANN), raw)
    renewed = opened(members, desk(members, ANN).renew(member(members, BOB), WALL))
    before = parse_statement_untrusted(raw).body
    assert isinstance(before, Grant)
    assert renewed == replace(before, serial=5, not_after=NOW + 90 * DAY)
    assert not desk(members, ANN).due_for_renewal(member(members, BOB), WALL)


def test_no_renewal_lasts_longer_than_the_longest() -> None:
    raw = grant(ROOT, BOB, not_before=NOW - 1000 * DAY, not_after=NOW + DAY)
    members = membership(admin(ROOT, ANN), raw)
    assert opened(members, desk(members, ANN).renew(member(members, BOB), WALL)).not_after == NOW + RENEWAL_S


@pytest.mark.parametrize(
    "raw",
    [
        grant(ROOT, BOB),
        grant(ROOT, BOB, not_before=NOW + 5, not_after=NOW - 5),
        grant(ROOT, BOB, not_before=NOW, not_after=NOW),
    ],
)
def test_what_has_no_end_or_no_life_is_not_renewed(raw: bytes) -> None:
    members = membership(admin(ROOT, ANN), raw)
    assert not desk(members, ANN).due_for_renewal(member(members, BOB), WALL)


def test_an_admin_is_renewed_only_from_nearer_to_the_root() -> None:
    """Its own grant for itself, or for one beside it, would count for nothing, and hide the true one."""
    members = settled(
        [
            admin(ROOT, ANN, not_after=NOW + 1),
            admin(ROOT, BOB, not_after=NOW + 1),
            admin(ANN, CAT, not_after=NOW + 1),
            grant(ROOT, DAN, not_after=NOW + 1),
        ]
    )
    allowed = {
        (signer.name, root): [
            p.name
            for p in (ANN, BOB, CAT, DAN)
            if desk(members, signer, root).due_for_renewal(member(members, p), WALL)
        ]
        for signer, root in ((ANN, False), (BOB, False), (CAT, False), (DAN, False), (DAN, True))
    }
    assert allowed == {
        ("ann", False): ["cat", "dan"],
        ("bob", False): ["cat", "dan"],
        ("cat", False): ["dan"],
        ("dan", False): [],
        ("dan", True): ["ann", "bob", "cat", "dan"],
    }
