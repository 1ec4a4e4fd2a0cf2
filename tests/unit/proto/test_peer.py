"""The story of a tunnel: handshakes and their retries, rekeying, silence, farewell and return, moving house."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from meshnode.crypto.primitives import keyed_hash
from meshnode.crypto.suites import SUITES
from meshnode.proto.constants import (
    CANDIDATES_PER_PEER,
    EARLY_RETRIES,
    INITIATION_PATHS,
    KEEPALIVE_TIMEOUT,
    RECONNECT_TIME,
    REJECT_AFTER_TIME,
    REKEY_AFTER_TIME,
    REKEY_ATTEMPT_TIME,
    REKEY_TIMEOUT,
    REKEY_TIMEOUT_JITTER,
    RESPONDER_REKEY_TIME,
    SILENCE_TIME,
    UNPROVEN_FACTOR,
)
from meshnode.proto.guard import mac1_key
from meshnode.proto.node import HOUSEKEEPING
from meshnode.proto.paths import Origin
from meshnode.proto.peer import MAX_PINGS, TIMERS, Peer
from meshnode.values import (
    MILLISECOND,
    SECOND,
    Endpoint,
    Hint,
    LinkChanged,
    Opened,
    Path,
    PathKind,
    PeerDown,
    PeerId,
    PeerUp,
    Pong,
    RawFrame,
    Suite,
    TooBig,
    TrafficNote,
)
from meshnode.wire.frames import Echo, FrameType, Probe, ProbeMode, parse_echo_untrusted
from meshnode.wire.header import MINIMUM_DATA, MessageType
from meshnode.wire.state import pack_state
from meshnode.wire.statement import Role
from tests.unit.proto.neighbours import BOOT, LATENCY, Parcel, Station, Street
from tests.unit.proto.people import Person, grant

NOWHERE = Endpoint("203.0.113.77", 4655)


def pair(name: str = "") -> tuple[Street, Station, Station]:
    """Two members with a session, a while after they have met."""
    street = Street(name)
    ann, bob = street.grow("ann", "bob")
    street.run(20 * SECOND)
    street.parcels.clear()
    return street, ann, bob


def peer_of(station: Station, other: Station) -> Peer:
    return station.node.peers[other.person.id]


def keys_for(station: Station, other: Station) -> list[int]:
    """The indices of the sessions that the data plane holds for a peer (a guest's are another's)."""
    return [index for index, (peer, _) in station.plane.sessions.items() if peer == other.person.id]


def handshakes(parcels: list[Parcel], kind: MessageType = MessageType.INITIATION) -> list[Parcel]:
    return [p for p in parcels if p.keys is None and p.data[0] == kind]


def initiations(street: Street, source: Station | None = None) -> list[Parcel]:
    found = handshakes(street.parcels)
    return found if source is None else [p for p in found if p.source == source.endpoint]


def log_times(street: Street, source: Station) -> list[int]:
    """Fill this list with the time of every initiation of `source` from now on, and let none arrive."""
    times: list[int] = []

    def drop(parcel: Parcel) -> bool:
        mine = parcel.source == source.endpoint and bool(handshakes([parcel]))
        if mine:
            times.append(street.time)
        return mine

    street.drops = drop
    return times


# --- how a session begins ---------------------------------------------------------------------------------------------


def test_one_handshake_brings_both_up() -> None:
    street, ann, bob = pair()
    bob.crash()
    street.run(REJECT_AFTER_TIME + 10 * SECOND)
    assert ann.up() == []
    street.parcels.clear()
    bob.start()
    street.run(SECOND)
    assert (ann.up(), bob.up()) == (["bob"], ["ann"])
    assert ann.plane.sessions.keys() >= {ann.plane.using[bob.person.id]}
    mine, theirs = (s.plane.sessions[s.plane.using[o.person.id]][1] for s, o in ((ann, bob), (bob, ann)))
    assert mine.send_key == theirs.receive_key


def test_the_responder_seals_nothing_before_the_initiator_has() -> None:
    street, _ann, bob = pair()
    bob.crash()
    street.run(REJECT_AFTER_TIME + 10 * SECOND)
    street.parcels.clear()
    bob.start()
    street.run(SECOND)
    sealed = [p.source for p in street.parcels if p.keys is not None]
    first = next(p for p in street.parcels if handshakes([p], MessageType.RESPONSE))
    assert sealed[0] == first.target


def test_the_first_retries_come_soon_then_every_five_seconds_then_every_quarter_of_a_minute() -> None:
    street, ann, bob = pair()
    bob.crash()
    times = log_times(street, ann)
    street.run(10 * 60 * SECOND)
    gaps = [b - a for a, b in pairwise(times)]
    for gap, expected in zip(gaps, EARLY_RETRIES, strict=False):
        assert expected <= gap <= expected + REKEY_TIMEOUT_JITTER
    during = [
        g for t, g in zip(times, gaps, strict=False) if t - times[0] < REKEY_ATTEMPT_TIME - REKEY_TIMEOUT
    ]
    assert all(
        REKEY_TIMEOUT <= g <= REKEY_TIMEOUT + REKEY_TIMEOUT_JITTER for g in during[len(EARLY_RETRIES) :]
    )
    after = [g for t, g in zip(times, gaps, strict=False) if t - times[0] > REKEY_ATTEMPT_TIME]
    assert len(after) > 10
    assert all(RECONNECT_TIME * 3 // 4 <= g <= RECONNECT_TIME for g in after)


def test_every_retry_is_another_message() -> None:
    street, ann, bob = pair()
    bob.crash()
    street.run(REJECT_AFTER_TIME)
    sent = [p.data for p in initiations(street, ann)]
    assert len(sent) > 10
    assert len({data[4:40] for data in sent}) == len(sent)


def test_a_lost_response_costs_a_second() -> None:
    street, ann, bob = pair()
    bob.crash()
    street.run(REJECT_AFTER_TIME + 20 * SECOND)
    lost: list[Parcel] = []

    def drop(parcel: Parcel) -> bool:
        if handshakes([parcel], MessageType.RESPONSE) and not lost:
            lost.append(parcel)
            return True
        return False

    street.drops = drop
    bob.start()
    street.run(2 * SECOND)
    assert lost
    assert (ann.up(), bob.up()) == (["bob"], ["ann"])


def captured_response(street: Street, ann: Station, bob: Station) -> Parcel:
    """The answer to an initiation of Ann's, which has not got it."""
    captured: list[Parcel] = []

    def drop(parcel: Parcel) -> bool:
        found = handshakes([parcel], MessageType.RESPONSE)
        captured.extend(found)
        return bool(found)

    street.drops = drop
    peer_of(ann, bob).initiate(ann.now)
    ann.settle()
    street.run(50 * MILLISECOND)
    street.drops = lambda parcel: False
    return captured[0]


