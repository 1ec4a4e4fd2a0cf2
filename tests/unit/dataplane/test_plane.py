"""The two straight lines of the mill with plain packets."""

import dataclasses

import pytest

from meshnode.dataplane.api import DataPlane
from meshnode.dataplane.config import COPY_DSCP, ZERO_DSCP, PlaneConfig
from meshnode.values import (
    SECOND,
    Capability,
    Datagram,
    Endpoint,
    InstallSession,
    LimitRate,
    Opened,
    Path,
    PathKind,
    ProvePaths,
    RemovePeer,
    RetireSession,
    SendFrames,
    TrafficNote,
    Unsendable,
    UsePath,
    UseSession,
)
from meshnode.wire.frames import FrameType, Probe, ProbeMode, pack_frame
from meshnode.wire.header import CONTROL_TAG, SPARSE_TAG, parse_data_header_untrusted
from tests.sim import inner
from tests.unit.dataplane.packets import SYN, Tcp, Udp, checksums_right
from tests.unit.dataplane.pair import (
    ALL,
    Mill,
    address,
    keys,
    link_local,
    pair,
    peer_id,
    udp_path,
)

A4, B4, A6, B6 = address(1), address(2), address(1, 6), address(2, 6)


def udp(payload: bytes = b"hello", tos: int = 0, port: int = 7000) -> bytes:
    return Udp(A4, B4, payload, (port, 7001), tos).build()


def notes(mill: Mill) -> list[TrafficNote]:
    return [note for note in mill.plane.take_notes() if isinstance(note, TrafficNote)]


def test_the_plane_is_a_data_plane() -> None:
    plane: DataPlane = pair()[0].plane
    assert plane.take_notes() == []


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_crosses(version: int) -> None:
    a, b = pair()
    packet = inner.udp(address(1, version), address(2, version), (1, 2), b"x" * 1000)
    a.push(packet)
    (batch,) = a.batches()
    assert batch.peer == b.id
    assert batch.path == udp_path(2)
    b.receive([batch], 1)
    assert b.packets() == [packet]
    (sent,) = notes(a)
    assert (sent.sent, sent.sent_data, sent.sent_bytes, sent.highest_sent) == (1, 1, len(batch.data), 0)
    (received,) = notes(b)
    assert (received.received, received.received_data, received.received_bytes) == (1, 1, len(batch.data))
    assert notes(a) == notes(b) == []


def test_small_packets_of_sparse_flows_share_a_datagram() -> None:
    a, b = pair()
    packets = [udp(b"x" * 40, port=port) for port in range(100, 110)]
    a.push(*packets)
    (batch,) = a.batches()
    header = parse_data_header_untrusted(bytes(batch.data))
    assert header.tag == SPARSE_TAG
    b.receive([batch], 1)
    assert b.packets() == packets


def test_packets_of_one_flow_share_under_its_tag() -> None:
    a, b = pair()
    packets = [udp(bytes((n,)) * 40) for n in range(60)]
    a.push(*packets)
    batches = a.batches()
    datagrams = [bytes(data) for batch in batches for data in batch.datagrams()]
    assert len(datagrams) <= 5  # a quantum and a full datagram end at different packets
    tags = [parse_data_header_untrusted(data).tag for data in datagrams]
    assert tags[0] == SPARSE_TAG  # one quantum, and the flow is sparse no more
    assert len(set(tags)) == 2
    b.receive(batches, 1)
    assert b.packets() == packets


def test_a_flow_keeps_to_its_own_tag_for_a_while() -> None:
    a, _ = pair()
    a.push(udp(b"x" * 1000))
    a.push(udp())
    tags = [parse_data_header_untrusted(bytes(batch.data)).tag for batch in a.batches()]
    a.push(udp())
    (batch,) = a.batches()
    assert {*tags, parse_data_header_untrusted(bytes(batch.data)).tag} == {tags[0]}
    a.advance(SECOND)
    a.push(udp())
    (batch,) = a.batches()
    assert parse_data_header_untrusted(bytes(batch.data)).tag == SPARSE_TAG


