"""Who belongs: the table of DESIGN section 3, row by row, and that the order of arrival never matters."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.crypto.primitives import SODIUM
from meshnode.proto import membership as module
from meshnode.proto.membership import Membership, fitting
from meshnode.values import SECOND, BadPacket, Endpoint
from meshnode.wire.address import link_local, unique_local
from meshnode.wire.statement import MAX_STATEMENT, Genesis, Role, parse_statement_untrusted
from tests.unit.proto.people import (
    FOUNDED,
    GENESIS,
    NETWORK,
    ROOT,
    TOLERANCE,
    WALL,
    Person,
    admin,
    grant,
    membership,
    names,
    record,
    revocation,
    settled,
    sign,
    succession,
)

ANN, BOB, CAT, DAN, EVE = (Person(name) for name in ("ann", "bob", "cat", "dan", "eve"))
ADDRESS = bytes((10, 77, 0, 9))
DAY = 86_400


def refusal(members: Membership, raw: bytes) -> str:
    with pytest.raises(BadPacket) as caught:
        members.add_untrusted(raw, WALL)
    return caught.value.reason


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_a_network_begins_with_nobody() -> None:
    members = membership()
    assert members.members == {}
    assert members.statements() == []
    assert list(members.everything()) == [parse_statement_untrusted(GENESIS).hash]
    assert members.genesis_statement == GENESIS
    assert members.is_root(ROOT.identity)
    assert not members.is_root(ANN.identity)


@pytest.mark.parametrize("raw", [grant(ROOT, ANN), GENESIS[:-1] + bytes([GENESIS[-1] ^ 1])])
def test_it_begins_with_a_genesis_signed_by_its_root_and_nothing_else(raw: bytes) -> None:
    with pytest.raises(BadPacket):
        Membership(SODIUM, raw, WALL)


def test_a_grant_by_the_root_makes_a_member() -> None:
    prefix = (bytes((192, 168, 4, 0)), 24)
    members = membership(grant(ROOT, ANN, roles=Role.ROUTER, ipv4=ADDRESS, prefixes=(prefix,)))
    member = members.members[ANN.id]
    assert (member.identity, member.static, member.name) == (ANN.identity, ANN.static, "ann")
    assert member.addresses == (ADDRESS, unique_local(NETWORK, ANN.id))
    assert member.link_local == link_local(ANN.id)
    assert (member.prefixes, member.roles, member.lost) == ((prefix,), Role.ROUTER, ())
    assert members.by_static(ANN.static) is member
    assert members.by_static(BOB.static) is None


def test_what_is_known_is_no_news() -> None:
    members = membership(grant(ROOT, ANN))
    assert members.add_untrusted(grant(ROOT, ANN), WALL) is None
    assert members.add_untrusted(grant(ROOT, ANN, serial=0), WALL) is None


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (grant(ANN, BOB), "signer unknown"),
        (revocation(ANN, BOB), "signer unknown"),
        (succession(ANN, BOB), "signer unknown"),
        (record(ANN), "record of a stranger"),
        (sign(Genesis(BOB.identity, 0, (bytes(4), 0), "elsewhere"), BOB), "another genesis"),
        (b"", "too short"),
    ],
)
def test_what_nobody_vouches_for_is_refused(raw: bytes, reason: str) -> None:
    members = membership()
    if reason == "too short":
        refusal(members, raw)
    else:
        assert refusal(members, raw) == reason
    assert len(members.everything()) == 1


@pytest.mark.parametrize("make", [lambda: grant(ROOT, BOB), lambda: record(ANN)])
def test_a_wrong_signature_changes_nothing(make: object) -> None:
    members = membership(grant(ROOT, ANN))
    raw = make()  # type: ignore[operator]
    before = dict(members.everything())
    assert refusal(members, raw[:-1] + bytes([raw[-1] ^ 1])) == "signature"
    assert members.everything() == before
    assert members.add_untrusted(raw, WALL) is not None


def test_a_plain_member_signs_nothing_but_its_record() -> None:
    members = membership(grant(ROOT, ANN), grant(ROOT, BOB))
    assert refusal(members, grant(ANN, CAT)) == "signer unknown"
    assert refusal(members, revocation(ANN, BOB)) == "signer unknown"


def test_the_newest_record_counts_and_replaces_the_others() -> None:
    members = membership(grant(ROOT, ANN))
    here, there = (Endpoint("192.0.2.1", 4655),), (Endpoint("192.0.2.2", 4655),)
    assert members.record(ANN.id) is None
    members.add_untrusted(record(ANN, 5, here), WALL)
    count = len(members.everything())
    assert members.add_untrusted(record(ANN, 4, there), WALL) is None
    assert members.add_untrusted(record(ANN, 6, there), WALL) is not None
    kept = members.record(ANN.id)
    assert kept is not None
    assert kept.endpoints == there
    assert len(members.everything()) == count
    assert members.records() == [record(ANN, 6, there)]


def test_of_two_revocations_by_one_signer_the_earlier_is_kept() -> None:
    members = membership(grant(ROOT, ANN), revocation(ROOT, ANN, at=FOUNDED + 9))
    assert members.add_untrusted(revocation(ROOT, ANN, at=FOUNDED + 5), WALL) is not None
    assert members.add_untrusted(revocation(ROOT, ANN, at=FOUNDED + 7), WALL) is None
    assert len(members.statements()) == 2


# --- several grants for one subject -----------------------------------------------------------------------------------


def test_the_highest_serial_wins_whoever_signed_it() -> None:
    members = membership(grant(ROOT, ANN, serial=1, name="old"), grant(ROOT, ANN, serial=2, name="new"))
    assert members.members[ANN.id].name == "new"
    members = membership(
        grant(ROOT, BOB, serial=3, name="old"), admin(ROOT, ANN), grant(ANN, BOB, 4, name="new")
    )
    assert members.members[BOB.id].name == "new"
    assert members.next_serial(BOB.identity) == 5
    assert members.next_serial(CAT.identity) == 1


def test_a_revocation_beats_them_all() -> None:
    members = membership(grant(ROOT, ANN, serial=9), revocation(ROOT, ANN))
    assert ANN.id not in members.members
    assert members.revoked == {ANN.id: "revoked by the root"}
    members.add_untrusted(grant(ROOT, ANN, serial=10), WALL)
    assert ANN.id not in members.members
    assert members.chain(ANN.identity) == ()
    assert members.vouchers(ANN.identity) == ()


def test_an_admin_revokes_plain_members() -> None:
    members = membership(admin(ROOT, ANN), grant(ROOT, BOB), revocation(ANN, BOB))
    assert names(members) == {"ann"}
    assert members.revoked == {BOB.id: "revoked by an admin"}


# --- names and addresses ----------------------------------------------------------------------------------------------


def test_who_was_granted_first_keeps_a_disputed_name_and_address() -> None:
    later = grant(ROOT, ANN, name="nas", ipv4=ADDRESS, not_before=FOUNDED + 1)
    earlier = grant(ROOT, BOB, name="nas", ipv4=ADDRESS, not_before=FOUNDED)
    members = membership(later, earlier)
    winner, loser = members.members[BOB.id], members.members[ANN.id]
    assert (winner.name, winner.ipv4, winner.lost) == ("nas", ADDRESS, ())
    assert (loser.name, loser.ipv4) == (None, None)
    assert loser.lost == ("name nas", "IPv4 address 10.77.0.9")
    assert loser.addresses == (loser.ipv6,)
    assert members.by_static(ANN.static) is loser


def test_at_the_same_time_the_lower_key_keeps_it() -> None:
    members = membership(grant(ROOT, ANN, name="nas"), grant(ROOT, BOB, name="nas"))
    low, high = sorted((ANN, BOB), key=lambda p: p.identity)
    assert members.members[low.id].name == "nas"
    assert members.members[high.id].name is None


def test_a_name_is_free_again_when_its_key_is_revoked() -> None:
    members = membership(
        grant(ROOT, ANN, name="nas"),
        grant(ROOT, BOB, name="nas", not_before=FOUNDED + 1),
        revocation(ROOT, ANN),
    )
    assert members.members[BOB.id].name == "nas"


def test_a_renewal_does_not_change_who_was_first() -> None:
    members = membership(
        grant(ROOT, ANN, name="nas", not_before=FOUNDED, not_after=FOUNDED + 90 * DAY),
        grant(ROOT, BOB, name="nas", not_before=FOUNDED + 1),
        grant(ROOT, ANN, serial=2, name="nas", not_before=FOUNDED, not_after=FOUNDED + 180 * DAY),
    )
    assert members.members[ANN.id].name == "nas"


def test_two_with_one_static_key_do_not_confuse_handshakes() -> None:
    members = membership(grant(ROOT, ANN), grant(ROOT, BOB, static=ANN.static, not_before=FOUNDED + 1))
    owner = members.by_static(ANN.static)
    assert owner is not None
    assert owner.peer == ANN.id


def test_people_find_members_by_name_or_by_the_beginning_of_an_id() -> None:
    members = membership(grant(ROOT, ANN), grant(ROOT, BOB, name="ann", not_before=FOUNDED + 1))
    bob = members.members[BOB.id]
    assert bob.label == f"ann~{BOB.id.hex()[:6]}"
    assert members.by_name("ann") is members.members[ANN.id]
    assert members.by_name(bob.label) is bob
    assert members.by_name(BOB.id.hex()[:8].upper()) is bob
    assert members.by_name(BOB.id.hex()[:3]) is None
    assert members.by_name("nobody") is None


# --- admins -----------------------------------------------------------------------------------------------------------


def test_only_the_root_revokes_an_admin() -> None:
    members = membership(admin(ROOT, ANN), admin(ROOT, BOB), revocation(ANN, BOB))
    assert names(members) == {"ann", "bob"}
    members.add_untrusted(revocation(ROOT, BOB), WALL)
    assert names(members) == {"ann"}


def test_grants_that_only_a_revoked_admin_signed_are_void() -> None:
    members = membership(
        admin(ROOT, ANN), grant(ANN, BOB), grant(ROOT, CAT), grant(ANN, CAT, serial=2, name="renamed")
    )
    assert names(members) == {"ann", "bob", "renamed"}
    assert {g.name for g in members.signed_only_by(ANN.identity)} == {"bob", "renamed"}
    members.add_untrusted(revocation(ROOT, ANN), WALL)
    assert names(members) == {"cat"}


def test_what_somebody_else_has_signed_too_stays() -> None:
    members = membership(admin(ROOT, ANN), grant(ANN, BOB), grant(ROOT, BOB, serial=2), revocation(ROOT, ANN))
    assert names(members) == {"bob"}


def test_a_whole_branch_falls_with_its_admin() -> None:
    members = membership(admin(ROOT, ANN), admin(ANN, BOB), grant(BOB, CAT), revocation(ROOT, ANN))
    assert names(members) == set()


def test_a_revoked_admin_revokes_nobody() -> None:
    members = membership(admin(ROOT, ANN), grant(ROOT, BOB), revocation(ANN, BOB), revocation(ROOT, ANN))
    assert names(members) == {"bob"}


def test_a_revocation_outlives_the_term_of_the_admin_who_signed_it() -> None:
    """Else a stolen laptop comes back by itself one day."""
    end = WALL // SECOND + DAY
    members = membership(admin(ROOT, ANN, not_after=end), grant(ROOT, BOB), revocation(ANN, BOB))
    members.refresh((end + 2 * TOLERANCE) * SECOND)
    assert names(members) == set()
    assert BOB.id in members.revoked


def test_an_admin_does_not_put_out_another_by_granting_it_anew() -> None:
    members = membership(
        admin(ROOT, ANN), admin(ROOT, EVE), grant(EVE, ANN, serial=9, name="fool", static=EVE.static)
    )
    member = members.members[ANN.id]
    assert (member.name, member.static) == ("ann", ANN.static)
    assert member.roles & Role.ADMIN


def test_an_admin_makes_nobody_an_admin_whom_the_root_made_a_plain_member() -> None:
    members = membership(grant(ROOT, BOB), admin(ROOT, ANN), admin(ANN, BOB, serial=5), grant(BOB, CAT))
    assert not members.members[BOB.id].roles & Role.ADMIN
    assert CAT.id not in members.members


def test_the_root_takes_a_role_back() -> None:
    members = membership(admin(ROOT, ANN), grant(ANN, BOB), grant(ROOT, ANN, serial=2))
    assert not members.members[ANN.id].roles & Role.ADMIN
    assert names(members) == {"ann"}


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_grant_reaches_three_steps_from_the_root(depth: int) -> None:
    people = [ROOT, ANN, BOB, CAT, DAN]
    members = settled(admin(people[step], people[step + 1]) for step in range(depth))
    assert len(members.members) == min(depth, 3)
    last = people[min(depth, 3)]
    chain = members.chain(last.identity)
    assert len(chain) == min(depth, 3)
    assert [parse_statement_untrusted(raw).signer for raw in reversed(chain)] == [
        p.identity for p in people[: len(chain)]
    ]
    assert members.admin_level(last.identity) == min(depth, 3)


def test_an_admin_of_the_third_step_still_revokes() -> None:
    members = membership(admin(ROOT, ANN), admin(ANN, BOB), admin(BOB, CAT), grant(ROOT, DAN))
    assert refusal(members, grant(CAT, EVE)) == "signer unknown"
    members.add_untrusted(revocation(CAT, DAN), WALL)
    assert DAN.id not in members.members


def test_a_nearer_grant_lets_a_whole_branch_move_up() -> None:
    deep = [admin(ROOT, ANN), admin(ANN, BOB), admin(BOB, CAT)]
    members = membership(*deep)
    assert refusal(members, grant(CAT, DAN)) == "signer unknown"
    members.add_untrusted(admin(ROOT, BOB, serial=2), WALL)
    assert members.add_untrusted(grant(CAT, DAN), WALL) is not None
    assert DAN.id in members.members


# --- dates ------------------------------------------------------------------------------------------------------------


def test_a_grant_counts_between_its_dates_give_or_take_a_day() -> None:
    begin, end = WALL // SECOND + 10 * DAY, WALL // SECOND + 20 * DAY
    members = membership(grant(ROOT, ANN, not_before=begin, not_after=end))
    edges = [(begin - TOLERANCE - 1, False), (begin - TOLERANCE, True), (end + TOLERANCE - 1, True)]
    for second, counts in [*edges, (end + TOLERANCE, False)]:
        members.refresh(second * SECOND)
        assert (ANN.id in members.members) is counts


def test_the_next_change_is_when_a_grant_begins_or_ends_to_count() -> None:
    begin, end = WALL // SECOND + 10 * DAY, WALL // SECOND + 20 * DAY
    members = membership(
        grant(ROOT, ANN, not_before=begin, not_after=end), grant(ROOT, BOB, not_after=end + DAY)
    )
    assert members.next_change() == (begin - TOLERANCE) * SECOND
    members.refresh(begin * SECOND)
    assert members.next_change() == (end + TOLERANCE) * SECOND
    members.refresh((end + TOLERANCE) * SECOND)
    assert members.next_change() == (end + DAY + TOLERANCE) * SECOND
    assert membership(grant(ROOT, BOB)).next_change() is None


def test_a_clock_from_before_the_founding_keeps_nobody_out() -> None:
    assert ANN.id in membership(grant(ROOT, ANN), wall=0).members


def test_an_expired_admin_admits_nobody() -> None:
    end = WALL // SECOND + DAY
    members = membership(admin(ROOT, ANN, not_after=end), grant(ANN, BOB))
    assert names(members) == {"ann", "bob"}
    members.refresh((end + TOLERANCE) * SECOND)
    assert names(members) == set()


# --- succession -------------------------------------------------------------------------------------------------------


def test_a_successor_signs_as_the_root_does() -> None:
    heir, grandson = Person("heir"), Person("grandson")
    members = membership(
        admin(ROOT, BOB),
        succession(ROOT, heir),
        succession(heir, grandson),
        grant(grandson, ANN),
        revocation(heir, BOB),
    )
    assert names(members) == {"ann"}
    assert members.is_root(grandson.identity)
    assert members.chain(ANN.identity) == (
        grant(grandson, ANN),
        succession(heir, grandson),
        succession(ROOT, heir),
    )


def test_of_two_lines_to_a_root_everybody_takes_the_shorter() -> None:
    one, two = Person("one"), Person("two")
    story = [succession(ROOT, one), succession(one, two), succession(ROOT, two), grant(two, ANN)]
    for order in itertools.permutations(story):
        assert settled(order).chain(ANN.identity) == (grant(two, ANN), succession(ROOT, two))


def test_an_admin_names_no_successor() -> None:
    members = membership(admin(ROOT, ANN))
    assert refusal(members, succession(ANN, BOB)) == "signer unknown"
    assert not members.is_root(BOB.identity)


def test_an_admin_may_inherit() -> None:
    members = membership(admin(ROOT, ANN), admin(ANN, BOB), admin(BOB, CAT), succession(ROOT, ANN))
    assert members.is_root(ANN.identity)
    assert members.add_untrusted(grant(CAT, DAN), WALL) is not None
    assert members.add_untrusted(succession(ANN, EVE), WALL) is not None
    assert names(members) == {"ann", "bob", "cat", "dan"}


def test_roots_that_name_each_other_do_not_go_round_for_ever() -> None:
    heir = Person("heir")
    members = membership(
        succession(ROOT, heir), succession(heir, ROOT), grant(heir, ANN), grant(heir, ROOT), grant(ROOT, heir)
    )
    assert members.chain(ANN.identity) == (grant(heir, ANN), succession(ROOT, heir))


@pytest.mark.parametrize("number", range(8))
def test_what_is_stored_can_be_read_again(number: int) -> None:
    """Signers come before those they vouch for, also a root's successor (hashes differ with the names)."""
    heir = Person(f"heir {number}")
    members = membership(succession(ROOT, heir), admin(heir, ANN), grant(ANN, BOB), revocation(heir, CAT))
    again = membership(*members.statements())
    assert again.everything() == members.everything()
    assert again.members == members.members


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_an_admin_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STATEMENTS_PER_SIGNER", 3)
    members = membership(admin(ROOT, ANN), *(grant(ANN, Person(str(n))) for n in range(3)))
    assert refusal(members, grant(ANN, Person("3"))) == "too many statements"
    assert members.add_untrusted(grant(ANN, Person("2"), serial=2), WALL) is not None
    for number in range(5):
        assert members.add_untrusted(grant(ROOT, Person(f"root-{number}")), WALL) is not None