def test_a_response_counts_once() -> None:
    street, ann, bob = pair()
    response = captured_response(street, ann, bob)
    ann.receive(response)
    assert ann.node.counters["drop response unasked"] == 0
    ann.receive(response)
    assert ann.node.counters["drop response unasked"] == 1


def test_a_response_has_to_name_the_handshake_that_is_in_flight() -> None:
    street, ann, bob = pair()
    response = captured_response(street, ann, bob)
    data = bytearray(response.data)
    data[8:12] = ann.plane.using[bob.person.id].to_bytes(4, "big")
    key = mac1_key(ann.node.membership.network_id, ann.person.static)
    data[-32:-16] = keyed_hash(key, bytes(data[:-32]), 16)
    ann.receive(Parcel(bob.endpoint, ann.endpoint, bytes(data)))
    assert ann.node.counters["drop index"] == 1


def test_an_answer_from_an_unexpected_address_makes_a_session_and_proves_no_path() -> None:
    street, ann, bob = pair()
    response = captured_response(street, ann, bob)
    elsewhere = Path(PathKind.UDP, NOWHERE)
    old = ann.plane.using[bob.person.id]
    ann.node.handle_datagram(response.data, elsewhere, ann.now)
    ann.settle()
    assert ann.plane.using[bob.person.id] != old
    assert elsewhere not in ann.plane.proven[bob.person.id]
    assert ann.path_to(bob) == Path(PathKind.UDP, bob.endpoint)


def test_a_first_datagram_from_elsewhere_confirms_the_keys_and_proves_no_path() -> None:
    street, ann, bob = pair()
    street.drops = lambda parcel: parcel.target == bob.endpoint and parcel.keys is not None
    peer_of(ann, bob).initiate(ann.now)
    ann.settle()
    street.run(50 * MILLISECOND)
    fresh = [s for s in peer_of(bob, ann).sessions if not s.confirmed]
    elsewhere = Path(PathKind.UDP, NOWHERE)
    bob.node.handle_traffic(
        [TrafficNote(ann.person.id, fresh[0].local_index, elsewhere, received=1, received_bytes=36)], bob.now
    )
    bob.settle()
    assert bob.plane.using[ann.person.id] == fresh[0].local_index
    assert elsewhere not in bob.plane.proven[ann.person.id]


# --- rekeying ---------------------------------------------------------------------------------------------------------


