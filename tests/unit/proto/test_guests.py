"""Joiners at the inviter: one use, one member; the disk before the answer; and a guest may say one thing only."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.crypto.primitives import SODIUM
from meshnode.proto.constants import JOINER_TIME, JOINERS_AT_ONCE, SOURCE_RATE_PER_SECOND
from meshnode.proto.guests import provisional_id, redeem_proof
from meshnode.proto.invitations import InvitationTerms
from meshnode.proto.joiner import Joiner
from meshnode.proto.node import Node
from meshnode.values import SECOND, Endpoint, Opened, Path, PathKind, RawFrame, SaveState, Suite
from meshnode.wire.control import (
    Digest,
    EnrolledAnswer,
    Redeem,
    Refused,
    Statements,
    pack_control,
    parse_control_untrusted,
)
from meshnode.wire.frames import FRAME_HEADER, FrameType, Probe, ProbeMode
from meshnode.wire.header import MessageType
from meshnode.wire.state import parse_state_untrusted
from meshnode.wire.statement import Role, parse_statement_untrusted
from meshnode.wire.token import Token
from tests.unit.proto.joining import asking, controls, of_type, scene, wait
from tests.unit.proto.neighbours import LATENCY, Parcel, Station
from tests.unit.proto.people import Person

NOWHERE = Endpoint("203.0.113.77", 4655)
BOB, CAT = Person("bob"), Person("cat")


def members(station: Station) -> list[str]:
    return sorted(m.label for m in station.node.membership.members.values())


def guests(station: Station) -> int:
    return len(station.node._guests._guests)


def session_of(ann: Station, joiner: Person) -> int:
    """The index of the guest's session at the inviter."""
    guest = provisional_id(joiner.static)
    return next(index for index, (peer, _) in ann.plane.sessions.items() if peer == guest)


def say(
    ann: Station, joiner: Person, *frames: RawFrame, path: Path | None = None, index: int | None = None
) -> None:
    """Frames from inside a guest's session."""
    where = path or Path(PathKind.UDP, Endpoint("192.0.2.2", 4655))
    held = session_of(ann, joiner) if index is None else index
    ann.node.handle_frames(
        Opened(provisional_id(joiner.static), held, where, ann.now.boot, 0, 300, frames), ann.now
    )
    ann.settle()


def redemption(ann: Station, token: Token, joiner: Person, **changes: object) -> RawFrame:
    """The frame that redeems `token` in the joiner's session."""
    guest = ann.node._guests._guests[provisional_id(joiner.static)]
    proof = redeem_proof(token.network_id, joiner.static, guest.handshake_hash)
    message = Redeem(token.secret, joiner.identity, SODIUM.sign(joiner.seed, proof), joiner.name, False)
    return RawFrame(FrameType.CONTROL, 0, pack_control(replace(message, **changes)))  # type: ignore[arg-type]


def refusals(parcels: list[Parcel]) -> list[str]:
    found = []
    for parcel in controls(parcels, Refused):
        message = parse_control_untrusted(parcel.data[FRAME_HEADER.size :])
        assert isinstance(message, Refused)
        found.append(message.code)
    return found


# --- one use, one member ----------------------------------------------------------------------------------------------


def test_two_joiners_in_one_tick_for_one_use() -> None:
    street, ann, bob = scene()
    cat = street.station("cat")
    token = ann.invite()
    for joiner in (bob, cat):
        joiner.join(token)
    outcomes = [wait(street, joiner) for joiner in (bob, cat)]
    assert outcomes[0] == "enrolled"
    assert "used already" in str(outcomes[1])
    assert members(ann) == ["ann", "bob"]
    assert cat.disk == b""


def test_two_uses_are_for_two() -> None:
    street, ann, bob = scene()
    cat, dan = street.station("cat"), street.station("dan")
    token = ann.invite(InvitationTerms(uses=2))
    for joiner in (bob, cat, dan):
        joiner.join(token)
        wait(street, joiner)
    assert members(ann) == ["ann", "bob", "cat"]
    addresses = [m.ipv4 for m in ann.node.membership.members.values()]
    assert len(set(addresses)) == 3


def test_names_and_addresses_of_two_that_wait_for_the_disk_differ() -> None:
    street, ann, bob = scene()
    twin = street.station("twin")
    ann.disk_delay = 3 * SECOND
    token = ann.invite(InvitationTerms(uses=2))
    street.run(4 * SECOND)
    bob.join(token)
    twin.join(token)
    twin_joiner = twin.core
    assert isinstance(twin_joiner, Joiner)
    twin_joiner._name = "bob"
    wait(street, bob)
    wait(street, twin)
    assert members(ann) == ["ann", "bob", "bob-2"]