def test_only_one_dscp_and_ecn_value_in_a_datagram() -> None:
    a, b = pair()
    packets = [udp(tos=tos, port=port) for port, tos in ((1, 0), (2, 2), (3, 0xB8))]
    a.push(*packets)
    batches = a.batches()
    assert [batch.dscp_ecn for batch in batches] == [0, 2, 0]  # DSCP stays inside
    flags = [parse_data_header_untrusted(bytes(batch.data)).flags for batch in batches]
    assert flags == [0, 1, 0]
    b.receive(batches, 1)
    assert b.packets() == packets


def test_counters_follow_the_queue_order_and_start_at_zero() -> None:
    a, _ = pair()
    a.push(*(udp(b"x" * 1300) for _ in range(5)), udp(b"sparse", port=9))
    datagrams = [bytes(data) for batch in a.batches() for data in batch.datagrams()]
    assert [parse_data_header_untrusted(data).counter for data in datagrams] == list(range(len(datagrams)))


def test_full_packets_of_a_flow_make_one_batch() -> None:
    a, b = pair()
    packets = [udp(bytes((n,)) * 1300) for n in range(4)]
    a.push(*packets)
    (batch,) = a.batches()
    assert len(batch.datagrams()) == 4
    b.receive_merged([batch], 1)
    assert b.packets() == packets


def test_a_replay_is_dropped_before_and_after_the_queue() -> None:
    a, b = pair()
    a.push(udp())
    batches = a.batches()
    b.receive(batches, 1)
    b.receive(batches, 1)  # both wait in the queue now
    assert len(b.packets()) == 1
    b.receive(batches, 1)
    assert b.packets() == []
    assert b.plane.counters["in replay"] == 2


@pytest.mark.parametrize("position", [1, 2, 15, 20, -1])
def test_a_changed_byte_opens_nothing(position: int) -> None:
    a, b = pair()
    a.push(udp())
    data = bytearray(a.batches()[0].data)
    data[position] ^= 1
    b.plane.push_datagrams([Datagram(bytes(data), udp_path(1), b.now.boot)], b.now)
    assert b.packets() == []
    assert b.plane.counters["in bad tag"] == 1
    assert notes(b) == []


@pytest.mark.parametrize(
    ("data", "counter"),
    [
        (b"", "in length"),
        (b"\x04" * 35, "in length"),
        (b"\x01" + bytes(40), "in type"),
        (b"\x04" + bytes(40), "in index"),
    ],
)
def test_what_cannot_be_ours_is_counted(data: bytes, counter: str) -> None:
    _, b = pair()
    b.plane.push_datagrams([Datagram(data, udp_path(1), b.now.boot)], b.now)
    assert not b.run()
    assert b.plane.counters == {counter: 1}


def test_control_frames_go_first_on_their_own_path() -> None:
    a, b = pair()
    a.push(udp())
    frame = pack_frame(FrameType.PROBE, Probe(b"token567", ProbeMode.ECN).pack())
    other = udp_path(9)
    a.plane.send_frames(SendFrames(b.id, frame, other, ecn=2), a.now)
    first, second = a.batches()
    assert (first.path, first.dscp_ecn) == (other, 2)
    assert parse_data_header_untrusted(bytes(first.data)).tag == CONTROL_TAG
    b.receive([first], 1)
    b.run()
    (opened,) = b.plane.take_opened()
    assert isinstance(opened, Opened)
    assert (opened.peer, opened.local_index, opened.path, opened.ecn) == (a.id, 22, udp_path(1), 2)
    assert opened.size == len(first.data)
    assert [(raw.type, raw.body[:8]) for raw in opened.frames] == [(FrameType.PROBE, b"token567")]
    (note,) = notes(b)
    assert (note.received, note.received_data) == (1, 0)
    assert second.path == udp_path(2)