def test_keys_are_renewed_once_every_two_minutes_and_nothing_is_interrupted() -> None:
    street, ann, bob = pair()
    for station in (ann, bob):
        station.told.clear()
    minutes = 20
    street.run(minutes * 60 * SECOND)
    expected = minutes * 60 * SECOND // REKEY_AFTER_TIME
    assert expected - 2 <= len(initiations(street)) <= expected + 1
    assert not ann.events(PeerDown)
    assert not bob.events(PeerDown)
    assert all(len(s.plane.sessions) <= 3 for s in (ann, bob))
    assert ann.node.counters["silence"] == bob.node.counters["silence"] == 0


def test_the_initiator_rekeys_with_a_jitter() -> None:
    waits = []
    for number in range(4):
        street, ann, bob = pair(f"jitter {number}")
        born = {s: s.node.peers[o.person.id].sessions.sealing() for s, o in ((ann, bob), (bob, ann))}
        start = min(session.born for session in born.values() if session is not None)
        street.run_until(lambda street=street: bool(initiations(street)), REJECT_AFTER_TIME)  # type: ignore[misc]
        waits.append(street.time - start)
    assert all(REKEY_AFTER_TIME <= w <= REKEY_AFTER_TIME + REKEY_TIMEOUT + LATENCY for w in waits)
    assert len(set(waits)) == len(waits)


def test_an_alarm_that_rings_too_early_is_put_off() -> None:
    street, ann, bob = pair()
    peer_of(ann, bob).handle_timer("rekey", ann.now)
    peer_of(bob, ann).handle_timer("rekey", bob.now)
    assert initiations(street) == []
    bob.stop()
    street.run(SECOND)
    peer_of(ann, bob).handle_timer("rekey", ann.now)
    street.run(SECOND)
    assert initiations(street) == []


def test_the_responder_rekeys_when_the_initiator_does_not() -> None:
    street, ann, bob = pair()
    session = peer_of(ann, bob).sessions.sealing()
    assert session is not None
    responder, initiator = (bob, ann) if session.keys.initiator else (ann, bob)
    log_times(street, initiator)
    street.run_until(lambda: bool(initiations(street, responder)), REJECT_AFTER_TIME)
    assert (
        RESPONDER_REKEY_TIME
        <= street.time - session.born + LATENCY
        <= RESPONDER_REKEY_TIME + REKEY_TIMEOUT + LATENCY
    )
    street.run(REJECT_AFTER_TIME)
    assert ann.up() == ["bob"]


def test_keys_end_after_three_minutes_though_the_peer_is_gone() -> None:
    street, ann, bob = pair()
    street.run(REKEY_AFTER_TIME + 10 * SECOND)
    sessions = peer_of(ann, bob).sessions
    newest = max(session.born for session in sessions)
    assert len(sessions) == 2
    bob.crash()
    street.run(newest + REJECT_AFTER_TIME - street.time - SECOND)
    assert len(keys_for(ann, bob)) == 1
    street.run(2 * SECOND)
    assert keys_for(ann, bob) == []
    assert len(sessions) == 0


def note(station: Station, other: Station, index: int, **values: int) -> None:
    path = Path(PathKind.UDP, other.endpoint)
    station.node.handle_traffic([TrafficNote(other.person.id, index, path, **values)], station.now)
    station.settle()


def test_worn_out_keys_are_renewed_at_once_and_only_once() -> None:
    street, ann, bob = pair()
    old = ann.plane.using[bob.person.id]
    worn = SUITES[Suite.CHACHA20_POLY1305].rekey_after
    note(ann, bob, old, sent=1, highest_sent=worn - 1)
    assert not initiations(street)
    for _ in range(5):
        note(ann, bob, old, sent=1, highest_sent=worn)
    street.run(SECOND)
    assert len(initiations(street)) == 1
    assert ann.plane.using[bob.person.id] != old
    for _ in range(5):
        note(ann, bob, old, received=1, received_bytes=100)
        street.run(SECOND)
    assert len(initiations(street)) == 1


# --- crossing ---------------------------------------------------------------------------------------------------------


def test_crossing_initiations_make_one_tunnel_and_no_storm() -> None:
    street, ann, bob = pair()
    street.parcels.clear()
    for station, other in ((ann, bob), (bob, ann)):
        peer_of(station, other).initiate(station.now)
    for station in (ann, bob):
        station.settle()
    street.run(10 * SECOND)
    assert len(initiations(street)) == 2
    mine = ann.plane.sessions[ann.plane.using[bob.person.id]][1]
    theirs = bob.plane.sessions[bob.plane.using[ann.person.id]][1]
    assert mine.send_key == theirs.receive_key
    lower = min((ann, bob), key=lambda s: s.person.id)
    assert mine.initiator == (lower is ann)
    street.run(1200 * SECOND)
    assert len(initiations(street)) <= 2 + 1200 * SECOND // REKEY_AFTER_TIME + 1
    assert (ann.up(), bob.up()) == (["bob"], ["ann"])


