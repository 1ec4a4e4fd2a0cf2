"""Invitations: so many uses, one redemption per joiner, and the disk before the answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.proto import invitations as module
from meshnode.proto.constants import MAX_INVITATIONS, TIMESTAMPS_PER_INVITATION
from meshnode.proto.invitations import (
    Invitations,
    InvitationTerms,
    Refusal,
    invitation_id,
    invitation_psk,
    redeem_hash,
)
from meshnode.values import SECOND
from tests.unit.proto.people import WALL, Person

DAY = 86_400 * SECOND
SECRET, OTHER = bytes(range(16)), bytes(16)
ANN, BOB, CAT = (Person(name) for name in ("ann", "bob", "cat"))
ID = invitation_id(SECRET)


def opened(uses: int = 1, expires: int = DAY) -> Invitations:
    invitations = Invitations(())
    invitations.add(SECRET, InvitationTerms(uses=uses, expires=expires), WALL)
    return invitations


def reserve(invitations: Invitations, person: Person, secret: bytes = SECRET, wall: int = WALL) -> bool:
    return invitations.reserve(ID, secret, person.identity, person.static, wall)


def redeem(invitations: Invitations, person: Person) -> None:
    assert reserve(invitations, person)
    invitations.commit(ID, person.identity)


def refused(invitations: Invitations, person: Person, secret: bytes = SECRET, wall: int = WALL) -> str:
    with pytest.raises(Refusal) as caught:
        reserve(invitations, person, secret, wall)
    assert str(caught.value) == caught.value.text
    assert "\n" not in caught.value.text
    return caught.value.code


def test_the_inviter_keeps_no_secret() -> None:
    invitation = opened().find(ID)
    assert invitation is not None
    assert (invitation.id, invitation.psk) == (invitation_id(SECRET), invitation_psk(SECRET))
    assert invitation.redeem == redeem_hash(SECRET)
    assert SECRET.hex() not in repr(invitation)
    assert len({invitation_id(SECRET), invitation_psk(SECRET)[:16], redeem_hash(SECRET)[:16]}) == 3


def test_the_secret_has_to_be_right() -> None:
    invitations = opened()
    assert refused(invitations, ANN, OTHER) == "unknown"
    assert Invitations(()).find(ID) is None
    assert refused(Invitations(()), ANN) == "unknown"
    assert reserve(invitations, ANN)


def test_two_joiners_in_one_tick_for_one_use() -> None:
    invitations = opened()
    assert reserve(invitations, ANN)
    assert refused(invitations, BOB) == "used"
    invitations.commit(ID, ANN.identity)
    assert refused(invitations, BOB) == "used"


def test_the_same_joiner_gets_the_same_answer_for_ever() -> None:
    invitations = opened()
    redeem(invitations, ANN)
    assert not reserve(invitations, ANN)
    assert not reserve(invitations, ANN, wall=WALL + 2 * DAY)
    stranger_with_her_identity = invitations.reserve
    with pytest.raises(Refusal):
        stranger_with_her_identity(ID, SECRET, ANN.identity, BOB.static, WALL)


def test_uses_count_keys() -> None:
    invitations = opened(uses=2)
    redeem(invitations, ANN)
    assert not reserve(invitations, ANN)
    redeem(invitations, BOB)
    assert refused(invitations, CAT) == "used"


def test_a_disk_that_refuses_frees_the_use() -> None:
    invitations = opened()
    assert reserve(invitations, ANN)
    invitations.release(ID, ANN.identity)
    invitations.release(ID, ANN.identity)
    redeem(invitations, BOB)


def test_after_its_end_nobody_new_gets_in() -> None:
    invitations = opened()
    assert refused(invitations, ANN, wall=WALL + DAY) == "expired"
    assert reserve(invitations, ANN, wall=WALL + DAY - 1)


def test_a_day_after_its_end_it_is_forgotten() -> None:
    invitations = opened()
    redeem(invitations, ANN)
    assert invitations.fresh_timestamp(ID, ANN.static, 1)
    invitations.expire(WALL + 2 * DAY - 1)
    assert len(invitations) == 1
    invitations.expire(WALL + 2 * DAY)
    assert len(invitations) == 0
    assert refused(invitations, ANN) == "unknown"


def test_it_may_expire_while_the_disk_is_writing() -> None:
    invitations = opened()
    assert reserve(invitations, ANN)
    invitations.expire(WALL + 2 * DAY)
    invitations.commit(ID, ANN.identity)
    assert len(invitations) == 0


def test_a_reserved_use_is_used_on_disk() -> None:
    """A crash between the disk and the answer must not free it for somebody else."""
    invitations = opened()
    assert reserve(invitations, ANN)
    after_a_crash = Invitations(invitations.stored())
    assert refused(after_a_crash, BOB) == "used"
    assert not reserve(after_a_crash, ANN)
    invitations.commit(ID, ANN.identity)
    assert invitations.stored() == after_a_crash.stored()


def test_the_number_of_open_invitations_has_a_bound() -> None:
    invitations = Invitations(())
    for number in range(MAX_INVITATIONS):
        invitations.add(number.to_bytes(16, "big"), InvitationTerms(expires=DAY), WALL)
    with pytest.raises(Refusal) as caught:
        invitations.add(SECRET, InvitationTerms(), WALL)
    assert caught.value.code == "too-many"
    invitations.add(SECRET, InvitationTerms(), WALL + 2 * DAY)
    assert len(invitations) == 1


# --- timestamps -------------------------------------------------------------------------------------------------------


def test_a_joiners_initiation_counts_once() -> None:
    invitations = opened()
    assert invitations.fresh_timestamp(ID, ANN.static, 5)
    assert not invitations.fresh_timestamp(ID, ANN.static, 5)
    assert not invitations.fresh_timestamp(ID, ANN.static, 4)
    assert invitations.fresh_timestamp(ID, BOB.static, 3)
    assert invitations.fresh_timestamp(ID, ANN.static, 6)
    assert not invitations.fresh_timestamp(ID, BOB.static, 0)


@settings(max_examples=60, deadline=None)
@given(sent=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=80))
def test_no_initiation_is_taken_twice_though_the_table_is_small(sent: list[tuple[int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TIMESTAMPS_PER_INVITATION", 3)
        invitations = opened()
        taken = [
            (who, when) for who, when in sent if invitations.fresh_timestamp(ID, bytes([who]) * 32, when)
        ]
    assert len(taken) == len(set(taken))


def test_the_table_of_timestamps_has_a_bound() -> None:
    invitations = opened()
    for number in range(4 * TIMESTAMPS_PER_INVITATION):
        invitations.fresh_timestamp(ID, number.to_bytes(32, "big"), 1 + number)
    assert len(invitations._timestamps[ID]._greatest) <= TIMESTAMPS_PER_INVITATION