# --- the disk ---------------------------------------------------------------------------------------------------------


def test_nothing_is_answered_before_the_disk_has_it() -> None:
    street, ann, bob = scene()
    token = ann.invite()
    street.run(SECOND)
    ann.disk_delay = 2 * SECOND
    bob.join(token)
    street.run(SECOND)
    assert not controls(street.parcels, EnrolledAnswer)
    assert members(ann) == ["ann"]
    assert isinstance(bob.core, Joiner)
    assert wait(street, bob) == "enrolled"
    stored = parse_state_untrusted(ann.disk)
    assert len(stored.invitations[0].redeemed) == 1
    assert len(stored.statements) == 2


def test_a_disk_that_refuses_frees_the_use_and_people_are_told() -> None:
    street, ann, bob = scene()
    token = ann.invite()
    street.run(SECOND)
    ann.disk_error = "no space left on device"
    bob.join(token)
    assert "cannot store the grant" in str(wait(street, bob))
    assert members(ann) == ["ann"]
    assert any("no space left" in text for text in ann.notices())
    ann.disk_error = None
    cat = street.station("cat")
    cat.join(token)
    assert wait(street, cat) == "enrolled"


def test_a_disk_that_refuses_after_the_joiner_has_left() -> None:
    street, ann, bob = scene()
    token = ann.invite()
    street.run(SECOND)
    ann.disk_error, ann.disk_delay = "no space left on device", JOINER_TIME + 5 * SECOND
    bob.join(token)
    street.run(SECOND)
    bob.crash()
    street.run(JOINER_TIME + 10 * SECOND)
    assert guests(ann) == 0
    assert members(ann) == ["ann"]
    assert ann.node._guests.promises() == []


def test_a_grant_that_was_promised_to_somebody_who_left_counts() -> None:
    street, ann, bob = scene()
    token = ann.invite()
    street.run(SECOND)
    ann.disk_delay = JOINER_TIME + 5 * SECOND
    bob.join(token)
    street.run(SECOND)
    bob.crash()
    street.run(JOINER_TIME + 10 * SECOND)
    assert members(ann) == ["ann", "bob"]


def test_a_crash_between_the_disk_and_the_answer_burns_nothing() -> None:
    street, ann, bob = scene()
    token = ann.invite()
    street.run(SECOND)
    bob.join(token)
    street.run_until(
        lambda: bool(ann.events(SaveState)[-1:]) and bool(controls(street.parcels, Redeem)), SECOND
    )
    street.run_until(lambda: len(parse_state_untrusted(ann.disk).statements) == 2, SECOND)
    ann.crash()
    street.run(SECOND)
    ann.start()
    assert members(ann) == ["ann", "bob"]
    cat = street.station("cat")
    cat.join(token)
    assert "used already" in str(wait(street, cat))
    assert wait(street, bob) == "enrolled"
    assert ann.node.membership.next_serial(BOB.identity) == 2


def test_an_admin_that_is_revoked_while_the_disk_writes_lets_nobody_in_and_lives_on() -> None:
    street, ann, bob = scene()
    bob.join(ann.invite(InvitationTerms(roles=Role.ADMIN)))
    wait(street, bob)
    street.run(5 * SECOND)
    cat = street.station("cat")
    token = bob.invite()
    street.run(SECOND)
    bob.disk_delay = 2 * SECOND
    cat.join(token)
    street.run(SECOND)
    ann.node.revoke("bob", False, ann.now)
    ann.settle()
    assert "revoked" in str(wait(street, cat))
    assert members(ann) == ["ann"]


def test_who_is_no_admin_any_more_cannot_redeem_its_tokens() -> None:
    street, ann, bob = scene()
    bob.join(ann.invite(InvitationTerms(roles=Role.ADMIN)))
    wait(street, bob)
    street.run(5 * SECOND)
    token = bob.invite()
    ann.node.revoke("bob", False, ann.now)
    ann.settle()
    street.run(SECOND)
    cat = street.station("cat")
    cat.join(token)
    assert "no admin" in str(wait(street, cat))


# --- the same joiner --------------------------------------------------------------------------------------------------


