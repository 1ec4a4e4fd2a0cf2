"""Who gets the CPU, the rate and the memory when there is not enough for all."""

from __future__ import annotations

import dataclasses
from collections import Counter
from random import Random

import pytest

from meshnode.dataplane.api import Batch
from meshnode.dataplane.config import PlaneConfig
from meshnode.dataplane.sources import MAX_BAD_TAGS, Source
from meshnode.values import (
    MILLISECOND,
    SECOND,
    Datagram,
    LimitRate,
    Nanos,
    Path,
    PeerId,
    ProvePaths,
    RemovePeer,
    SendFrames,
)
from meshnode.wire.frames import FrameType, pack_frame
from meshnode.wire.header import parse_data_header_untrusted
from tests.unit.dataplane.packets import Udp, checksums_right
from tests.unit.dataplane.pair import Mill, address, keys, link_local, pair, peer_id, udp_path
from tests.unit.dataplane.test_trains import FULL, config, send, superpacket, tcp

TURN = MILLISECOND


def hub(peers: int, plane: PlaneConfig | None = None) -> Mill:
    """Node 1 with sessions to the nodes 2 to `peers` + 1."""
    mill = Mill(1, plane or config(1))
    for number in range(2, peers + 2):
        mill.admit(number)
        mill.connect(number, keys(100 + number, 200 + number, True))
    return mill


def spoke(number: int) -> Mill:
    """The other end of the hub's session with `number`."""
    mill = Mill(number, config(number))
    mill.admit(1)
    mill.connect(1, keys(200 + number, 100 + number, False))
    return mill


def to(number: int, size: int = 1000, port: int = 7000, tos: int = 0) -> bytes:
    return Udp(address(1), address(number), bytes(size), (port, 7001), tos).build()


def sealed_bytes(batches: list[Batch]) -> Counter[PeerId]:
    total: Counter[PeerId] = Counter()
    for batch in batches:
        total[batch.peer] += len(batch.data)
    return total


# --- across peers and directions --------------------------------------------------------------------------------------