def test_a_crowd_of_admins_cannot_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STATEMENTS", 5)
    members = membership(admin(ROOT, ANN), admin(ANN, BOB), admin(ANN, CAT), grant(BOB, DAN))
    assert refusal(members, grant(CAT, EVE)) == "too many statements"
    assert members.add_untrusted(revocation(ROOT, ANN), WALL) is not None


def test_a_network_has_a_greatest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MEMBERS", 2)
    people = [ANN, BOB, CAT]
    members = membership(*(grant(ROOT, p, not_before=FOUNDED + n) for n, p in enumerate(people)))
    assert names(members) == {"ann", "bob"}


def test_as_much_of_a_chain_as_fits() -> None:
    chain = (bytes(100), bytes(MAX_STATEMENT), bytes(10))
    assert fitting(chain, 10_000) == chain
    assert fitting(chain, 100 + MAX_STATEMENT) == chain[:2]
    assert fitting(chain, 100 + MAX_STATEMENT - 1) == chain[:1]
    assert fitting(chain, 99) == ()


# --- order ------------------------------------------------------------------------------------------------------------


def verdict(members: Membership) -> object:
    """All that must not depend on the order of arrival."""
    return (
        set(members.everything()),
        members.members,
        list(members.members),
        members.revoked,
        members.next_change(),
        [members.chain(p.identity) for p in (ANN, BOB, CAT, DAN)],
        [members.is_root(p.identity) for p in (ANN, BOB, CAT, DAN)],
    )