def test_a_joiner_that_shakes_hands_again_while_the_disk_writes_gets_one_grant() -> None:
    street, ann, bob = scene()
    token = ann.invite()
    street.run(SECOND)
    ann.disk_delay = 5 * SECOND
    for _ in range(4):
        bob.join(token)
        street.run(SECOND)
    assert len(ann.node._guests.promises()) == 1
    assert wait(street, bob) == "enrolled"
    assert members(ann) == ["ann", "bob"]
    assert ann.node.membership.next_serial(BOB.identity) == 2


def test_who_was_revoked_is_told_so() -> None:
    street, ann, bob = scene()
    token = ann.invite(InvitationTerms(uses=2))
    bob.join(token)
    wait(street, bob)
    street.run(SECOND)
    ann.node.revoke("bob", False, ann.now)
    ann.settle()
    bob.outcome = None
    street.parcels.clear()
    bob.join(token)
    assert "revoked" in str(wait(street, bob))
    assert not controls(street.parcels, EnrolledAnswer)
    other = street.station("other")
    other.person, other.config = bob.person, bob.config
    other.join(ann.invite(), name="again")
    assert "revoked" in str(wait(street, other))


# --- strangers --------------------------------------------------------------------------------------------------------


def test_who_names_an_invitation_that_there_is_not_gets_no_answer() -> None:
    street, ann, bob = scene()
    token = replace(ann.invite(), secret=bytes(16))
    bob.join(token)
    street.run(5 * SECOND)
    assert ann.node.counters["drop invitation unknown"] > 0
    assert [p for p in street.parcels if p.source == ann.endpoint] == []


def test_a_replayed_initiation_gets_no_answer() -> None:
    street, ann, bob = scene()
    asking(street, ann, bob)
    initiation = of_type(street.parcels, MessageType.INITIATION)[0]
    answers = len(of_type(street.parcels, MessageType.RESPONSE))
    ann.receive(initiation)
    ann.receive(Parcel(NOWHERE, ann.endpoint, initiation.data))
    assert ann.node.counters["drop initiation replayed"] == 2
    assert len(of_type(street.parcels, MessageType.RESPONSE)) == answers


def test_a_joiner_without_a_common_suite() -> None:
    street, ann, bob = scene()
    bob.config = replace(bob.config, suites=(Suite.AES_256_GCM,))
    bob.join(ann.invite())
    street.run(SECOND)
    assert ann.node.counters["drop no common suite"] > 0
    assert guests(ann) == 0


def test_the_proof_must_be_by_the_identity_that_is_to_be_granted() -> None:
    street, ann, bob = scene()
    asking(street, ann, bob)
    token = _open_token(bob)
    before = len(ann.events(SaveState))
    say(ann, BOB, redemption(ann, token, BOB, identity=CAT.identity))
    say(ann, BOB, redemption(ann, token, BOB, signature=bytes(64)))
    assert ann.node.counters["drop redeem proof"] == 2
    assert len(ann.events(SaveState)) == before
    assert "cat" not in members(ann)


def _open_token(bob: Station) -> Token:
    assert isinstance(bob.core, Joiner)
    return bob.core._token


def test_a_wrong_secret_is_refused_and_costs_one_line_in_the_log() -> None:
    street, ann, bob = scene()
    asking(street, ann, bob)
    token = _open_token(bob)
    lines = len(ann.notices())
    for _ in range(5):
        say(ann, BOB, redemption(ann, token, BOB, secret=bytes(16)))
    assert refusals(street.parcels) == ["unknown"] * 5
    assert len(ann.notices()) == lines + 1
    assert ann.node.counters["join refused unknown"] == 5


def test_an_expired_token_is_refused_inside_the_seal() -> None:
    street, ann, bob = scene()
    token = ann.invite(InvitationTerms(expires=3600 * SECOND))
    ann.wall_offset = bob.wall_offset = 3601 * SECOND
    bob.join(token)
    assert "expired" in str(wait(street, bob))


def test_the_answer_goes_where_the_handshake_was_whatever_source_a_redemption_claims() -> None:
    street, ann, bob = scene()
    asking(street, ann, bob)
    street.parcels.clear()
    elsewhere = Path(PathKind.UDP, NOWHERE)
    say(ann, BOB, redemption(ann, _open_token(bob), BOB), path=elsewhere)
    street.run(SECOND)
    assert controls(street.parcels, EnrolledAnswer)
    assert [p for p in street.parcels if p.target == NOWHERE] == []