@pytest.mark.parametrize("number", range(6))
def test_crossings_under_loss_come_to_rest(number: int) -> None:
    street, ann, bob = pair(f"loss {number}")
    state = number * 7919 + 1

    def drop(parcel: Parcel) -> bool:
        nonlocal state
        state = (state * 1103515245 + 12345) % 2**31
        return state % 3 == 0

    street.drops = drop
    for _ in range(10):
        for station, other in ((ann, bob), (bob, ann)):
            peer_of(station, other).initiate(station.now)
            station.settle()
        street.run(700 * MILLISECOND)
    street.drops = lambda parcel: False
    street.run(30 * SECOND)
    street.parcels.clear()
    street.run(100 * SECOND)
    assert len(initiations(street)) <= 2
    assert (ann.up(), bob.up()) == (["bob"], ["ann"])
    assert all(len(s.node._context.indices) == len(s.plane.sessions) for s in (ann, bob))


# --- replay and floods ------------------------------------------------------------------------------------------------


def test_an_initiation_counts_once_also_after_a_restart() -> None:
    street, ann, bob = pair()
    peer_of(ann, bob).initiate(ann.now)
    ann.settle()
    street.run(HOUSEKEEPING + SECOND)
    replayed = initiations(street, ann)[0]
    before = len(handshakes(street.parcels, MessageType.RESPONSE))
    bob.receive(replayed)
    assert bob.node.counters["drop initiation replayed"] == 1
    ann.crash()
    bob.crash()
    bob.start()
    bob.receive(replayed)
    assert bob.node.counters["drop initiation replayed"] == 1
    street.run(SECOND)
    assert len(handshakes(street.parcels, MessageType.RESPONSE)) == before


