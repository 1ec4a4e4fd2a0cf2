"""From a token to a stored state: what is sent, what is believed, and when it ends."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.proto.constants import (
    EARLY_RETRIES,
    ENROLMENT_TIME,
    REDEEM_INTERVAL,
    REDEEMS_PER_SESSION,
    REKEY_TIMEOUT,
)
from meshnode.proto.invitations import InvitationTerms
from meshnode.proto.joiner import Joiner
from meshnode.proto.node import Node
from meshnode.values import SECOND, Endpoint, LinkChanged, Opened, Path, PathKind, RawFrame
from meshnode.wire.control import (
    ControlMessage,
    Digest,
    EnrolledAnswer,
    GoodbyeMessage,
    Redeem,
    Refused,
    Statements,
    pack_control,
)
from meshnode.wire.frames import FrameType
from meshnode.wire.header import MessageType
from meshnode.wire.state import parse_state_untrusted
from meshnode.wire.statement import Genesis, Role
from tests.unit.proto.joining import asking, controls, of_type, scene, wait
from tests.unit.proto.neighbours import LATENCY, Parcel, Station
from tests.unit.proto.people import Person, grant, sign

NOWHERE = Endpoint("203.0.113.77", 4655)


def tell(joiner: Station, *messages: ControlMessage) -> None:
    """An answer from inside the session."""
    assert joiner.core is not None
    peer, keys = next(iter(joiner.plane.sessions.values()))
    frames = tuple(RawFrame(FrameType.CONTROL, 0, pack_control(message)) for message in messages)
    path = Path(PathKind.UDP, Endpoint("192.0.2.1", 4655))
    joiner.core.handle_frames(
        Opened(peer, keys.local_index, path, joiner.now.boot, 0, 500, frames), joiner.now
    )
    joiner.settle()


# --- the good case ----------------------------------------------------------------------------------------------------


def test_a_token_makes_a_member() -> None:
    street, ann, bob = scene()
    bob.join(ann.invite())
    assert wait(street, bob) == "enrolled"
    assert isinstance(bob.core, Node)
    street.run(SECOND)
    assert (ann.up(), bob.up()) == (["bob"], ["ann"])
    state = parse_state_untrusted(bob.disk)
    assert state.endpoints[0] == (ann.person.id, (ann.endpoint,))


def test_two_round_trips_and_the_disk_are_all_it_takes() -> None:
    street, ann, bob = scene()
    start = street.time
    bob.join(ann.invite())
    street.run_until(lambda: bob.outcome is not None, SECOND)
    assert street.time - start == 4 * LATENCY


def test_the_inviter_may_be_an_admin_whom_the_founder_let_in() -> None:
    street, ann, bob = scene()
    bob.join(ann.invite(InvitationTerms(roles=Role.ADMIN)))
    wait(street, bob)
    ann.crash()
    cat = street.station("cat")
    cat.join(bob.invite())
    assert wait(street, cat) == "enrolled"
    street.run(SECOND)
    assert cat.up() == ["bob"]


def test_all_addresses_of_the_token_are_tried_at_once() -> None:
    street, ann, bob = scene()
    bob.join(ann.invite(), endpoints=[NOWHERE, ann.endpoint, NOWHERE])
    assert [p.target for p in of_type(street.parcels, MessageType.INITIATION)] == [NOWHERE, ann.endpoint]
    assert wait(street, bob) == "enrolled"


# --- what is lost is sent again ---------------------------------------------------------------------------------------


def test_initiations_are_repeated_with_growing_timestamps_though_the_clock_goes_back() -> None:
    street, ann, bob = scene()
    token = ann.invite()
    street.drops = lambda p: p.source == ann.endpoint
    bob.join(token)
    street.run(2 * SECOND)
    bob.wall_offset = -3600 * SECOND
    street.drops = lambda p: False
    assert wait(street, bob) == "enrolled"
    assert ann.node.counters["drop initiation replayed"] == 0


def test_the_pace_of_retries() -> None:
    street, ann, bob = scene()
    token = ann.invite()
    ann.crash()
    start = street.time
    times: list[int] = []
    street.drops = lambda p: bool(times.append(street.time - start) or True)  # type: ignore[func-returns-value]
    bob.join(token)
    street.run(ENROLMENT_TIME)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert gaps[:4] == [*EARLY_RETRIES, REKEY_TIMEOUT, REKEY_TIMEOUT]


def test_a_lost_answer_is_asked_for_again_and_burns_nothing() -> None:
    street, ann, bob = scene()
    lost: list[Parcel] = []

    def drop(parcel: Parcel) -> bool:
        if controls([parcel], EnrolledAnswer) and len(lost) < 2:
            lost.append(parcel)
            return True
        return False

    street.drops = drop
    bob.join(ann.invite())
    assert wait(street, bob) == "enrolled"
    assert len(lost) == 2
    assert len(ann.node.membership.members) == 2
    assert ann.node.membership.next_serial(bob.person.identity) == 2


def test_when_only_the_inviters_own_chain_is_lost_it_asks_again() -> None:
    """The chain of an admin comes in a message of its own."""
    street, ann, bob = scene()
    bob.join(ann.invite(InvitationTerms(roles=Role.ADMIN)))
    wait(street, bob)
    lost: list[Parcel] = []

    def drop(parcel: Parcel) -> bool:
        if controls([parcel], Statements) and parcel.source == ann.endpoint and not lost:
            lost.append(parcel)
            return True
        return False

    cat = street.station("cat")
    token = ann.invite()
    street.run(SECOND)
    street.drops = lambda p: drop(p) if p.target == cat.endpoint else False
    cat.join(token)
    assert wait(street, cat) == "enrolled"
    assert isinstance(cat.core, Node)
    assert lost


def test_an_inviter_that_has_restarted_is_asked_from_the_beginning() -> None:
    street, ann, bob = scene()
    token = ann.invite()
    street.run(SECOND)
    bob.join(token)
    street.run_until(lambda: bool(of_type(street.parcels, MessageType.RESPONSE)), SECOND)
    ann.crash()
    street.run(SECOND)
    ann.start()
    assert wait(street, bob) == "enrolled"
    redeems = controls(street.parcels, Redeem)
    assert len(redeems) == REDEEMS_PER_SESSION + 1
    assert len(bob.plane.sessions) <= 2


def test_a_slow_disk_is_waited_for_across_handshakes() -> None:
    street, ann, bob = scene()
    token = ann.invite()
    street.run(SECOND)
    ann.disk_delay = (REDEEMS_PER_SESSION + 3) * REDEEM_INTERVAL
    bob.join(token)
    assert wait(street, bob) == "enrolled"
    assert len(of_type(street.parcels, MessageType.INITIATION)) >= 2
    assert ann.node.membership.next_serial(bob.person.identity) == 2
    assert ann.node.membership.members[bob.person.id].name == "bob"


# --- the end ----------------------------------------------------------------------------------------------------------


def test_nobody_answers() -> None:
    street, ann, bob = scene()
    token = ann.invite()
    ann.crash()
    start = street.time
    bob.join(token)
    outcome = wait(street, bob)
    assert street.time - start <= ENROLMENT_TIME + SECOND
    assert outcome is not None
    assert str(ann.endpoint) in outcome
    assert bob.core is not None
    assert bob.core.poll_timeout() is None
    assert bob.disk == b""


def test_a_token_without_addresses_says_so() -> None:
    street, ann, bob = scene()
    token = replace(ann.invite(), endpoints=())
    bob.join(token)
    assert "any endpoint of the token" in str(wait(street, bob))


def test_a_refusal_is_told_as_it_came() -> None:
    street, ann, bob = scene()
    bob.join(ann.invite(), name="ann")
    assert wait(street, bob) == "the name ann is taken: choose another with --name"
    assert bob.disk == b""


def test_after_the_end_nothing_wakes_it() -> None:
    street, ann, bob = scene()
    joiner = asking(street, ann, bob)
    tell(bob, Digest(bytes(16), 1), GoodbyeMessage("bye"))
    tell(bob, Refused("used", "no"), Refused("used", "and no again"), Statements(()))
    assert bob.outcome == "no"
    assert joiner.poll_timeout() is None
    joiner.handle_command(LinkChanged(), bob.now)
    joiner.handle_traffic([], bob.now)
    joiner.handle_timeout(bob.now)
    assert joiner.poll_timeout() is None


def test_a_cookie_is_used_at_once_and_only_by_whom_it_is_for() -> None:
    street, ann, bob = scene()
    token = ann.invite()
    ann.node._guard._loaded_until = ann.now.boot + 5 * SECOND
    bob.join(token)
    street.run_until(lambda: bool(of_type(street.parcels, MessageType.COOKIE)), SECOND)
    cookie = of_type(street.parcels, MessageType.COOKIE)[0]
    street.run_until(lambda: bob.outcome == "enrolled", SECOND)
    assert len(of_type(street.parcels, MessageType.INITIATION)) == 2
    ann.crash()
    cat = street.station("cat")
    cat.join(token)
    street.run(LATENCY)
    cat.receive(cookie)
    assert cat.core is not None
    assert cat.core.counters["drop bad tag"] == 1


def test_a_late_cookie_does_not_bring_it_back_to_life() -> None:
    street, ann, bob = scene()
    token = ann.invite()
    street.drops = lambda p: p.source == ann.endpoint
    ann.node._guard._loaded_until = ann.now.boot + 60 * SECOND
    bob.join(token)
    wait(street, bob)
    assert bob.core is not None
    bob.receive(of_type(street.parcels, MessageType.COOKIE)[-1])
    assert bob.core.poll_timeout() is None


def test_a_key_that_is_none() -> None:
    street, ann, bob = scene()
    bob.join(replace(ann.invite(), static=bytes(32)))
    assert "tampered" in str(wait(street, bob))


# --- what is believed -------------------------------------------------------------------------------------------------


def test_an_answer_must_verify_up_to_the_root_that_the_token_names() -> None:
    street, ann, bob = scene()
    joiner = asking(street, ann, bob)
    genesis = ann.node.membership.genesis_statement
    eve = Person("eve")
    elsewhere = sign(Genesis(eve.identity, 1, (bytes(4), 8), "home"), eve)
    mine, anns = grant(Person("root"), bob.person), grant(Person("root"), ann.person)
    answers = {
        "enrolled empty": EnrolledAnswer(()),
        "enrolled elsewhere": EnrolledAnswer((elsewhere, mine)),
        "signature": EnrolledAnswer((genesis[:-1] + bytes([genesis[-1] ^ 1]), mine)),
        "signer unknown": EnrolledAnswer((genesis, grant(eve, bob.person))),
        "enrolled without a grant": EnrolledAnswer((genesis, anns)),
        "enrolled without the inviter": EnrolledAnswer((genesis, mine)),
    }
    for reason, answer in answers.items():
        tell(bob, answer)
        assert joiner.counters[f"drop {reason}"] == 1
    tell(bob, EnrolledAnswer((mine, genesis)))
    assert joiner.counters["drop enrolled elsewhere"] == 2
    assert bob.outcome is None
    tell(bob, Statements((anns,)), EnrolledAnswer((genesis, mine)))
    assert bob.outcome == "enrolled"


def test_a_grant_of_our_static_key_to_somebody_else_is_not_ours() -> None:
    street, ann, bob = scene()
    joiner = asking(street, ann, bob)
    stolen = grant(Person("root"), Person("eve"), static=bob.person.static)
    genesis = ann.node.membership.genesis_statement
    tell(bob, Statements((grant(Person("root"), ann.person),)), EnrolledAnswer((genesis, stolen)))
    assert joiner.counters["drop enrolled without a grant"] == 1


def test_only_the_answer_to_the_initiation_in_flight_is_read() -> None:
    street, ann, bob = scene()
    token = ann.invite()
    street.drops = lambda p: p.source == ann.endpoint
    bob.join(token)
    street.run(2 * SECOND)
    responses = of_type(street.parcels, MessageType.RESPONSE)
    assert len(responses) == 2
    assert bob.core is not None
    bob.receive(responses[0])
    assert bob.core.counters["drop index"] == 1
    bob.receive(responses[1])
    bob.receive(responses[1])
    assert bob.core.counters["drop response unasked"] == 1


@settings(max_examples=80, deadline=None)
@given(
    data=st.binary(max_size=300), cut=st.integers(0, 200), bit=st.integers(0, 3000), type_=st.integers(0, 9)
)
def test_hostile_bytes(data: bytes, cut: int, bit: int, type_: int) -> None:
    street, ann, bob = scene()
    token = ann.invite()
    street.drops = lambda p: p.source == ann.endpoint
    bob.join(token)
    street.run(SECOND // 2)
    joiner = bob.core
    assert isinstance(joiner, Joiner)
    response = of_type(street.parcels, MessageType.RESPONSE)[0].data
    flipped = bytearray(response)
    flipped[bit // 8 % len(flipped)] ^= 1 << bit % 8
    path = Path(PathKind.UDP, ann.endpoint)
    initiation = of_type(street.parcels, MessageType.INITIATION)[0].data
    for datagram in (
        initiation,
        data,
        bytes([2, 1, 0, 0]) + data,
        bytes([3, 1, 0, 0]) + data,
        response[:cut],
        bytes(flipped),
    ):
        joiner.handle_datagram(datagram, path, bob.now)
    frame = RawFrame(type_, 0, data)
    joiner.handle_frames(Opened(ann.person.id, 1, path, bob.now.boot, 0, 99, (frame,)), bob.now)
    bob.settle()
    assert bob.outcome is None