CAST = (ROOT, ANN, BOB, CAT, DAN)
person = st.sampled_from(CAST)
statement = st.one_of(
    st.builds(
        grant,
        person,
        person,
        serial=st.integers(1, 3),
        roles=st.sampled_from([Role.NONE, Role.ADMIN]),
        not_before=st.sampled_from([FOUNDED, FOUNDED + 5, WALL // SECOND + 9 * DAY]),
        not_after=st.sampled_from([0, 0, FOUNDED + 7, WALL // SECOND + 10 * DAY]),
        name=st.sampled_from(["nas", "tv"]),
        ipv4=st.sampled_from([None, ADDRESS]),
    ),
    st.builds(revocation, person, person, at=st.integers(1, 3)),
    st.builds(succession, person, person),
    st.builds(record, person, sequence=st.integers(1, 3)),
)


@settings(max_examples=120, deadline=None)
@given(statements=st.lists(statement, max_size=14), data=st.data())
def test_the_order_of_arrival_does_not_matter(statements: list[bytes], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(statements))
    assert verdict(settled(statements)) == verdict(settled(shuffled))


@settings(max_examples=60, deadline=None)
@given(statements=st.lists(statement, max_size=14), data=st.data())
def test_union_of_two_halves(statements: list[bytes], data: st.DataObject) -> None:
    """Two partitions that each settled for themselves end up alike when they meet."""
    cut = data.draw(st.integers(0, len(statements)))
    here, there = settled(statements[:cut]), settled(statements[cut:])
    everything = [raw for part in (here, there) for raw in (*part.statements(), *part.records())]
    one = settled(everything)
    other = settled(reversed(everything))
    assert verdict(one) == verdict(other)


@settings(max_examples=60, deadline=None)
@given(statements=st.lists(statement, max_size=14))
def test_everybody_valid_has_a_chain_that_convinces_a_newcomer(statements: list[bytes]) -> None:
    members = settled(statements)
    for member in members.members.values():
        newcomer = membership()
        for raw in reversed(members.chain(member.identity)):
            newcomer.add_untrusted(raw, WALL)
        assert member.peer in newcomer.members


@settings(max_examples=60, deadline=None)
@given(statements=st.lists(statement, max_size=14))
def test_what_is_stored_is_in_an_order_that_can_be_read(statements: list[bytes]) -> None:
    members = settled(statements)
    assert membership(*members.statements()).members == members.members


def test_all_orders_of_a_small_story() -> None:
    story = [
        admin(ROOT, ANN),
        grant(ROOT, ANN, serial=2),
        grant(ANN, BOB),
        revocation(ANN, CAT),
        grant(ROOT, CAT),
    ]
    verdicts = [verdict(settled(order)) for order in itertools.permutations(story)]
    assert all(v == verdicts[0] for v in verdicts)


@settings(max_examples=150, deadline=None)
@given(raw=st.binary(max_size=520), position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_hostile_bytes(raw: bytes, position: int, bit: int) -> None:
    members = membership(admin(ROOT, ANN), grant(ANN, BOB))
    good = bytearray(grant(ANN, CAT))
    good[position % len(good)] ^= 1 << bit
    for attempt in (raw, bytes(good), bytes(good[: position % len(good)])):
        with pytest.raises(BadPacket):
            members.add_untrusted(attempt, WALL)
    assert names(members) == {"ann", "bob"}