def test_one_key_cannot_make_us_answer_more_than_fifty_times_a_second() -> None:
    street, ann, bob = pair()
    for _ in range(3):
        peer_of(ann, bob).initiate(ann.now)
        ann.settle()
    street.run(SECOND // 2)
    assert bob.node.counters["drop initiation flood"] == 2
    assert len(handshakes(street.parcels, MessageType.RESPONSE)) == 1


def test_under_load_a_cookie_is_asked_for_and_soon_shown() -> None:
    street, ann, bob = pair()
    bob.node._guard._loaded_until = bob.now.boot + 3 * SECOND
    peer_of(ann, bob).initiate(ann.now)
    ann.settle()
    started = street.time
    street.run_until(lambda: bool(handshakes(street.parcels, MessageType.RESPONSE)), 3 * SECOND)
    assert street.time - started <= SECOND + 3 * LATENCY
    assert len(handshakes(street.parcels, MessageType.COOKIE)) == 1
    assert initiations(street, ann)[-1].data[-16:] != bytes(16)


def test_cookies_that_nobody_asked_for_are_refused() -> None:
    street, ann, bob = pair()
    bob.node._guard._loaded_until = bob.now.boot + SECOND
    peer_of(ann, bob).initiate(ann.now)
    ann.settle()
    street.run(LATENCY + MILLISECOND)
    cookie = handshakes(street.parcels, MessageType.COOKIE)[0]
    ann.node.handle_datagram(cookie.data, Path(PathKind.UDP, NOWHERE), ann.now)
    assert ann.node.counters["drop cookie unasked"] == 1
    street.run(5 * SECOND)
    ann.receive(cookie)
    assert ann.node.counters["drop index unknown"] + ann.node.counters["drop cookie unasked"] == 2


# --- keepalives and silence -------------------------------------------------------------------------------------------


def quiet(street: Street, ann: Station, bob: Station) -> None:
    """Keep probes and gossip out of the way: only what user traffic causes is left."""
    for station in (ann, bob):
        for other in station.node.peers.values():
            for reason in ("probe", "quality", "rekey"):
                station.node._context.timers.cancel(other.id, reason)
        station.node._context.timers.cancel("gossip", "digest")
        station.node._context.timers.cancel("node", "record")
    street.parcels.clear()


def test_who_receives_and_has_nothing_to_say_sends_a_keepalive_after_ten_seconds() -> None:
    street, ann, bob = pair()
    quiet(street, ann, bob)
    note(bob, ann, bob.plane.using[ann.person.id], received=1, received_data=1, received_bytes=100)
    quiet(street, ann, bob)
    street.run(KEEPALIVE_TIMEOUT - SECOND)
    assert [p for p in street.parcels if p.source == bob.endpoint] == []
    street.run(SECOND)
    keepalives = [p for p in street.parcels if p.source == bob.endpoint]
    assert [p.size for p in keepalives] == [MINIMUM_DATA]


def test_who_sends_anyway_sends_no_keepalive() -> None:
    street, ann, bob = pair()
    quiet(street, ann, bob)
    index = bob.plane.using[ann.person.id]
    note(bob, ann, index, received=1, received_data=1, received_bytes=100)
    note(bob, ann, index, received=1, received_data=1, received_bytes=100)
    note(bob, ann, index, sent=1)
    quiet(street, ann, bob)
    street.run(KEEPALIVE_TIMEOUT + SECOND)
    assert [p for p in street.parcels if p.source == bob.endpoint] == []


def test_sent_and_heard_nothing_for_fifteen_seconds_means_a_new_handshake() -> None:
    street, ann, bob = pair()
    quiet(street, ann, bob)
    index = ann.plane.using[bob.person.id]
    started = street.time
    note(ann, bob, index, sent=1, sent_data=1)
    note(ann, bob, index, sent=1, sent_data=1)
    quiet(street, ann, bob)
    street.run_until(lambda: bool(initiations(street, ann)), SILENCE_TIME)
    assert street.time == started + SILENCE_TIME
    assert ann.node.counters["silence"] == 1


def test_what_is_heard_breaks_the_silence() -> None:
    street, ann, bob = pair()
    quiet(street, ann, bob)
    index = ann.plane.using[bob.person.id]
    note(ann, bob, index, sent=1, sent_data=1)
    note(ann, bob, index, received=1, received_bytes=36)
    quiet(street, ann, bob)
    street.run(SILENCE_TIME + SECOND)
    assert ann.node.counters["silence"] == 0


def test_silence_while_a_handshake_is_in_flight_starts_no_other() -> None:
    street, ann, bob = pair()
    bob.crash()
    peer_of(ann, bob).initiate(ann.now)
    note(ann, bob, ann.plane.using[bob.person.id], sent=1, sent_data=1)
    street.run(30 * SECOND)
    assert ann.node.counters["silence"] == 1
    assert len(initiations(street, ann)) <= 8


def test_what_was_sent_just_before_the_last_path_died_changes_nothing() -> None:
    street, ann, bob = pair()
    index = ann.plane.using[bob.person.id]
    bob.stop()
    street.run(SECOND)
    note(ann, bob, index, sent=1, sent_data=1)
    assert peer_of(ann, bob).quality is None
    assert ann.up() == []


def test_traffic_that_waits_starts_a_handshake() -> None:
    street, ann, bob = pair()
    bob.stop()
    street.run(SECOND)
    street.parcels.clear()
    ann.talk(bob)
    assert len(initiations(street, ann)) == 1
    ann.talk(bob)
    assert len(initiations(street, ann)) == 1


# --- down and up again ------------------------------------------------------------------------------------------------


def test_a_dead_peer_is_down_within_seconds_of_traffic() -> None:
    street, ann, bob = pair()
    bob.crash()
    ann.talk(bob)
    street.run(5 * SECOND)
    assert ann.up() == []
    down = ann.events(PeerDown)[-1]
    assert isinstance(down, PeerDown)
    assert down.reason == "no answer on any path"
    assert bob.person.id not in ann.plane.paths


def test_goodbye_takes_effect_at_once_and_leaves_nothing_behind() -> None:
    street, ann, bob = pair()
    peer_of(ann, bob).initiate(ann.now)
    bob.stop()
    street.run(SECOND)
    assert ann.up() == []
    assert ann.events(PeerDown)[-1] == PeerDown(bob.person.id, "said goodbye")
    assert keys_for(ann, bob) == []
    assert peer_of(ann, bob) not in ann.node._context.indices.values()
    assert not peer_of(ann, bob).in_flight


def test_after_a_goodbye_it_waits_for_the_return_and_asks_now_and_then() -> None:
    street, ann, bob = pair()
    bob.stop()
    street.run(SECOND)
    street.parcels.clear()
    street.run(RECONNECT_TIME - 2 * SECOND)
    assert initiations(street) == []
    street.run(5 * SECOND)
    assert initiations(street, ann)


def test_who_returns_after_a_goodbye_is_up_at_once_and_the_old_alarm_is_off() -> None:
    street, ann, bob = pair()
    bob.stop()
    street.run(3 * SECOND)
    bob.start()
    street.run(SECOND)
    assert (ann.up(), bob.up()) == (["bob"], ["ann"])
    street.parcels.clear()
    street.run(60 * SECOND)
    assert initiations(street) == []


def test_a_goodbye_from_who_was_not_up_is_nothing() -> None:
    street, ann, bob = pair()
    peer_of(ann, bob).say_goodbye("twice")
    ann.settle()
    bob.crash()
    street.run(REJECT_AFTER_TIME)
    count = len(street.parcels)
    peer_of(ann, bob).say_goodbye("to nobody")
    ann.settle()
    assert len(street.parcels) == count


def test_a_removed_member_leaves_nothing_behind() -> None:
    _street, ann, bob = pair()
    peer = peer_of(ann, bob)
    peer.initiate(ann.now)
    ann.node.revoke("bob", False, ann.now)
    ann.settle()
    assert keys_for(ann, bob) == []
    assert bob.person.id not in ann.plane.admitted
    assert peer not in ann.node._context.indices.values()
    assert ann.events(PeerDown)[-1] == PeerDown(bob.person.id, "revoked")
    timers = ann.node._context.timers
    assert [reason for reason in TIMERS if timers.deadline(bob.person.id, reason) is not None] == []
    peer.remove()
    assert len(ann.events(PeerDown)) == 1


def test_a_sleeper_does_not_seal_with_keys_that_ended_meanwhile() -> None:
    street, ann, bob = pair()
    core, ann.core = ann.core, None
    street.run(REJECT_AFTER_TIME + SECOND)
    ann.core = core
    street.parcels.clear()
    ann.command(LinkChanged())
    assert all(p.keys is None for p in street.parcels)
    street.run(5 * SECOND)
    assert (ann.up(), bob.up()) == (["bob"], ["ann"])


# --- paths ------------------------------------------------------------------------------------------------------------


def move(street: Street, station: Station, host: str) -> None:
    del street.stations[station.endpoint]
    station.endpoint = Endpoint(host, 4655)
    street.stations[station.endpoint] = station


def test_who_moves_is_followed_within_seconds() -> None:
    street, ann, bob = pair()
    move(street, bob, "198.51.100.9")
    bob.talk(ann)
    street.run(2 * SECOND)
    assert ann.path_to(bob) == Path(PathKind.UDP, bob.endpoint)
    assert bob.up() == ["ann"]
    assert not ann.events(PeerDown)


def test_a_copy_from_elsewhere_redirects_nothing_and_costs_at_most_three_times_its_size() -> None:
    """Somebody on the way forwards every datagram from his own address, and never passes an answer on."""
    street, ann, bob = pair()
    before = ann.path_to(bob)
    heard = 0
    for _ in range(30):
        bob.talk(ann)
        original = street.parcels[-1]
        ann.receive(Parcel(NOWHERE, ann.endpoint, original.data, original.keys, original.user))
        heard += original.size
        street.run(SECOND // 2)
    assert ann.path_to(bob) == before
    peer_of(ann, bob).initiate(ann.now)
    street.run(10 * SECOND)
    assert sum(p.size for p in street.parcels if p.target == NOWHERE) <= UNPROVEN_FACTOR * heard


def test_initiations_do_not_go_to_an_address_that_was_only_heard_beyond_its_credit() -> None:
    street, ann, bob = pair()
    bob.talk(ann)
    original = street.parcels[-1]
    ann.receive(Parcel(NOWHERE, ann.endpoint, original.data, original.keys, original.user))
    bob.crash()
    street.run(600 * SECOND)
    assert len(initiations(street, ann)) > 20
    assert sum(p.size for p in street.parcels if p.target == NOWHERE) <= UNPROVEN_FACTOR * original.size


def test_a_replayed_probe_of_a_stranger_is_answered_within_his_credit() -> None:
    street, ann, bob = pair()
    path = Path(PathKind.UDP, NOWHERE)
    probe = RawFrame(FrameType.PROBE, 0, Probe(bytes(8), ProbeMode.LIVENESS).pack())
    index = ann.plane.using[bob.person.id]
    size = MINIMUM_DATA + 52
    ann.node.handle_frames(Opened(bob.person.id, index, path, ann.now.boot, 0, size, (probe,) * 20), ann.now)
    ann.settle()
    assert sum(p.size for p in street.parcels if p.target == NOWHERE) <= UNPROVEN_FACTOR * size
    assert ann.node.counters["drop echo budget"] > 0


def test_what_answers_and_probes_an_initiation_from_elsewhere_is_within_the_credit_too() -> None:
    street, ann, bob = pair()
    street.drops = lambda parcel: parcel.target == ann.endpoint
    peer_of(bob, ann).initiate(bob.now)
    bob.settle()
    original = initiations(street, bob)[0]
    street.drops = lambda parcel: False
    ann.receive(Parcel(NOWHERE, ann.endpoint, original.data))
    street.run(900 * SECOND)
    there = [p for p in street.parcels if p.target == NOWHERE]
    assert len(there) > 3
    assert sum(p.size for p in there) <= UNPROVEN_FACTOR * original.size


def test_a_hint_is_tried_at_once() -> None:
    street, ann, bob = pair()
    ann.command(Hint(bob.person.id, NOWHERE))
    street.run(SECOND)
    assert [p for p in street.parcels if p.target == NOWHERE]
    ann.command(Hint(bob.person.id, NOWHERE))
    ann.command(Hint(PeerId(bytes(16)), NOWHERE))
    ann.command(Hint(bob.person.id, ann.endpoint))
    street.run(SECOND)
    assert not [p for p in street.parcels if p.target == ann.endpoint == p.source]


def test_all_addresses_of_a_record_are_tried_at_once() -> None:
    street, ann, bob = pair()
    bob.stop()
    street.run(SECOND)
    street.parcels.clear()
    others = tuple(Endpoint("203.0.113.1", port) for port in range(1, 5))
    peer_of(ann, bob).offer([Path(PathKind.UDP, e) for e in others], Origin.RECORD, ann.now)
    ann.settle()
    assert {p.target for p in initiations(street, ann)} >= set(others)
    assert len({p.data for p in initiations(street, ann)}) == 1


def test_with_many_addresses_the_best_are_tried_each_time_and_the_others_in_turn() -> None:
    street, ann, bob = pair()
    for number in range(CANDIDATES_PER_PEER):
        ann.command(Hint(bob.person.id, Endpoint("203.0.113.1", 1 + number)))
    bob.crash()
    street.run(REJECT_AFTER_TIME)
    street.parcels.clear()
    street.run(60 * SECOND)
    rounds = Counter(p.data[4:8] for p in initiations(street, ann))
    assert max(rounds.values()) <= INITIATION_PATHS
    assert len({p.target for p in initiations(street, ann)}) == CANDIDATES_PER_PEER


def test_a_rekey_asks_only_on_the_path_in_use_at_first() -> None:
    street, ann, bob = pair()
    ann.command(Hint(bob.person.id, NOWHERE))
    street.run(SECOND)
    street.parcels.clear()
    bob.crash()
    peer_of(ann, bob).initiate(ann.now)
    ann.settle()
    assert [p.target for p in initiations(street, ann)] == [bob.endpoint]


def test_the_addresses_at_which_we_are_seen_are_few_however_the_other_moves_about() -> None:
    """A member that answers our probes from ever new addresses fills no table."""
    street, ann, bob = pair()
    for number in range(200):
        move(street, bob, f"198.51.100.{1 + number}")
        bob.talk(ann)
        street.run(300 * MILLISECOND)
    peer = peer_of(ann, bob)
    assert len(peer.reflexive) <= CANDIDATES_PER_PEER
    assert len(peer._counted) <= CANDIDATES_PER_PEER
    assert len(peer._answered) <= CANDIDATES_PER_PEER
    assert ann.up() == ["bob"]


def test_datagrams_without_a_note_do_not_add_up() -> None:
    _street, ann, bob = pair()
    index = ann.plane.using[bob.person.id]
    for number in range(1000):
        path = Path(PathKind.UDP, Endpoint("198.51.100.1", 1 + number))
        frame = RawFrame(99, 0, b"")
        ann.node.handle_frames(Opened(bob.person.id, index, path, ann.now.boot, 0, 40, (frame,)), ann.now)
    assert len(peer_of(ann, bob)._counted) <= 2 * CANDIDATES_PER_PEER


def test_a_size_that_the_kernel_refuses_is_not_used_any_more() -> None:
    _street, ann, bob = pair()
    quality = peer_of(ann, bob).quality
    assert quality is not None
    assert quality.confirmed
    before = quality.mtu
    ann.command(TooBig(bob.person.id, Path(PathKind.UDP, NOWHERE), before))
    assert quality.mtu == before
    ann.command(TooBig(bob.person.id, quality.path, before))
    assert quality.mtu < before
    ann.command(TooBig(PeerId(bytes(16)), quality.path, before))


def test_quality_is_not_probed_without_keys() -> None:
    street, ann, bob = pair()
    bob.stop()
    street.run(SECOND)
    street.parcels.clear()
    peer_of(ann, bob).handle_timer("quality", ann.now)
    ann.settle()
    assert street.parcels == []


def test_with_several_sockets_a_path_over_ipv4_is_tried_from_each() -> None:
    street, ann, bob = pair()
    ann.crash()
    ann.config = replace(ann.config, ports=3)
    ann.start()
    street.run(5 * SECOND)
    direct = Path(PathKind.UDP, bob.endpoint)
    tried = {c.path for c in peer_of(ann, bob).paths.candidates() if c.path.remote == bob.endpoint}
    assert tried == {direct._replace(local=local) for local in range(3)}
    assert ann.path_to(bob) == direct
    assert set(ann.plane.proven[bob.person.id]) == tried


# --- pings ------------------------------------------------------------------------------------------------------------


def test_a_ping_measures_the_path() -> None:
    street, ann, bob = pair()
    token = ann.node.ping(bob.person.id, ann.now)
    ann.settle()
    assert token is not None
    street.run(SECOND)
    assert ann.events(Pong) == [Pong(bob.person.id, token, 2 * LATENCY, Path(PathKind.UDP, bob.endpoint))]


def test_there_is_no_ping_without_a_way() -> None:
    street, ann, bob = pair()
    assert ann.node.ping(PeerId(bytes(16)), ann.now) is None
    bob.stop()
    street.run(SECOND)
    assert ann.node.ping(bob.person.id, ann.now) is None


def test_pings_that_nobody_answers_are_forgotten() -> None:
    _street, ann, bob = pair()
    bob.crash()
    for _ in range(10 * MAX_PINGS):
        ann.node.ping(bob.person.id, ann.now)
    assert len(peer_of(ann, bob)._pings) <= MAX_PINGS


@pytest.mark.parametrize("mode", ProbeMode)
def test_an_echo_that_nobody_asked_for_is_refused(mode: ProbeMode) -> None:
    _street, ann, bob = pair()
    echo = RawFrame(FrameType.ECHO, 0, Echo(bytes(8), mode, 0, 88, None).pack())
    path = Path(PathKind.UDP, bob.endpoint)
    index = ann.plane.using[bob.person.id]
    ann.node.handle_frames(Opened(bob.person.id, index, path, ann.now.boot, 0, 88, (echo,)), ann.now)
    assert ann.node.counters["drop echo unasked"] == 1


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        (Path(PathKind.UDP, Endpoint("198.51.100.1", 9)), Endpoint("198.51.100.1", 9)),
        (Path(PathKind.UDP, Endpoint("fe80::1%2", 9)), None),
    ],
)
def test_an_echo_says_where_the_probe_was_seen_to_come_from(path: Path, seen: Endpoint | None) -> None:
    street, ann, bob = pair()
    probe = RawFrame(FrameType.PROBE, 0, Probe(b"12345678", ProbeMode.ECN, 200).pack())
    index = ann.plane.using[bob.person.id]
    ann.node.handle_frames(Opened(bob.person.id, index, path, ann.now.boot, 2, 240, (probe,)), ann.now)
    ann.settle()
    echoed = [p for p in street.parcels if p.target == path.remote and p.data[:1] == bytes([FrameType.ECHO])]
    echo = parse_echo_untrusted(echoed[-1].data[4:])
    assert echo == Echo(b"12345678", ProbeMode.ECN, 2, 240, seen)