def test_a_keepalive_is_only_a_note() -> None:
    a, b = pair()
    a.plane.send_frames(SendFrames(b.id, b""), a.now)
    (batch,) = a.batches()
    assert len(batch.data) == 36
    b.receive([batch], 1)
    assert b.packets() == []
    assert b.plane.take_opened() == []
    (note,) = notes(b)
    assert (note.received, note.received_data) == (1, 0)


def test_control_is_bounded_and_needs_a_session() -> None:
    a, b = pair()
    for _ in range(100):
        a.plane.send_frames(SendFrames(b.id, b""), a.now)
    assert sum(len(batch.datagrams()) for batch in a.batches()) == 64
    assert a.plane.counters["control overflow"] == 36
    a.plane.send_frames(SendFrames(b.id, b"", local_index=99), a.now)
    a.plane.send_frames(SendFrames(peer_id(9), b""), a.now)
    assert a.batches() == []
    assert a.plane.counters["control unsendable"] == 2


def test_packets_wait_for_a_session_and_the_core_hears_of_it_once_a_second() -> None:
    a, _ = pair()
    a.plane.apply(RetireSession(peer_id(2), 11), a.now)
    for _ in range(3):
        a.push(udp())
    assert a.batches() == []
    assert a.plane.take_notes() == [Unsendable(peer_id(2))]
    a.advance(SECOND)
    a.push(*(udp() for _ in range(200)))
    assert a.plane.take_notes() == [Unsendable(peer_id(2))]
    assert a.plane.counters["out no session"] == 75
    a.connect(2, keys(33, 44, True))
    batches = a.batches()
    assert batches
    assert all(parse_data_header_untrusted(bytes(batch.data)).receiver_index == 44 for batch in batches)


def test_what_waited_too_long_is_not_sent_any_more() -> None:
    a, _ = pair()
    a.plane.apply(UsePath(peer_id(2), None), a.now)
    a.push(udp())
    a.advance(6 * SECOND)
    a.plane.apply(UsePath(peer_id(2), udp_path(2)), a.now)
    assert a.batches() == []
    a.push(udp())
    assert len(a.batches()) == 1


def test_a_retired_session_opens_nothing_even_from_the_queue() -> None:
    a, b = pair()
    a.push(udp())
    batches = a.batches()
    b.receive(batches, 1)
    b.plane.apply(RetireSession(peer_id(1), 22), b.now)
    assert b.packets() == []
    b.receive(batches, 1)
    assert b.plane.counters == {"in retired session": 1, "in index": 1}


def test_a_removed_peer_leaves_nothing_behind() -> None:
    a, b = pair()
    a.push(udp(), udp(b"x" * 1300))
    a.plane.apply(RemovePeer(b.id), a.now)
    assert a.batches() == []
    a.push(udp())
    assert a.plane.counters["out no route"] == 1
    assert a.plane.status(b.id) is None


def test_unproven_paths_are_served_too() -> None:
    a, b = pair()
    b.plane.apply(ProvePaths(a.id, ()), b.now)
    a.push(udp())
    b.receive(a.batches(), 1)
    assert b.packets() == [udp()]


# --- who may send what --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "destination", "counter"),
    [
        (bytes((10, 77, 0, 9)), B4, "in source foreign"),
        (bytes((127, 0, 0, 1)), B4, "in source martian"),
        (bytes(16), B6, "in source martian"),
        (B4, B4, "in source ours"),
        (link_local(9), link_local(2), "in source link-local"),
        (A4, A4, "in loop"),
        (A4, bytes((239, 1, 1, 1)), "in multicast"),
    ],
)
def test_a_plain_member_sends_only_what_is_its_own(source: bytes, destination: bytes, counter: str) -> None:
    a, b = pair()
    evil = Udp(source, destination, b"x").build()
    a.plane.send_frames(SendFrames(b.id, pack_frame(FrameType.PACKET, evil)), a.now)
    b.receive(a.batches(), 1)
    assert b.packets() == []
    assert b.plane.counters == {counter: 1}


