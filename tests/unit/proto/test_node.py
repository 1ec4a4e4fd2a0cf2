"""The node as a whole: whoever sends what, it lives; members come, change and go; what has to survive is on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.crypto.primitives import SODIUM, keyed_hash
from meshnode.proto.constants import (
    MAX_CHAIN_BYTES,
    RECORD_GAP,
    RECORD_INTERVAL,
    TIMESTAMP_TOLERANCE,
)
from meshnode.proto.guard import Bucket, CookieJar, mac1_key
from meshnode.proto.handshake import InitiatorExchange, Secrets
from meshnode.proto.invitations import InvitationTerms, Refusal
from meshnode.proto.node import HOUSEKEEPING, SAVE_DELAY, Node
from meshnode.values import (
    MILLISECOND,
    SECOND,
    Capability,
    Endpoint,
    LinkChanged,
    LocalEndpoints,
    MembershipChanged,
    Opened,
    Path,
    PathKind,
    RawFrame,
    SaveState,
    StateSaved,
    Suite,
    TrafficNote,
    Unsendable,
)
from meshnode.wire.control import (
    Buckets,
    Digest,
    EnrolledAnswer,
    GoodbyeMessage,
    Punch,
    Redeem,
    Refused,
    Statements,
    Summary,
    Want,
    pack_control,
)
from meshnode.wire.frames import (
    Echo,
    FrameType,
    Probe,
    ProbeMode,
    Relay,
)
from meshnode.wire.handshake import InitiationPayload, prologue
from meshnode.wire.header import MAX_INITIATION, MessageType
from meshnode.wire.state import StoredState, pack_state, parse_state_untrusted
from meshnode.wire.statement import Role
from tests.unit.proto.entropy import Dice
from tests.unit.proto.joining import of_type
from tests.unit.proto.neighbours import LATENCY, Parcel, Station, Street
from tests.unit.proto.people import GENESIS, NETWORK, ROOT, Person, admin, grant, record, revocation

NOWHERE = Path(PathKind.UDP, Endpoint("203.0.113.77", 4655))
EVE = Person("eve")
DAY = 86_400


def pair(name: str = "") -> tuple[Street, Station, Station]:
    street = Street(name)
    ann, bob = street.grow("ann", "bob")
    street.run(70 * SECOND)
    street.parcels.clear()
    return street, ann, bob


def learn(station: Station, *statements: bytes) -> None:
    """Statements that came by gossip from somebody."""
    for raw in statements:
        station.node.membership.add_untrusted(raw, station.now.wall)
    station.node._sync_members(station.now)
    station.settle()


def labels(station: Station) -> list[str]:
    return sorted(m.label for m in station.node.membership.members.values())


def initiation(
    station: Station,
    person: Person,
    grants: tuple[bytes, ...] = (),
    timestamp: int | None = None,
    suites: tuple[Suite, ...] = (Suite.CHACHA20_POLY1305,),
    index: int = 77,
) -> bytes:
    """A whole message 1 from `person` to a station."""
    exchange = InitiatorExchange(
        Secrets(SODIUM, prologue(NETWORK), person.static_secret), station.person.static, index
    )
    when = station.now.wall if timestamp is None else timestamp
    payload = InitiationPayload(when, 0, Capability.NONE, suites, grants)
    body = exchange.write(payload, Dice(f"{person.name} {when}").token(32))
    return CookieJar(SODIUM, NETWORK, station.person.static).seal_macs(body, NOWHERE, 0)


def drops(station: Station) -> int:
    counters = station.node.counters.items()
    return sum(count for name, count in counters if name.startswith("drop "))


# --- beginning --------------------------------------------------------------------------------------------------------


def test_a_state_without_our_grant_is_refused() -> None:
    _, ann, _ = pair()
    foreign = StoredState(GENESIS, (grant(ROOT, Person("zoe")),))
    with pytest.raises(ValueError, match="no grant"):
        Node(ann.config, foreign, SODIUM, Dice("node"), ann.now)


def test_what_is_stored_brings_the_node_back_as_it_was() -> None:
    street, ann, bob = pair()
    state = parse_state_untrusted(pack_state(ann.node.stored_state()))
    again = Node(ann.config, state, SODIUM, Dice("again"), ann.now)
    assert again.membership.everything().keys() == ann.node.membership.everything().keys()
    assert again.membership.members == ann.node.membership.members
    assert state.endpoints == ((bob.person.id, (bob.endpoint,)),)
    assert dict(state.timestamps) == {
        p.member.static: p.greatest_timestamp for p in ann.node.peers.values() if p.greatest_timestamp
    }
    assert bob.node.stored_state().own_timestamp > bob.now.wall
    assert [p.id for p in again.peers.values()] == [bob.person.id]
    street.run(SECOND)


def test_a_damaged_statement_on_disk_is_left_out_and_the_rest_serves() -> None:
    _, ann, bob = pair()
    state = ann.node.stored_state()
    bad = grant(EVE, Person("friend"))
    again = Node(
        ann.config, replace(state, statements=(bad, *state.statements)), SODIUM, Dice("again"), ann.now
    )
    assert set(again.peers) == {bob.person.id}


def test_after_a_restart_the_others_are_found_without_being_told() -> None:
    street, ann, bob = pair()
    for station in (ann, bob):
        station.crash()
    for station in (ann, bob):
        station.start()
    street.run(SECOND)
    assert (ann.up(), bob.up()) == (["bob"], ["ann"])


def test_two_runs_with_the_same_dice_do_the_same() -> None:
    histories = []
    for _ in range(2):
        street, ann, bob = pair("again")
        ann.talk(bob, 3)
        bob.stop()
        street.run(30 * SECOND)
        histories.append([(p.source, p.target, p.data) for p in street.parcels])
    assert histories[0] == histories[1]


# --- strangers --------------------------------------------------------------------------------------------------------


def test_a_stranger_gets_no_answer() -> None:
    street, ann, _ = pair()
    ann.node.handle_datagram(initiation(ann, EVE), NOWHERE, ann.now)
    ann.settle()
    assert ann.node.counters["drop stranger"] == 1
    assert street.parcels == []


def test_ourselves_are_a_stranger_to_us() -> None:
    _street, ann, _ = pair()
    ann.node.handle_datagram(initiation(ann, ann.person), NOWHERE, ann.now)
    assert ann.node.counters["drop stranger"] == 1


def test_members_that_never_heard_of_each_other_meet_by_their_chains() -> None:
    street, ann, _ = pair()
    chief, eve = Person("chief"), EVE
    chain = (grant(chief, eve), admin(ROOT, chief))
    ann.node.handle_datagram(initiation(ann, eve, chain), NOWHERE, ann.now)
    ann.settle()
    assert labels(ann) == ["ann", "bob", "chief", "eve"]
    assert [p.target for p in of_type(street.parcels, MessageType.RESPONSE)] == [NOWHERE.remote]


def test_the_chain_of_a_revoked_admin_opens_no_door() -> None:
    street, ann, _ = pair()
    chief = Person("chief")
    learn(ann, admin(ROOT, chief), revocation(ROOT, chief))
    chain = (grant(chief, EVE), admin(ROOT, chief))
    ann.node.handle_datagram(initiation(ann, EVE, chain), NOWHERE, ann.now)
    assert ann.node.counters["drop stranger"] == 1
    assert of_type(street.parcels, MessageType.RESPONSE) == []


def test_a_forged_chain_costs_one_verification() -> None:
    _, ann, _ = pair()
    forged = [bytearray(grant(ROOT, Person(f"friend-{n}"))) for n in range(4)]
    for raw in forged:
        raw[-1] ^= 1
    ann.node.handle_datagram(initiation(ann, EVE, tuple(map(bytes, forged))), NOWHERE, ann.now)
    assert ann.node.counters["drop signature"] == 1
    assert ann.node.counters["initiation signature"] == 0


def test_a_chain_with_a_piece_that_nobody_knows_still_counts_for_the_rest() -> None:
    _, ann, _ = pair()
    chain = (grant(ROOT, EVE), grant(Person("unknown"), Person("other")))
    ann.node.handle_datagram(initiation(ann, EVE, chain), NOWHERE, ann.now)
    assert ann.node.counters["initiation signer unknown"] == 1
    assert "eve" in labels(ann)


def test_without_a_common_suite_there_is_no_session() -> None:
    _street, ann, bob = pair()
    data = initiation(ann, bob.person, suites=(Suite.AES_256_GCM,))
    ann.node.handle_datagram(data, NOWHERE, ann.now)
    assert ann.node.counters["drop no common suite"] == 1


def test_a_timestamp_from_far_ahead_does_not_lock_its_sender_out() -> None:
    _street, ann, bob = pair()
    ahead = ann.now.wall + TIMESTAMP_TOLERANCE + SECOND
    ann.node.handle_datagram(initiation(ann, bob.person, timestamp=ahead), NOWHERE, ann.now)
    assert ann.node.counters["drop timestamp in the future"] == 1
    ann.node.handle_datagram(initiation(ann, bob.person), NOWHERE, ann.now)
    assert ann.node.counters["drop initiation replayed"] == 0


def test_a_clock_that_is_surely_wrong_refuses_nobody() -> None:
    _street, ann, bob = pair()
    ahead = ann.now.wall
    ann.wall_offset = -ahead
    ann.node.handle_datagram(initiation(ann, bob.person, timestamp=ahead + 1), NOWHERE, ann.now)
    assert ann.node.counters["drop timestamp in the future"] == 0


def test_message_1_fits_whatever_admins_have_granted() -> None:
    """Not all that is granted was granted here: an overlong chain loses its far end, and no more."""
    street, ann, bob = pair()
    prefixes = tuple((bytes((0x20, 1, 0xD, 0xB8, n)) + bytes(11), 40) for n in range(8))
    one, two = Person("one"), Person("two")
    for station in (ann, bob):
        learn(
            station,
            grant(ROOT, one, roles=Role.ADMIN, name="o" * 63, prefixes=prefixes),
            grant(one, two, roles=Role.ADMIN, name="t" * 63, prefixes=prefixes),
            grant(two, bob.person, serial=9, name="b" * 63, prefixes=prefixes),
        )
    chain = bob.node.membership.chain(bob.person.identity)
    assert sum(map(len, chain)) > MAX_CHAIN_BYTES
    street.parcels.clear()
    bob.node.peers[ann.person.id].initiate(bob.now)
    bob.settle()
    sent = of_type(street.parcels, MessageType.INITIATION)
    assert sent
    assert all(len(p.data) <= MAX_INITIATION for p in sent)
    street.run(SECOND)
    assert bob.up() == ["ann"]


@pytest.mark.parametrize("kind", [MessageType.RESPONSE, MessageType.COOKIE])
def test_an_answer_to_nothing(kind: MessageType) -> None:
    _, ann, _ = pair()
    data = bytes([kind, 1, 0, 0]) + bytes(60 if kind is MessageType.COOKIE else 120)
    if kind is MessageType.RESPONSE:
        key = mac1_key(NETWORK, ann.person.static)
        data = data[:-32] + keyed_hash(key, data[:-32], 16) + bytes(16)
    ann.node.handle_datagram(data, NOWHERE, ann.now)
    assert ann.node.counters["drop index unknown"] == 1


def test_beyond_the_budget_nothing_is_even_decrypted() -> None:
    street, ann, bob = pair()
    ann.node._guard._hard = Bucket(1, 1, ann.now.boot)
    for number in range(3):
        data = initiation(ann, bob.person, timestamp=ann.now.wall + number)
        ann.node.handle_datagram(data, NOWHERE, ann.now)
    ann.settle()
    assert ann.node.counters["drop handshake budget"] == 2
    assert len(of_type(street.parcels, MessageType.RESPONSE)) == 1


def test_a_command_of_another_age_is_ignored() -> None:
    _, ann, _ = pair()
    ann.node.handle_command("dance", ann.now)  # type: ignore[arg-type]
    assert ann.up() == ["bob"]


def test_data_is_not_for_the_core() -> None:
    _, ann, _ = pair()
    ann.node.handle_datagram(bytes([MessageType.DATA]) + bytes(60), NOWHERE, ann.now)
    assert ann.node.counters["drop data at the core"] == 1


@cache
def messages() -> tuple[bytes, ...]:
    """One valid message of every kind that ever arrives at Ann (fixed: the same story each time)."""
    street, ann, bob = pair("hostile")
    ann.node._guard._loaded_until = ann.now.boot + SECOND
    bob.node.peers[ann.person.id].initiate(bob.now)
    bob.settle()
    street.run(5 * SECOND)
    ann.node.peers[bob.person.id].initiate(ann.now)
    ann.settle()
    street.run(SECOND)
    handshakes = [p.data for p in street.parcels if p.keys is None]
    kinds = {data[0]: data for data in handshakes}
    assert set(kinds) == {1, 2, 3}
    return tuple(kinds.values())


def bounded(node: Node) -> dict[str, int]:
    """The sizes of all tables."""
    peers = list(node.peers.values())
    return {
        "indices": len(node._context.indices),
        "timers": len(node._context.timers),
        "guests": len(node._guests._guests),
        "invitations": len(node._invitations),
        "statements": len(node.membership.everything()),
        "peers": len(peers),
        "candidates": sum(len(p.paths.candidates()) for p in peers),
        "reflexive": sum(len(p.reflexive) for p in peers),
        "answered": sum(len(p._answered) for p in peers),
        "counted": sum(len(p._counted) for p in peers),
        "sessions": sum(len(p.sessions) for p in peers),
        "greatest": len(node._greatest),
        "differs": len(node._gossip._differs),
    }


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_strangers_send(data: st.DataObject) -> None:
    """Any bytes, and valid messages cut, flipped and pasted: nothing raises, nothing grows, members are served."""
    street, ann, bob = pair("hostile")
    before = bounded(ann.node)
    for _ in range(data.draw(st.integers(1, 12))):
        message = bytearray(data.draw(st.one_of(st.sampled_from(messages()), st.binary(max_size=1300))))
        for _ in range(data.draw(st.integers(0, 3))):
            if message:
                bit = data.draw(st.integers(0, 8 * len(message) - 1))
                message[bit // 8] ^= 1 << bit % 8
        cut = data.draw(st.integers(0, len(message)))
        message = message[: cut or len(message)]
        if data.draw(st.booleans()) and len(message) > 40:
            message[-32:-16] = keyed_hash(mac1_key(NETWORK, ann.person.static), bytes(message[:-32]), 16)
        ann.node.handle_datagram(bytes(message), NOWHERE, ann.now)
        ann.settle()
    after = bounded(ann.node)
    assert all(after[name] <= before[name] + 1 for name in before), (before, after)
    assert sum(p.size for p in street.parcels if p.target == NOWHERE.remote) <= 20_000
    street.run(SECOND)
    assert (ann.up(), bob.up()) == (["bob"], ["ann"])


def test_every_length_of_every_message() -> None:
    _, ann, _ = pair("hostile")
    for message in messages():
        for length in range(len(message)):
            ann.node.handle_datagram(message[:length], NOWHERE, ann.now)
    ann.node.handle_datagram(bytes(65_507), NOWHERE, ann.now)
    assert ann.up() == ["bob"]


# --- members ----------------------------------------------------------------------------------------------------------


def opened(
    station: Station, other: Station, *frames: RawFrame, path: Path | None = None, size: int = 500
) -> None:
    """Frames in one datagram from a peer, whatever it is that a member of ill will may say."""
    peer = other.person.id
    index = station.plane.using.get(peer, 1)
    where = path or Path(PathKind.UDP, other.endpoint)
    station.node.handle_frames(Opened(peer, index, where, station.now.boot, 0, size, frames), station.now)
    station.settle()


def control(message: object) -> RawFrame:
    return RawFrame(FrameType.CONTROL, 0, pack_control(message))  # type: ignore[arg-type]


BODIES = st.one_of(
    st.binary(max_size=300),
    st.sampled_from(
        [
            Probe(bytes(8), ProbeMode.LIVENESS).pack(),
            Echo(bytes(8), ProbeMode.ECN, 0, 88, Endpoint("192.0.2.9", 9)).pack(),
            Relay(EVE.id, Person("ann").id, 3, 0, 0, bytes(200)).pack(),
            *(
                pack_control(message)
                for message in (
                    Digest(bytes(16), 1),
                    Buckets((bytes(8),) * 32),
                    Summary(1, (bytes(8),)),
                    Want((bytes(8),)),
                    Statements((record(Person("bob"), 2**64 - 1), grant(EVE, EVE), revocation(ROOT, EVE))),
                    Punch((b"\x04\x00\x09\xc0\x00\x02\x01",), False),
                    Redeem(bytes(16), bytes(32), bytes(64), "eve", True),
                    EnrolledAnswer(()),
                    Refused("no", "no"),
                )
            ),
        ]
    ),
)
PATHS = st.builds(
    lambda last, port: Path(PathKind.UDP, Endpoint(f"198.51.100.{last}", port)),
    st.integers(1, 250),
    st.integers(1, 65535),
)


@settings(max_examples=40, deadline=None)
@given(
    datagrams=st.lists(
        st.tuples(st.lists(st.tuples(st.integers(0, 12), BODIES), max_size=4), PATHS, st.integers(0, SECOND)),
        max_size=12,
    )
)
def test_whatever_a_member_says(datagrams: list[tuple[list[tuple[int, bytes]], Path, int]]) -> None:
    street, ann, bob = pair("hostile member")
    cat = street.enrol("cat", ann)
    street.run(5 * SECOND)
    before = bounded(ann.node)
    for frames, path, gap in datagrams:
        opened(ann, bob, *(RawFrame(type_, 0, body) for type_, body in frames), path=path)
        street.run(gap)
    after = bounded(ann.node)
    slack = {"candidates": 32, "reflexive": 32, "counted": 32, "statements": 4, "timers": 10, "greatest": 4}
    assert all(after[name] <= before[name] + slack.get(name, 2) for name in before), (before, after)
    assert "cat" in ann.up()
    assert "ann" in cat.up()


def test_frames_of_who_is_no_member_any_more_are_dropped() -> None:
    _street, ann, bob = pair()
    ann.node.revoke("bob", False, ann.now)
    ann.settle()
    before = drops(ann)
    opened(ann, bob, control(Digest(bytes(16), 1)), control(GoodbyeMessage("bye")))
    assert ann.node.counters["drop frame of a former member"] == 2
    assert drops(ann) == before + 2
    ann.node.handle_traffic(
        [TrafficNote(bob.person.id, 1, NOWHERE, received=1), Unsendable(bob.person.id)], ann.now
    )


def test_frames_that_are_not_for_the_core_are_counted() -> None:
    _, ann, bob = pair()
    opened(ann, bob, RawFrame(FrameType.REPORT, 0, bytes(44)), control(Refused("no", "no")))
    assert ann.node.counters["frame ignored"] == 1
    assert ann.node.counters["control ignored"] == 1


# --- membership -------------------------------------------------------------------------------------------------------


def test_a_revocation_closes_the_tunnels_everywhere_within_a_moment() -> None:
    street = Street()
    ann, bob, cat = street.grow("ann", "bob", "cat")
    street.run(5 * SECOND)
    ann.node.revoke("cat", False, ann.now)
    ann.settle()
    street.run(3 * LATENCY)
    assert (ann.up(), bob.up()) == (["bob"], ["ann"])
    assert any("no member any more" in text for text in cat.notices())
    street.run(60 * SECOND)
    assert cat.up() == []
    assert cat.node.own is None


def test_what_is_learnt_by_gossip_is_stored_soon() -> None:
    street, ann, bob = pair()
    ann.invite()
    street.run(5 * SECOND)
    bob.told.clear()
    opened(bob, ann, control(Statements((grant(ROOT, EVE),))))
    street.run(SAVE_DELAY + SECOND)
    assert bob.events(SaveState)
    assert grant(ROOT, EVE) in parse_state_untrusted(bob.disk).statements


def test_a_change_of_membership_is_told_once() -> None:
    _, ann, bob = pair()
    ann.told.clear()
    opened(ann, bob, control(Statements((grant(ROOT, EVE),))), control(Statements((grant(ROOT, EVE),))))
    assert len(ann.events(MembershipChanged)) == 1
    assert EVE.id in ann.node.peers


def test_nobody_revokes_who_is_unknown() -> None:
    _, ann, bob = pair()
    for station, name, code in ((ann, "nobody", "unknown"), (ann, "ann", "self"), (bob, "ann", "root")):
        with pytest.raises(Refusal) as refused:
            station.node.revoke(name, False, station.now)
        assert refused.value.code == code


def test_a_revocation_that_cannot_be_kept_is_said_to_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    street, ann, _ = pair()
    bob = street.enrol("chief", ann, InvitationTerms(roles=Role.ADMIN))
    street.run(5 * SECOND)
    monkeypatch.setattr("meshnode.proto.membership.MAX_STATEMENTS_PER_SIGNER", 0)
    with pytest.raises(Refusal) as refused:
        bob.node.revoke("bob", False, bob.now)
    assert refused.value.code == "full"
    assert any("does not count" in text for text in bob.notices() + _pending(bob))


def _pending(station: Station) -> list[str]:
    station.settle()
    return station.notices()


def test_an_admin_renews_whoever_is_here_in_time() -> None:
    street, ann, _ = pair()
    bob = street.enrol("cat", ann, InvitationTerms(valid_seconds=9 * DAY))
    street.run(5 * SECOND)
    first = ann.node.membership.members[bob.person.id]
    for station in street.stations.values():
        station.wall_offset += 7 * DAY * SECOND
    street.run(HOUSEKEEPING + SECOND)
    for station in street.stations.values():
        renewed = station.node.membership.members[bob.person.id]
        assert renewed.not_after >= first.not_after + 6 * DAY
        assert (renewed.not_before, renewed.serial) == (first.not_before, first.serial + 1)
    street.run(10 * HOUSEKEEPING)
    assert ann.node.membership.members[bob.person.id].serial == first.serial + 1


def test_a_renewal_that_cannot_be_signed_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    street, ann, bob = pair()
    learn(ann, grant(ROOT, bob.person, serial=9, not_after=ann.now.wall // SECOND + 10))
    monkeypatch.setattr("meshnode.proto.registrar.MAX_CHAIN_BYTES", 100)
    street.run(HOUSEKEEPING + SECOND)
    assert ann.node.counters["renewal refused too-long"] >= 1
    assert ann.up() == ["bob"]


def test_who_expires_is_out_and_who_expired_itself_says_so() -> None:
    street, ann, bob = pair()
    end = ann.now.wall // SECOND + 10
    for station in (ann, bob):
        learn(station, grant(ROOT, bob.person, serial=9, not_before=end - DAY, not_after=end))
    for station in (ann, bob):
        station.wall_offset += 2 * DAY * SECOND
    ann.node._context.timers.cancel("node", "housekeeping")
    street.run(3700 * SECOND)
    assert labels(ann) == ["ann"]
    assert bob.node.own is None
    assert any("no member any more" in text for text in bob.notices())


# --- our own record ---------------------------------------------------------------------------------------------------


def sequence(station: Station, person: Person) -> int:
    known = station.node.membership.record(person.id)
    assert known is not None
    return known.sequence


def test_a_record_is_signed_when_our_addresses_change_and_now_and_then() -> None:
    street, ann, bob = pair()
    before = sequence(bob, ann.person)
    ann.command(LocalEndpoints((ann.endpoint,)))
    street.run(SECOND)
    assert sequence(bob, ann.person) == before
    ann.command(LocalEndpoints((ann.endpoint, Endpoint("198.51.100.5", 4655))))
    street.run(SECOND)
    after = sequence(bob, ann.person)
    assert after > before
    assert ann.node.endpoints() == (ann.endpoint, Endpoint("198.51.100.5", 4655))
    street.run(RECORD_INTERVAL)
    assert sequence(bob, ann.person) > after


def test_addresses_at_which_others_see_us_are_told_soon_but_not_in_a_flood() -> None:
    street, ann, bob = pair()
    published = []
    for number in range(60):
        seen = Endpoint("203.0.113.5", 1 + number)
        peer = ann.node.peers[bob.person.id]
        peer.reflexive = {Path(PathKind.UDP, bob.endpoint): seen}
        ann.node._observed(ann.now)
        street.run(SECOND)
        published.append(sequence(bob, ann.person))
    changes = len(set(published))
    assert 60 * SECOND // RECORD_GAP - 2 <= changes <= 60 * SECOND // RECORD_GAP + 2
    street.run(RECORD_GAP)
    known = bob.node.membership.record(ann.person.id)
    assert known is not None
    assert seen in known.endpoints


def test_one_member_counts_once_from_however_many_paths_it_speaks() -> None:
    street = Street()
    ann, bob, cat = street.grow("ann", "bob", "cat")
    lie, truth = Endpoint("203.0.113.66", 1), Endpoint("203.0.113.5", 1)
    dan = street.enrol("dan", ann)
    street.run(5 * SECOND)
    ann.node.peers[bob.person.id].reflexive = {
        Path(PathKind.UDP, Endpoint("198.51.100.1", port)): lie for port in range(1, 9)
    }
    for other in (cat, dan):
        ann.node.peers[other.person.id].reflexive = {Path(PathKind.UDP, other.endpoint): truth}
    ann.node._observed(ann.now)
    observed = [e for e in ann.node.endpoints() if e in (lie, truth)]
    assert observed[0] == truth


def test_who_is_no_member_publishes_nothing() -> None:
    street, _ann, bob = pair()
    learn(bob, revocation(ROOT, bob.person))
    before = bob.node.membership.records()
    bob.command(LocalEndpoints((NOWHERE.remote,)))
    street.run(SECOND)
    assert bob.node.membership.records() == before


# --- the disk ---------------------------------------------------------------------------------------------------------


def test_a_save_that_failed_is_tried_again_and_people_are_told() -> None:
    street, ann, bob = pair()
    ann.disk_error = "no space left on device"
    opened(ann, bob, control(Statements((grant(ROOT, EVE),))))
    street.run(5 * SECOND)
    assert any("no space left" in text for text in ann.notices())
    ann.disk_error = None
    street.run(HOUSEKEEPING + SECOND)
    assert grant(ROOT, EVE) in parse_state_untrusted(ann.disk).statements


def test_changes_that_nobody_waits_for_are_saved_together() -> None:
    street, ann, bob = pair()
    street.run(120 * SECOND)
    ann.told.clear()
    for number in range(20):
        opened(ann, bob, control(Statements((record(bob.person, ann.now.wall + number),))))
        street.run(50 * MILLISECOND)
    street.run(3 * SECOND)
    assert 1 <= len(ann.events(SaveState)) <= 2


def test_a_token_is_worth_something_only_once_it_is_on_disk() -> None:
    street, ann, _ = pair()
    ann.told.clear()
    token, ticket = ann.node.invite(InvitationTerms(), ("192.0.2.1:4655",), ann.now)
    ann.settle()
    orders = [
        event for event in ann.events(SaveState) if isinstance(event, SaveState) and event.ticket == ticket
    ]
    assert [order.urgent for order in orders] == [True]
    ann.command(StateSaved(9999, None))
    street.run(SECOND)
    assert len(parse_state_untrusted(ann.disk).invitations) == 2
    assert token.static == ann.node.static


def test_invitations_are_forgotten_in_the_end() -> None:
    street, ann, _ = pair()
    assert len(ann.node._invitations) == 1
    ann.wall_offset += 9 * DAY * SECOND
    street.run(HOUSEKEEPING + SECOND)
    assert len(ann.node._invitations) == 0


def test_who_was_a_member_and_is_again_is_not_served_old_initiations() -> None:
    _street, ann, bob = pair()
    greatest = ann.node.peers[bob.person.id].greatest_timestamp or ann.now.wall
    ann.node.peers[bob.person.id].greatest_timestamp = greatest
    learn(ann, grant(ROOT, bob.person, serial=9, static=EVE.static))
    learn(ann, grant(ROOT, bob.person, serial=10))
    assert ann.node.peers[bob.person.id].greatest_timestamp == greatest
    stored = dict(ann.node.stored_state().timestamps)
    assert stored[bob.person.static] == greatest
    assert EVE.static not in stored


def test_what_is_remembered_of_former_keys_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshnode.proto.node.MAX_MEMBERS", 2)
    _, ann, bob = pair()
    for serial in range(9, 30):
        ann.node.peers[bob.person.id].greatest_timestamp = serial
        learn(ann, grant(ROOT, bob.person, serial=serial, static=Person(f"key {serial}").static))
    assert len(ann.node._greatest) == 4


# --- timers -----------------------------------------------------------------------------------------------------------


def test_a_timer_of_somebody_who_is_gone_is_nothing() -> None:
    _, ann, _ = pair()
    timers = ann.node._context.timers
    timers.set(EVE.id, "probe", ann.now.boot)
    timers.set("nobody", "probe", ann.now.boot)
    timers.set("node", "unheard of", ann.now.boot)
    ann.node.handle_timeout(ann.now)
    due = ann.node.poll_timeout()
    assert due is not None
    assert due[0] > ann.now.boot


def test_an_idle_pair_is_nearly_silent() -> None:
    street, _ann, _bob = pair()
    street.run(600 * SECOND)
    street.parcels.clear()
    street.run(600 * SECOND)
    assert len(street.parcels) < 600


# --- relays -----------------------------------------------------------------------------------------------------------


def behind_walls(*names: str) -> tuple[Street, list[Station], Callable[[], None]]:
    """A founder in the middle, and others that reach each other only through it, until the wall falls."""
    street = Street()
    middle = street.found()
    standing = True
    others: list[Station] = []

    def drop(parcel: Parcel) -> bool:
        ends = {s.endpoint for s in others}
        return standing and parcel.via is None and parcel.source in ends and parcel.target in ends

    street.drops = drop
    for name in names:
        others.append(street.enrol(name, middle))

    def fall() -> None:
        nonlocal standing
        standing = False

    return street, [middle, *others], fall


def test_where_there_is_no_direct_way_a_member_relays() -> None:
    street, (ann, bob, cat), _ = behind_walls("bob", "cat")
    street.run(20 * SECOND)
    assert (bob.up(), cat.up()) == (["ann", "cat"], ["ann", "bob"])
    assert bob.path_to(cat) == Path(PathKind.RELAY, via=ann.person.id, far=cat.person.id)


def test_both_sides_are_called_to_punch_until_there_is_a_direct_way() -> None:
    street, (_ann, bob, cat), wall_falls = behind_walls("bob", "cat")
    street.run(30 * SECOND)
    wall_falls()
    street.run(120 * SECOND)
    assert bob.path_to(cat) == Path(PathKind.UDP, cat.endpoint)
    assert cat.path_to(bob) == Path(PathKind.UDP, bob.endpoint)
    street.parcels.clear()
    street.run(300 * SECOND)
    punches = [
        p
        for p in street.parcels
        if p.keys and p.data[:1] == bytes([FrameType.CONTROL]) and p.data[5:6] == b"\x0a"
    ]
    assert punches == []


def test_when_the_relay_is_gone_so_is_the_peer() -> None:
    street, (ann, bob, cat), _ = behind_walls("bob", "cat")
    street.run(20 * SECOND)
    ann.crash()
    bob.talk(cat)
    street.run(10 * SECOND)
    assert bob.up() == []


def test_calls_to_punch_have_a_pace() -> None:
    _, ann, bob = pair()
    call = control(Punch((b"\x04\x12\x34\xc6\x33\x64\x07", b"\x04\x12\x34\x7f\x00\x00\x01"), False))
    opened(ann, bob, call, call, call)
    assert ann.node.counters["drop punch flood"] == 2
    candidates = [c.path.remote for c in ann.node.peers[bob.person.id].paths.candidates()]
    assert Endpoint("198.51.100.7", 0x1234) in candidates
    assert Endpoint("127.0.0.1", 0x1234) not in candidates


def test_a_relayed_datagram_for_another_is_dropped_and_one_for_us_is_read() -> None:
    street, ann, bob = pair()
    data = initiation(ann, EVE, (grant(ROOT, EVE),))
    other = RawFrame(FrameType.RELAY, 0, Relay(EVE.id, bob.person.id, 3, 0, 0, data).pack())
    opened(ann, bob, other)
    assert ann.node.counters["drop relay for another"] == 1
    ours = RawFrame(FrameType.RELAY, 0, Relay(EVE.id, ann.person.id, 3, 0, 0, data).pack())
    opened(ann, bob, ours)
    assert EVE.id in ann.node.peers
    answer = [
        p for p in street.parcels if p.target == bob.endpoint and p.data[:1] == bytes([FrameType.RELAY])
    ]
    assert len(answer) == 1


def test_relays_are_asked_for_only_where_they_can_be() -> None:
    _, ann, bob = pair()
    peer = ann.node.peers[bob.person.id]
    assert peer.relays
    assert list(peer.endpoints()) == [Path(PathKind.UDP, bob.endpoint)]
    peer.handle_timer("punch", ann.now)
    assert peer._punches == 0


def test_however_often_the_machine_wakes_up_there_is_no_storm_of_handshakes() -> None:
    street, ann, bob = pair()
    bob.stop()
    street.run(SECOND)
    street.parcels.clear()
    for _ in range(50):
        ann.command(LinkChanged())
    assert len(of_type(street.parcels, MessageType.INITIATION)) <= 2