# --- what the data plane and people are told --------------------------------------------------------------------------


def test_up_and_down_are_told_once() -> None:
    street, ann, bob = pair()
    street.run(300 * SECOND)
    assert len(ann.events(PeerUp)) == 1
    peer = peer_of(ann, bob)
    assert (peer.up, peer.why) == (True, "")
    assert BOOT < peer.since < street.time


def test_a_key_with_which_no_handshake_is_possible_harms_nobody() -> None:
    """An admin may grant anything, also a static key of low order; nobody's node shall die of it."""
    street, ann, bob = pair()
    fool = Person("fool")
    for station in (ann, bob):
        station.node.membership.add_untrusted(grant(Person("root"), fool, static=bytes(32)), station.now.wall)
        station.node.handle_command(LinkChanged(), station.now)
        station.node._sync_members(station.now)
        station.node.handle_command(Hint(fool.id, NOWHERE), station.now)
        station.settle()
    street.run(60 * SECOND)
    assert ann.up() == ["bob"]
    assert ann.node.counters["drop bad point"] > 0
    assert len(ann.node._context.indices) == len(ann.plane.sessions)


def test_a_new_static_key_means_a_new_start() -> None:
    street, ann, bob = pair()
    other = Person("bob's other key")
    for station in (ann, bob):
        body = grant(Person("root"), bob.person, serial=9, static=other.static)
        station.node.membership.add_untrusted(body, station.now.wall)
    ann.node._sync_members(ann.now)
    ann.settle()
    assert keys_for(ann, bob) == []
    assert ann.up() == []
    bob.crash()
    bob.config = type(bob.config)(bob.person.seed, other.static_secret)
    bob.disk = pack_state(ann.node.stored_state())
    bob.start()
    street.run(5 * SECOND)
    assert (ann.up(), bob.up()) == (["bob"], ["ann"])


def test_a_new_grant_with_the_same_key_changes_what_it_may_send_and_nothing_else() -> None:
    _street, ann, bob = pair()
    sessions = dict(ann.plane.sessions)
    body = grant(
        Person("root"), bob.person, serial=9, roles=Role.ROUTER, prefixes=((bytes((10, 0, 0, 0)), 8),)
    )
    ann.node.membership.add_untrusted(body, ann.now.wall)
    ann.node._sync_members(ann.now)
    ann.settle()
    assert ann.plane.sessions == sessions
    admitted = ann.plane.admitted[bob.person.id]
    assert (admitted.router, admitted.prefixes) == (True, ((bytes((10, 0, 0, 0)), 8),))