def test_a_router_forwards_for_others_and_a_granted_prefix_counts() -> None:
    a, b = pair()
    outside = Udp(bytes((192, 168, 5, 5)), B4, b"x").build()
    frame = SendFrames(b.id, pack_frame(FrameType.PACKET, outside))
    b.admit(1, prefixes=((bytes((192, 168, 0, 0)), 16),))
    a.plane.send_frames(frame, a.now)
    b.receive(a.batches(), 1)
    assert b.packets() == [outside]
    b.admit(1, router=True)
    a.plane.send_frames(frame, a.now)
    b.receive(a.batches(), 1)
    assert b.packets() == [outside]
    b.admit(1)
    a.plane.send_frames(frame, a.now)
    b.receive(a.batches(), 1)
    assert b.packets() == []


def test_a_default_grant_does_not_cover_the_prefix_of_another() -> None:
    a, b = pair()
    b.admit(1, prefixes=((bytes(4), 0),))
    b.admit(3, prefixes=((bytes((192, 168, 0, 0)), 16),))
    for last, delivered in ((bytes((192, 168, 5, 5)), 0), (bytes((8, 8, 8, 8)), 1)):
        packet = Udp(last, B4, b"x").build()
        a.plane.send_frames(SendFrames(b.id, pack_frame(FrameType.PACKET, packet)), a.now)
        b.receive(a.batches(), 1)
        assert len(b.packets()) == delivered


def test_link_local_multicast_reaches_every_peer_that_is_up() -> None:
    a, b = pair()
    a.admit(3)
    a.connect(3, keys(12, 33, True))
    a.admit(4)  # no session
    babel = inner.udp(
        link_local(1), bytes.fromhex("ff020000000000000000000000010006"), (6696, 6696), b"hello"
    )
    a.push(babel)
    batches = a.batches()
    assert [batch.peer for batch in batches] == [peer_id(2), peer_id(3)]
    b.receive(batches[:1], 1)
    assert b.packets() == [babel]
    a.push(Udp(A4, bytes((239, 1, 1, 1)), b"x").build())
    assert a.plane.counters["out multicast"] == 1


# --- ECN ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner_bits", range(4))
@pytest.mark.parametrize("outer", range(4))
def test_rfc_6040_in_all_sixteen_cells(inner_bits: int, outer: int) -> None:
    a, b = pair()
    a.push(udp(tos=0xB8 | inner_bits))
    b.receive(a.batches(), 1, ecn=outer)
    packets = b.packets()
    if inner_bits == 0 and outer == 3:
        assert packets == []
        assert b.plane.counters["in ce on not-ect"] == 1
        return
    expected = inner_bits
    if inner_bits and outer == 3:
        expected = 3
    elif (inner_bits, outer) == (2, 1):
        expected = 1
    (packet,) = packets
    assert packet[1] == 0xB8 | expected
    assert checksums_right(packet)


@pytest.mark.parametrize(
    ("ecn", "capabilities", "outer"), [(True, ALL, 2), (False, ALL, 0), (True, Capability.NONE, 0)]
)
def test_the_outer_ecn_bits_follow_path_and_capability(
    ecn: bool, capabilities: Capability, outer: int
) -> None:
    a, _ = pair(ecn=ecn, capabilities=capabilities)
    a.push(udp(tos=2))
    assert [batch.dscp_ecn for batch in a.batches()] == [outer]


# --- sizes --------------------------------------------------------------------------------------


def test_a_packet_that_does_not_fit_is_refused_by_icmp() -> None:
    a, _ = pair(mtu=1280)
    big = udp(b"x" * 1300)
    a.push(big)
    assert a.batches() == []
    (answer,) = a.packets()
    assert answer[20:22] == bytes((3, 4))
    assert int.from_bytes(answer[26:28], "big") == 1280 - 28 - 36 - 8
    assert answer[28 : 28 + 100] == big[:100]
    assert checksums_right(answer)
    assert (answer[12:16], answer[16:20]) == (B4, A4)
    big6 = inner.udp(A6, B6, (1, 2), b"x" * 1300)
    a.push(big6)
    (answer,) = a.packets()
    assert answer[40:42] == bytes((2, 0))
    assert int.from_bytes(answer[44:48], "big") == 1280
    assert checksums_right(answer)