def test_peers_get_the_same_time_whatever_their_packets_are() -> None:
    mill = hub(3)
    sealed: Counter[PeerId] = Counter()
    small = [to(4, 20) for _ in range(700)]
    train = superpacket(tcp(40_000)._replace(destination=address(2)), 1300)
    for _ in range(25):
        mill.plane.push_packets([train], mill.now)
        mill.push(*(to(3) for _ in range(40)), *small)
        mill.plane.work(mill.now, TURN // 4)
        for batch in mill.plane.take_datagrams():
            sealed[batch.peer] += len(batch.data) + 3000 * batch.datagram_count
        mill.advance(TURN)
    shares = [sealed[peer_id(number)] for number in (2, 3, 4)]
    assert max(shares) <= 1.3 * min(shares)


def test_a_flood_to_one_peer_does_not_delay_another() -> None:
    mill = hub(2)
    waited: list[Nanos] = []
    flood = [to(2, 1000, port) for port in range(1000, 1400)]
    for turn in range(60):
        mill.push(*flood)
        if turn % 10 == 0:
            mill.push(to(3, 40))
            asked = mill.now.boot
        mill.plane.work(mill.now, TURN)
        if any(batch.peer == peer_id(3) for batch in mill.plane.take_datagrams()):
            waited.append(mill.now.boot - asked)
        mill.advance(TURN)
    assert len(waited) == 6
    assert max(waited) <= 1 * TURN
    flooded = mill.plane.status(peer_id(2))
    assert flooded is not None
    assert flooded.queue.backlog_packets > 1000


def test_sealing_and_opening_share_the_time() -> None:
    a, b = pair(config(1), config(2))
    opened = sealed = 0
    for turn in range(100):
        incoming = send(a, *(superpacket(tcp(40_000, turn), 1300) for _ in range(4)))
        b.receive_merged(incoming, 1)
        b.plane.push_packets(
            [superpacket(tcp(40_000, turn)._replace(source=address(2), destination=address(1)), 1300)] * 4,
            b.now,
        )
        b.plane.work(b.now, TURN // 2)
        opened += sum(len(packet.data) for packet in b.plane.take_packets())
        sealed += sum(batch.datagram_count for batch in b.plane.take_datagrams())
        a.advance(TURN)
        b.advance(TURN)
    assert opened
    assert sealed
    assert max(opened, sealed) < 1.5 * min(opened, sealed)


def test_work_stops_when_its_time_is_over_and_says_that_there_is_more() -> None:
    mill = hub(1)
    mill.push(*(to(2) for _ in range(100)))
    time = iter(range(0, 10**12, 100_000))
    assert mill.plane.work(mill.now, TURN, lambda: next(time))
    first = sum(batch.datagram_count for batch in mill.plane.take_datagrams())
    assert 0 < first < 100
    while mill.plane.work(mill.now, TURN, lambda: next(time)):
        pass
    assert first + sum(batch.datagram_count for batch in mill.plane.take_datagrams()) == 100


def test_full_sockets_hold_back_user_traffic_but_not_opening_or_control() -> None:
    a, b = pair()
    a.push(Udp(address(1), address(2), b"x").build())
    a.plane.hold_back(True)
    a.plane.send_frames(SendFrames(b.id, b""), a.now)
    b.push(Udp(address(2), address(1), b"y").build())
    a.receive(b.batches(), 2)
    (keepalive,) = a.batches()
    assert len(keepalive.data) == 36
    assert len(a.plane.take_packets()) == 1
    assert not a.plane.work(a.now, TURN)  # no busy loop while they are full
    a.plane.hold_back(False)
    assert len(a.batches()) == 1


# --- rates ------------------------------------------------------------------------------------------------------------


def drain(mill: Mill, time: Nanos) -> list[tuple[Nanos, Batch]]:
    """Run the mill by its own timeouts for `time`; what left, and when."""
    end = mill.now.boot + time
    sent: list[tuple[Nanos, Batch]] = []
    while True:
        mill.plane.work(mill.now, SECOND)
        sent.extend((mill.now.boot, batch) for batch in mill.plane.take_datagrams())
        due = mill.plane.poll_timeout()
        if due is None or due > end:
            mill.advance(end - mill.now.boot)
            return sent
        assert due > mill.now.boot
        mill.advance(due - mill.now.boot)


def on_the_wire(batches: list[Batch]) -> int:
    """Bits with IPv4 and UDP headers."""
    return sum(8 * (len(batch.data) + 28 * batch.datagram_count) for batch in batches)


@pytest.mark.parametrize("size", [1300, 40])
def test_a_peer_is_shaped_to_its_rate_on_the_wire(size: int) -> None:
    mill = hub(1)
    mill.plane.apply(LimitRate(peer_id(2), 10_000_000), mill.now)
    packets = [to(2, size, port) for port in range(100, 110) for _ in range(20 if size > 1000 else 200)]
    for _ in range(8):
        mill.push(*packets)
        sent = drain(mill, 50 * MILLISECOND)
        rate = on_the_wire([batch for _, batch in sent]) * 20
        assert 9_700_000 <= rate <= 10_300_000


def test_control_passes_a_peer_that_is_shaped() -> None:
    mill = hub(1)
    mill.plane.apply(LimitRate(peer_id(2), 100_000), mill.now)
    mill.push(*(to(2) for _ in range(50)))
    mill.plane.work(mill.now, SECOND)
    mill.plane.take_datagrams()
    mill.plane.send_frames(SendFrames(peer_id(2), b""), mill.now)
    mill.plane.work(mill.now, SECOND)
    assert [len(batch.data) for batch in mill.plane.take_datagrams()] == [36]


def test_a_shaped_peer_holds_up_nobody() -> None:
    mill = hub(2)
    mill.plane.apply(LimitRate(peer_id(2), 100_000), mill.now)
    mill.push(*(to(2) for _ in range(50)), *(to(3) for _ in range(50)))
    sent = sealed_bytes(mill.batches())
    assert sent[peer_id(3)] > 50_000
    assert sent[peer_id(2)] < 3000


def test_peers_share_the_uplink() -> None:
    mill = hub(4, dataclasses.replace(config(1), uplink_rate=10_000_000))
    for _ in range(4):
        mill.push(*(to(number) for number in (2, 3, 4, 5) for _ in range(100)))
        sent = [batch for _, batch in drain(mill, 250 * MILLISECOND)]
        assert 9_500_000 <= on_the_wire(sent) * 4 <= 10_300_000
        assert max(sealed_bytes(sent).values()) <= 1.2 * min(sealed_bytes(sent).values())


def test_trains_are_cut_to_a_millisecond_of_the_rate() -> None:
    mill = hub(1)
    mill.plane.apply(LimitRate(peer_id(2), 50_000_000), mill.now)
    mill.plane.push_packets([superpacket(tcp(60_000), 1300)], mill.now)
    sent = drain(mill, 100 * MILLISECOND)
    assert sum(batch.datagram_count for _, batch in sent) == 47
    assert max(batch.datagram_count for _, batch in sent) == 4
    receiver = spoke(2)
    receiver.receive_merged([batch for _, batch in sent], 1)
    assert len(receiver.tun()) == 1  # together again, for they came together


def test_lifting_a_rate_releases_what_waits() -> None:
    mill = hub(1)
    mill.plane.apply(LimitRate(peer_id(2), 10_000), mill.now)
    mill.push(*(to(2) for _ in range(20)))
    assert len(sealed_bytes(mill.batches())) <= 1
    mill.plane.apply(LimitRate(peer_id(2), None), mill.now)
    assert sum(batch.datagram_count for batch in mill.batches()) >= 18


# --- queues -----------------------------------------------------------------------------------------------------------


def test_codel_marks_what_can_be_marked_and_drops_the_rest() -> None:
    mill = hub(1)
    mill.plane.apply(LimitRate(peer_id(2), 10_000_000), mill.now)
    receiver = spoke(2)
    bits: Counter[int] = Counter()
    for _ in range(100):
        mill.push(*(to(2, 1300, 1, tos=2) for _ in range(12)), *(to(2, 1300, 2) for _ in range(12)))
        receiver.advance(10 * MILLISECOND)
        receiver.receive([batch for _, batch in drain(mill, 10 * MILLISECOND)], 1)
        for packet in receiver.packets():
            assert checksums_right(packet)
            bits[packet[1] & 3] += 1
    status = mill.plane.status(peer_id(2))
    assert status is not None
    assert status.queue.marks == bits[3] > 0
    assert mill.plane.counters["out queue codel"] > 0


def test_memory_of_all_peers_together_is_bounded() -> None:
    mill = hub(20, dataclasses.replace(config(1), memory_limit=1 << 20))
    for number in range(2, 22):
        mill.push(*(to(number, 1300, port) for port in range(200)))
    queued = 0
    for number in range(2, 22):
        status = mill.plane.status(peer_id(number))
        assert status is not None
        queued += status.queue.backlog_bytes + 256 * status.queue.backlog_packets
    assert 0 < queued <= 1 << 20
    assert mill.plane.counters["out queue overlimit"] > 0


def test_what_waits_keeps_no_buffer_alive_that_was_mostly_dropped() -> None:
    a, b = pair(config(1), config(2))
    (batch,) = send(a, superpacket(tcp(40_000), 1300))
    mixed = [bytes(data) for data in batch.datagrams()]
    mixed[1:] = [bytes(len(mixed[0]))] * (len(mixed) - 1)
    b.plane.push_datagrams([Datagram(b"".join(mixed), udp_path(1), b.now.boot, 0, batch.segment_size)], b.now)
    run = b.plane._peers[a.id].queue_in.dequeue(b.now.boot)
    assert run is not None
    assert len(run.data) == batch.segment_size
    assert b.plane.counters["in type"] == len(mixed) - 1


def test_at_most_4096_datagrams_wait_for_a_peer() -> None:
    a, b = pair()
    a.push(*(Udp(address(1), address(2), b"x" * 1300, (port, 1)).build() for port in range(1, 5001)))
    batches = a.batches()
    b.receive(batches, 1)
    status = b.plane.status(a.id)
    assert status is not None
    assert status.queue_in.backlog_packets <= 4096
    delivered = len(b.packets())
    assert delivered + b.plane.counters["in queue overlimit"] == 5000
    assert b.plane.counters["in replay"] == 0


def test_opening_marks_by_the_header_and_drops_what_cannot_be_marked() -> None:
    a, b = pair()
    bits: Counter[int] = Counter()
    for turn in range(300):
        a.push(*(Udp(address(1), address(2), b"x" * 1300, (1, 1), 2).build() for _ in range(4)))
        a.push(*(Udp(address(1), address(2), b"x" * 1300, (2, 1), 0).build() for _ in range(4)))
        b.receive(a.batches(), 1)
        if turn >= 30:
            b.plane.work(b.now, 20_000)
        for packet in b.plane.take_packets():
            data = bytes(packet.data) if not isinstance(packet.data, list) else b"".join(packet.data)
            assert checksums_right(data)
            bits[data[1] & 3] += 1
        a.advance(MILLISECOND)
        b.advance(MILLISECOND)
    assert bits[3] > 0
    assert b.plane.counters["in queue codel"] > 0
    assert b.plane.counters["in ce on not-ect"] == 0


def test_the_fifo_is_the_control() -> None:
    plain = PlaneConfig((address(1), address(1, 6)), link_local(1), queue="fifo")
    mill = hub(1, plain)
    mill.push(*(to(2, 1300, port) for port in range(1500)))
    assert mill.plane.counters["out queue overlimit"] == 500
    receiver = Mill(2, PlaneConfig((address(2), address(2, 6)), link_local(2), queue="fifo"))
    receiver.admit(1)
    receiver.connect(1, keys(202, 102, False))
    receiver.receive(mill.batches(), 1)
    ports = [int.from_bytes(packet[20:22], "big") for packet in receiver.packets()]
    assert ports == list(range(1000))


def test_without_entropy_tags_and_labels_say_nothing() -> None:
    silent = PlaneConfig((address(1),), link_local(1), entropy="none", offload=FULL)
    a, _ = pair(silent)
    a.push(Udp(address(1), address(2), b"x").build())
    a.plane.push_packets([superpacket(tcp(5000), 1000)], a.now)
    a.plane.send_frames(SendFrames(peer_id(2), b""), a.now)
    for batch in a.batches():
        assert batch.label == 0
        assert all(parse_data_header_untrusted(bytes(data)).tag == 0 for data in batch.datagrams())


def test_the_label_is_the_tag_and_tags_change_with_path_and_idleness() -> None:
    a, _ = pair()
    packet = Udp(address(1), address(2), b"x" * 1000).build()
    tags = []
    for wait in (0, MILLISECOND, 61 * SECOND, 0):
        a.advance(wait)
        a.push(packet)
        (batch,) = a.batches()
        tag = parse_data_header_untrusted(bytes(batch.data)).tag
        assert batch.label == tag
        tags.append(tag)
    assert tags[0] == tags[1] != tags[2] == tags[3]


# --- floods -----------------------------------------------------------------------------------------------------------


def forged(session: int, count: int, seed: int, path: Path) -> list[Datagram]:
    """Datagrams with a right index and wrong tags, under many flow tags."""
    dice = Random(seed)
    return [
        Datagram(
            b"\x04\x01"
            + dice.randbytes(2)
            + session.to_bytes(4, "big")
            + (10_000 + n).to_bytes(8, "big")
            + bytes(1000),
            path,
            0,
        )
        for n in range(count)
    ]


def test_a_flood_from_a_stranger_leaves_the_peer_alone() -> None:
    a, b = pair()
    stranger = udp_path(66)
    late = 0
    for turn in range(100):
        b.plane.push_datagrams(forged(22, 200, turn, stranger), b.now)
        a.push(Udp(address(1), address(2), b"x" * 1000).build())
        b.receive(a.batches(), 1)
        b.plane.work(b.now, TURN // 4)
        late += not b.plane.take_packets()
        a.advance(TURN)
        b.advance(TURN)
    assert late == 0
    assert b.plane.counters["in bad tag"] > 0
    assert b.plane.counters["in unproven queue overlimit"] > 0


def test_a_flood_from_a_members_address_is_demoted_and_hurts_no_other() -> None:
    mill = hub(2)
    other = spoke(3)
    late = 0
    for turn in range(200):
        mill.plane.push_datagrams(forged(102, 300, turn, udp_path(2)), mill.now)
        other.push(Udp(address(3), address(1), b"x" * 1000).build())
        mill.receive(other.batches(), 3)
        mill.plane.work(mill.now, TURN // 4)
        late += not mill.plane.take_packets()
        mill.advance(TURN)
        other.advance(TURN)
    assert late == 0
    assert mill.plane.counters["in source demoted"] > 0


def test_a_demoted_peer_is_served_all_the_same_and_comes_back() -> None:
    a, b = pair()
    b.plane.push_datagrams(forged(22, 100, 1, udp_path(1)), b.now)
    b.run()
    assert b.plane.counters["in source demoted"] == 1
    a.push(Udp(address(1), address(2), b"x").build())
    b.receive(a.batches(), 1)
    assert len(b.packets()) == 1
    b.advance(2 * SECOND)
    a.push(Udp(address(1), address(2), b"x").build())
    b.receive(a.batches(), 1)
    status = b.plane.status(a.id)
    assert status is not None
    assert status.queue_in.backlog_packets == 1


def test_a_few_wrong_tags_demote_nobody() -> None:
    source = Source()
    source.good = 10 * MAX_BAD_TAGS
    source.bad = MAX_BAD_TAGS
    assert not source.judge(SECOND)
    source.good, source.bad = 0, MAX_BAD_TAGS - 1
    assert not source.judge(SECOND)
    source.bad = MAX_BAD_TAGS
    assert source.judge(SECOND)
    assert source.demoted_until == 2 * SECOND
    source.bad = 1
    assert not source.judge(10 * SECOND)
    assert source.bad == 0


def test_a_flood_of_control_frames_is_bounded_towards_the_core() -> None:
    a, b = pair()
    frame = pack_frame(FrameType.CONTROL, b"\x90")
    for _ in range(100):
        for _ in range(64):
            a.plane.send_frames(SendFrames(b.id, frame), a.now)
        b.receive(a.batches(), 1)
        b.run()
    assert len(b.plane.take_opened()) == 4096
    assert b.plane.counters["in core behind"] == 6400 - 4096


def test_unproven_sources_do_not_share_a_flow() -> None:
    a, b = pair()
    b.plane.apply(ProvePaths(a.id, ()), b.now)
    a.push(Udp(address(1), address(2), b"x" * 1000).build())
    batches = a.batches()
    b.plane.push_datagrams(forged(22, 250, 1, udp_path(66)), b.now)
    b.receive(batches, 1)
    b.plane.work(b.now, 30_000)
    assert len(b.plane.take_packets()) == 1


def test_a_peer_without_work_leaves_the_line_of_the_uplink() -> None:
    mill = hub(2, dataclasses.replace(config(1), uplink_rate=1_000_000))
    mill.push(to(2), to(2), to(3), to(3))
    mill.plane.apply(RemovePeer(peer_id(2)), mill.now)
    mill.plane.apply(LimitRate(peer_id(3), 2_000_000), mill.now)
    mill.plane.apply(LimitRate(peer_id(3), 900_000), mill.now)
    mill.plane.send_frames(SendFrames(peer_id(3), bytes(4)), mill.now)
    sent = [batch for _, batch in drain(mill, SECOND)]
    assert sum(batch.datagram_count for batch in sent) == 3
    mill.push(to(3))
    mill.plane.hold_back(True)
    assert drain(mill, SECOND) == []
    mill.plane.apply(RemovePeer(peer_id(3)), mill.now)
    mill.plane.hold_back(False)
    assert drain(mill, SECOND) == []