def test_a_redemption_in_a_former_session_is_dropped() -> None:
    street, ann, bob = scene()
    asking(street, ann, bob)
    frame = redemption(ann, _open_token(bob), BOB)
    say(ann, BOB, frame, index=12345)
    assert ann.node.counters["drop redeem in a former session"] == 1


FORBIDDEN = [
    RawFrame(FrameType.PROBE, 0, Probe(bytes(8), ProbeMode.LIVENESS).pack()),
    RawFrame(FrameType.PACKET, 0, bytes(40)),
    RawFrame(FrameType.RELAY, 0, bytes(80)),
    RawFrame(FrameType.CONTROL, 0, pack_control(Digest(bytes(16), 3))),
    RawFrame(FrameType.CONTROL, 0, pack_control(Statements(()))),
    RawFrame(FrameType.CONTROL, 0, b"junk"),
    RawFrame(99, 0, b""),
]


@pytest.mark.parametrize("frame", FORBIDDEN, ids=range(len(FORBIDDEN)))
def test_a_guest_may_say_nothing_but_redeem(frame: RawFrame) -> None:
    street, ann, bob = scene()
    asking(street, ann, bob)
    street.run(5 * SECOND)
    street.parcels.clear()
    before = sum(count for name, count in ann.node.counters.items() if name.startswith("drop "))
    say(ann, BOB, frame)
    assert sum(count for name, count in ann.node.counters.items() if name.startswith("drop ")) == before + 1
    assert [p for p in street.parcels if p.source == ann.endpoint] == []


@settings(max_examples=60, deadline=None)
@given(bodies=st.lists(st.tuples(st.integers(0, 12), st.binary(max_size=200)), max_size=5))
def test_whatever_a_guest_says(bodies: list[tuple[int, bytes]]) -> None:
    street, ann, bob = scene()
    asking(street, ann, bob)
    say(ann, BOB, *(RawFrame(type_, 0, body) for type_, body in bodies))
    street.run(SECOND)
    assert guests(ann) <= 1


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_a_guest_is_shown_out_after_a_minute() -> None:
    street, ann, bob = scene()
    bob.join(ann.invite())
    wait(street, bob)
    bob.crash()
    street.run(JOINER_TIME + SECOND)
    assert guests(ann) == 0
    assert not [peer for peer, _ in ann.plane.sessions.values() if peer == provisional_id(BOB.static)]


def test_a_crowd_with_one_token_fills_no_table_and_harms_no_member() -> None:
    street, ann, bob = scene()
    bob.join(ann.invite())
    wait(street, bob)
    street.run(5 * SECOND)
    token = ann.invite(InvitationTerms(uses=3))
    crowd = [street.station(f"host-{number}") for number in range(3 * JOINERS_AT_ONCE)]
    for number, joiner in enumerate(crowd):
        joiner.join(token, endpoints=[ann.endpoint])
        if number % (SOURCE_RATE_PER_SECOND // 4) == 0:
            street.run(SECOND // 4)
        assert guests(ann) <= JOINERS_AT_ONCE
        assert len(ann.plane.sessions) <= JOINERS_AT_ONCE + 4
    street.run(5 * SECOND)
    assert len([j for j in crowd if isinstance(j.core, Node)]) == 3
    assert len(members(ann)) == 5
    assert "bob" in ann.up()
    street.run(2 * JOINER_TIME)
    assert guests(ann) == 0
    assert len(ann.node._context.indices) == len(ann.plane.sessions)


def test_a_provisional_name_is_no_members() -> None:
    assert provisional_id(BOB.static) != BOB.id
    assert provisional_id(BOB.static) != provisional_id(CAT.static)


def test_the_answer_is_the_whole_chain_and_ours() -> None:
    street, ann, bob = scene()
    bob.join(ann.invite(InvitationTerms(roles=Role.ADMIN)))
    wait(street, bob)
    street.run(2 * LATENCY)
    cat = street.station("cat")
    cat.join(bob.invite())
    wait(street, cat)
    answer = controls([p for p in street.parcels if p.target == cat.endpoint], EnrolledAnswer)[0]
    message = parse_control_untrusted(answer.data[FRAME_HEADER.size :])
    assert isinstance(message, EnrolledAnswer)
    subjects = [getattr(parse_statement_untrusted(raw).body, "subject", None) for raw in message.statements]
    assert subjects == [None, BOB.identity, CAT.identity]