def test_icmp_answers_are_rate_limited() -> None:
    a, _ = pair(mtu=1280)
    a.push(*(udp(b"x" * 1300) for _ in range(100)))
    assert len(a.packets()) == 50
    assert a.plane.counters["icmp rate"] == 50
    a.advance(SECOND)
    a.push(udp(b"x" * 1300))
    assert len(a.packets()) == 1


@pytest.mark.parametrize("mtu", [1280, 576])
def test_what_may_not_be_refused_travels_in_pieces(mtu: int) -> None:
    a, b = pair(mtu=mtu)
    big = bytearray(udp(b"x" * 1300))
    big[6] = 0  # may be fragmented
    big[10:12] = (0).to_bytes(2, "big")
    total = sum(int.from_bytes(big[n : n + 2], "big") for n in range(0, 20, 2))
    big[10:12] = (~(total % 0xFFFF) & 0xFFFF).to_bytes(2, "big")
    small6 = inner.udp(A6, B6, (1, 2), b"x" * 1200)
    a.push(bytes(big), small6)
    batches = a.batches()
    assert all(len(data) <= mtu - 28 for batch in batches for data in batch.datagrams())
    b.receive(batches, 1)
    assert b.packets() == [bytes(big), small6]


@pytest.mark.parametrize("version", [4, 6])
def test_mss_is_clamped_both_ways(version: int) -> None:
    a, b = pair(mtu=1400)
    syn = Tcp(
        address(1, version), address(2, version), flags=SYN, options=b"\x01\x02\x04\x05\xb4\x01\x01\x00"
    ).build()
    a.push(syn)
    b.receive(a.batches(), 1)
    (packet,) = b.packets()
    start = (20 if version == 4 else 40) + 23
    mss = int.from_bytes(packet[start : start + 2], "big")
    assert mss == 1400 - 28 - 36 - 8 - (40 if version == 4 else 60)
    assert checksums_right(packet)
    a.plane.apply(UsePath(b.id, udp_path(2), 9000), a.now)
    a.push(syn)
    b.receive(a.batches(), 1)
    assert b.packets() == [packet]


def test_status_counts_what_passed() -> None:
    a, b = pair()
    a.push(udp(), udp())
    b.receive(a.batches(), 1)
    b.run()
    sent, received = a.plane.status(b.id), b.plane.status(a.id)
    assert sent is not None
    assert received is not None
    assert (sent.sent_packets, received.received_packets, received.received_bytes) == (2, 2, 2 * len(udp()))


def test_hostile_frames_inside_a_valid_seal_are_counted() -> None:
    a, b = pair()
    hostile = [
        b"\x01\x00\xff\xffxx",  # past the end
        b"\x01\x00\x00",  # no header
        pack_frame(FrameType.PACKET, b""),
        pack_frame(FrameType.PACKET, b"\x45" + bytes(10)),
        pack_frame(FrameType.PACKET, b"\x00" * 40),
        pack_frame(FrameType.FRAGMENT, bytes(9)),
        pack_frame(99, b"from the future"),
        pack_frame(FrameType.PADDING, bytes(100)),
        pack_frame(FrameType.PACKET, udp()[:-1]),
        pack_frame(FrameType.PACKET, inner.echo_request(A4, B4, 1, 1, b"x"), flags=1),
    ]
    for payload in hostile:
        a.plane.send_frames(SendFrames(b.id, payload), a.now)
    b.receive(a.batches(), 1)
    assert b.packets() == []
    assert sum(b.plane.counters.values()) == len(hostile) - 1
    assert b.plane.take_opened() == []


def test_the_key_limit_stops_the_seal() -> None:
    a, b = pair()
    session = a.plane._peers[b.id].session
    assert session is not None
    session.counter = session.reject_after - 1
    a.push(udp(b"x" * 1300), udp(b"x" * 1300))
    assert len(a.batches()) == 1
    assert a.plane.counters["out key exhausted"] == 1


def test_keys_are_not_shown() -> None:
    session = keys(1, 2, True)
    assert "01" * 4 not in repr(dataclasses.replace(session)).replace("\\x", "")


def test_a_joiner_that_stays_a_stranger_leaves_nothing_behind() -> None:
    a, _ = pair()
    stranger = peer_id(7)
    a.connect(7, keys(77, 78, True))
    assert a.plane.status(stranger) is not None
    a.plane.apply(RetireSession(stranger, 77), a.now)
    assert a.plane.status(stranger) is None
    a.plane.apply(RetireSession(peer_id(2), 11), a.now)
    assert a.plane.status(peer_id(2)) is not None


def test_commands_that_came_too_late_change_nothing() -> None:
    a, b = pair()
    nobody = peer_id(99)
    for command in (
        RemovePeer(nobody),
        RetireSession(nobody, 1),
        RetireSession(b.id, 999),
        UseSession(b.id, 999),
        UsePath(nobody, None),
        LimitRate(nobody, 5),
    ):
        a.plane.apply(command, a.now)
    a.push(udp())
    assert len(a.batches()) == 1


def test_an_index_that_is_used_again_belongs_to_the_new_session() -> None:
    a, b = pair()
    a.push(udp())
    old = a.batches()
    b.plane.apply(InstallSession(a.id, keys(22, 33, True)), b.now)  # other keys
    b.receive(old, 1)
    assert b.packets() == []
    assert b.plane.counters["in bad tag"] == 1


@pytest.mark.parametrize(
    ("path", "overhead"),
    [
        (udp_path(2), 28),
        (udp_path(200), 48),
        (Path(PathKind.TCP, Endpoint("192.0.2.2", 443)), 74),
    ],
)
def test_datagrams_fit_their_path(path: Path, overhead: int) -> None:
    a, _ = pair()
    a.plane.apply(UsePath(peer_id(2), path, 1280), a.now)
    a.push(*(udp(b"x" * 40, port=port) for port in range(100)), udp(b"x" * (1280 - overhead - 36 - 4 - 28)))
    datagrams = [data for batch in a.batches() for data in batch.datagrams()]
    assert max(map(len, datagrams)) == 1280 - overhead


def test_held_packets_of_a_peer_that_never_comes_are_replaced() -> None:
    a, _ = pair()
    a.plane.apply(UsePath(peer_id(2), None), a.now)
    a.push(*(udp(b"old") for _ in range(128)))
    a.advance(6 * SECOND)
    a.push(udp(b"new"))
    a.plane.apply(UsePath(peer_id(2), udp_path(2)), a.now)
    (batch,) = a.batches()
    assert len(batch.data) < 100
    assert a.plane.counters["out queue cleared"] == 128


def test_a_sealed_path_without_room_for_fragments_drops() -> None:
    a, b = pair(capabilities=ALL & ~Capability.FRAGMENT, mtu=576)
    a.push(inner.udp(A6, B6, (1, 2), b"x" * 1200))
    assert a.batches() == []
    assert a.plane.counters["out unfragmentable"] == 1
    assert b.packets() == []


def test_nonsense_settings_are_refused() -> None:
    for nonsense in ({"queue": "lifo"}, {"entropy": "much"}, {"dscp": b"\x40" * 64}, {"dscp": b""}):
        with pytest.raises(ValueError, match=next(iter(nonsense))):
            dataclasses.replace(PlaneConfig(), **nonsense)


@pytest.mark.parametrize(("table", "outer"), [(ZERO_DSCP, 2), (COPY_DSCP, 0xBA)])
def test_the_outer_dscp_follows_its_policy(table: bytes, outer: int) -> None:
    a, _ = pair(PlaneConfig((A4,), link_local(1), dscp=table))
    a.push(udp(tos=0xBA))
    assert [batch.dscp_ecn for batch in a.batches()] == [outer]
