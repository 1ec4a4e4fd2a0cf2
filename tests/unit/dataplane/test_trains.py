"""Superpackets: the train path and the plain path deliver the same packets, bit for bit."""

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.dataplane.api import Batch, TunPacket
from meshnode.dataplane.config import PlaneConfig
from meshnode.dataplane.vnet import PLAIN, Offload
from meshnode.queueing.flow_hash import flow_key
from meshnode.values import Capability, SendFrames
from meshnode.wire.frames import FrameType, Segment, pack_frame
from tests.sim import inner
from tests.unit.dataplane.kernel import ECN, TCPV4, TCPV6, UDP_L4, kernel_packets, vnet
from tests.unit.dataplane.packets import ACK, CWR, ECE, FIN, PSH, Tcp, Udp, checksums_right
from tests.unit.dataplane.pair import Mill, address, join, link_local, pair

FULL = Offload(headers=True, tcp=True, udp=True)
OFFLOADS = [Offload(), Offload(headers=True), Offload(headers=True, tcp=True), FULL]


def config(number: int, offload: Offload = FULL) -> PlaneConfig:
    return PlaneConfig((address(number), address(number, 6)), link_local(number), offload=offload)


def superpacket(packet: Tcp | Udp, size: int) -> TunPacket:
    """What a TUN read gives for a TCP or UDP superpacket, or for a packet that is not longer than `size`."""
    data = packet.build(partial=True)
    start = 20 if data[0] >> 4 == 4 else 40
    offset = 16 if isinstance(packet, Tcp) else 6
    if len(packet.payload) <= size:
        return TunPacket(vnet(0, 0, start, offset), data)
    kind = UDP_L4 if isinstance(packet, Udp) else TCPV4 if start == 20 else TCPV6
    if isinstance(packet, Tcp) and packet.flags & CWR:
        kind |= ECN
    return TunPacket(vnet(kind, size, start, offset, header=len(data)), data)


def tcp(size: int, seed: int = 1, version: int = 4, **fields: Any) -> Tcp:
    base = Tcp(address(1, version), address(2, version), payload=Random(seed).randbytes(size))
    return base._replace(**fields)


def send(mill: Mill, *packets: TunPacket) -> list[Batch]:
    mill.plane.push_packets(packets, mill.now)
    return mill.batches()


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("offload", OFFLOADS)
def test_a_superpacket_crosses(version: int, offload: Offload) -> None:
    a, b = pair(config(1), config(2, offload))
    one = tcp(
        20_000, version=version, flags=ACK | PSH | FIN | CWR | ECE, ident=65_530, options=b"\x01" * 12, tos=2
    )
    given_ = superpacket(one, 1328)
    (batch,) = send(a, given_)
    assert len(batch.datagrams()) == 16
    assert len({len(data) for data in batch.datagrams()[:-1]}) == 1
    b.receive_merged([batch], 1)
    written = b.tun()
    assert kernel_packets(written) == kernel_packets([given_])
    assert len(written) == (1 if offload.tcp else 16)
    assert all(checksums_right(packet) for packet in kernel_packets(written))


@pytest.mark.parametrize("offload", OFFLOADS)
def test_a_udp_train_crosses(offload: Offload) -> None:
    a, b = pair(config(1), config(2, offload))
    given_ = superpacket(Udp(address(1), address(2), Random(2).randbytes(5001)), 1000)
    b.receive_merged(send(a, given_), 1)
    written = b.tun()
    assert kernel_packets(written) == kernel_packets([given_])
    assert len(written) == (1 if offload.udp else 6)


def test_a_full_superpacket_leaves_in_batches_that_one_send_can_take() -> None:
    a, b = pair(config(1), config(2))
    given_ = superpacket(tcp(65_495, flags=ACK), 1340)
    batches = send(a, given_)
    assert sum(len(batch.datagrams()) for batch in batches) == 49
    for batch in batches:
        assert len(batch.data) <= 65_000
        assert len(batch.datagrams()) <= 64
    b.receive_merged(batches, 1)
    written = b.tun()
    assert len(written) == 1  # contiguous, so it is one again
    assert kernel_packets(written) == kernel_packets([given_])


def test_a_lost_segment_costs_only_itself() -> None:
    a, b = pair(config(1), config(2))
    given_ = superpacket(tcp(13_400), 1340)
    (batch,) = send(a, given_)
    datagrams = batch.datagrams()
    del datagrams[4]
    b.receive_merged([batch._replace(data=b"".join(datagrams))], 1)
    expected = kernel_packets([given_])
    del expected[4]
    assert kernel_packets(b.tun()) == expected


@pytest.mark.parametrize(
    "capabilities", [Capability.NONE, Capability.SEGMENT, Capability.PARTIAL_CHECKSUM, Capability.ECN]
)
def test_a_peer_without_the_capability_gets_whole_packets(capabilities: Capability) -> None:
    a, b = pair(config(1), config(2, Offload()), capabilities)
    for given_ in (superpacket(tcp(13_000), 1300), superpacket(tcp(500), 1300)):
        b.receive_merged(send(a, given_), 1)
        assert b.packets() == kernel_packets([given_])


def test_segments_that_do_not_fit_leave_as_packets_or_are_refused() -> None:
    # Room for packets of 1340 bytes; a segment frame has four bytes more than a packet frame.
    a, b = pair(config(1), config(2, Offload()), mtu=1340 + 28 + 36 + 4)
    given_ = superpacket(tcp(5000), 1300)
    b.receive_merged(send(a, given_), 1)
    assert b.packets() == kernel_packets([given_])
    assert send(a, superpacket(tcp(5000), 1301)) == []
    (answer,) = a.packets()
    assert answer[20:22] == bytes((3, 4))
    assert a.plane.counters["out too big"] == 1


def test_extension_headers_are_taken_off_the_fast_path() -> None:
    a, b = pair(config(1), config(2, Offload()))
    plain = tcp(3000, version=6).build(partial=True)
    options = bytes((6, 0, 1, 4, 0, 0, 0, 0))
    length = int.from_bytes(plain[4:6], "big") + len(options)
    data = plain[:4] + length.to_bytes(2, "big") + b"\0" + plain[7:40] + options + plain[40:]
    b.receive_merged(send(a, TunPacket(vnet(TCPV6, 1000, 48, 16), data)), 1)
    packets = b.packets()
    assert [len(packet) for packet in packets] == [1068, 1068, 1068]
    for packet in packets:
        without = packet[:4] + (1020).to_bytes(2, "big") + b"\x06" + packet[7:40] + packet[48:]
        assert checksums_right(without)


def test_ce_marks_all_of_a_train() -> None:
    a, b = pair(config(1), config(2))
    given_ = superpacket(tcp(5000, tos=2), 1000)
    b.receive(send(a, given_), 1, ecn=3)
    packets = kernel_packets(b.tun())
    expected = kernel_packets([superpacket(tcp(5000, tos=3), 1000)])
    assert packets == expected


def test_trains_of_one_read_with_different_outer_ecn_are_not_joined() -> None:
    a, b = pair(config(1), config(2))
    (batch,) = send(a, superpacket(tcp(4000, tos=2), 1000))
    one, two, three, four = ([batch._replace(data=data)] for data in batch.datagrams())
    b.receive(one, 1)
    b.receive(two, 1, ecn=3)
    b.receive(three, 1, ecn=3)
    b.receive(four, 1)
    written = b.tun()
    assert [len(kernel_packets([packet])) for packet in written] == [1, 2, 1]
    assert [packet[1] & 3 for packet in kernel_packets(written)] == [2, 3, 3, 2]


def test_packets_of_one_tcp_flow_are_joined() -> None:
    a, b = pair(config(1), config(2))
    packets = [
        superpacket(tcp(100, n, seq=1000 + 100 * n, ident=7 + n, flags=ACK | (PSH if n == 9 else 0)), 1000)
        for n in range(10)
    ]
    b.receive(send(a, *packets), 1)
    written = b.tun()
    assert len(written) == 1
    assert kernel_packets(written) == kernel_packets(packets)


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 1101},
        {"ack": 501},
        {"window": 9},
        {"tos": 4},
        {"ttl": 63},
        {"ident": 9},
        {"flags": ACK | ECE},
        {"flags": ACK | FIN},
        {"flags": ACK | CWR},
        {"options": b"\x01\x01\x01\x01"},
        {"payload": b"x" * 101},
        {"payload": b""},
        {"ports": (40000, 5002)},
    ],
)
def test_what_a_kernel_would_not_have_cut_is_not_joined(change: dict[str, Any]) -> None:
    a, b = pair(config(1), config(2))
    first, second = tcp(100, 1, seq=1000, ident=7), tcp(100, 2, seq=1100, ident=8)
    for follower in (second, second._replace(**change)):
        packets = [superpacket(first, 1000), superpacket(follower, 1000)]
        b.receive(send(a, *packets), 1)
        written = b.tun()
        assert len(written) == (1 if follower is second else 2)
        assert sorted(kernel_packets(written)) == sorted(kernel_packets(packets))


def test_a_complete_checksum_is_never_touched_right_or_wrong() -> None:
    a, b = pair(config(1), config(2))
    wrong = [bytearray(tcp(100, n, seq=1000 + 100 * n, ident=n).build()) for n in range(3)]
    wrong[1][36] ^= 0xFF
    packets = [TunPacket(PLAIN, bytes(packet)) for packet in wrong]
    b.receive(send(a, *packets), 1)
    assert [(packet.header, join(packet)) for packet in b.tun()] == [
        (PLAIN, bytes(packet)) for packet in wrong
    ]


def test_a_partial_checksum_of_another_protocol_is_finished_here() -> None:
    a, b = pair(config(1), config(2))
    echo = bytearray(inner.echo_request(address(1), address(2), 1, 2, b"x" * 31))
    right = bytes(echo)
    echo[22:24] = b"\0\0"
    b.receive(send(a, TunPacket(vnet(0, 0, 20, 2), bytes(echo))), 1)
    assert [(packet.header, join(packet)) for packet in b.tun()] == [(PLAIN, right)]


# --- hostile and broken input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "counter"),
    [
        (b"\0" * 9, "out vnet length"),
        (vnet(TCPV4, 0, 20, 16), "out vnet gso size"),
        (vnet(TCPV4, 1000, 20, 16, flags=0), "out vnet gso size"),
        (vnet(TCPV4, 1000, 20, 16, flags=4), "out vnet flags"),
        (vnet(3, 1000, 20, 6), "out vnet gso type"),
        (vnet(77, 1000, 20, 16), "out vnet gso type"),
        (vnet(TCPV6, 1000, 20, 16), "out vnet gso type"),
        (vnet(TCPV4, 1000, 20, 6), "out vnet gso type"),
        (vnet(TCPV4, 1000, 24, 16), "out vnet gso packet"),
        (vnet(UDP_L4, 1000, 20, 6), "out vnet gso packet"),
        (vnet(0, 0, 5030, 16), "out vnet checksum"),
    ],
)
def test_malformed_virtio_headers_are_counted(header: bytes, counter: str) -> None:
    a, _ = pair(config(1), config(2))
    assert send(a, TunPacket(header, tcp(5000).build(partial=True))) == []
    assert a.plane.counters == {counter: 1}


@given(st.binary(min_size=10, max_size=10), st.binary(max_size=80), st.sampled_from([b"", b"\x45", b"\x60"]))
@settings(max_examples=200, deadline=None)
def test_no_virtio_header_and_no_packet_stops_the_mill(header: bytes, data: bytes, first: bytes) -> None:
    a, _ = pair(config(1), config(2))
    base = tcp(3000, version=6 if first == b"\x60" else 4).build(partial=True)
    packet = data + base[len(data) :] if first else data
    send(a, TunPacket(header, first + packet[1:]))
    valid = superpacket(tcp(3000), 1000)
    assert sum(len(batch.datagrams()) for batch in send(a, valid)) == 3


@st.composite
def hostile_segments(draw: st.DrawFn) -> bytes:
    one = tcp(draw(st.integers(1, 4000)), version=draw(st.sampled_from([4, 6])))
    packet = bytearray(one.build(partial=True))
    for _ in range(draw(st.integers(0, 4))):
        packet[draw(st.integers(0, 60)) % len(packet)] = draw(st.integers(0, 255))
    cut = bytes(packet[: draw(st.integers(0, 1400))])
    return Segment(draw(st.integers(0, 65535)), draw(st.integers(0, 65535)), cut).pack()


@given(st.lists(hostile_segments(), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_hostile_segments_give_well_formed_packets_or_none(bodies: list[bytes]) -> None:
    a, b = pair(config(1), config(2))
    for body in bodies:
        a.plane.send_frames(SendFrames(b.id, pack_frame(FrameType.SEGMENT, body, 1)), a.now)
    batches = a.batches()
    b.receive(batches, 1)
    for packet in kernel_packets(b.tun()):
        assert checksums_right(packet)
        assert len(packet) <= 1500
    a.push(Udp(address(1), address(2), b"still here").build())
    b.receive(a.batches(), 1)
    assert len(b.packets()) == 1


def test_a_train_of_65535_segments_is_only_as_long_as_its_payload() -> None:
    a, b = pair(config(1), config(2))
    header = tcp(65_495).build(partial=True)[:40]
    for index in (0, 1, 65_494, 65_495, 65_535):
        body = Segment(index, 1, header + b"x").pack()
        a.plane.send_frames(SendFrames(b.id, pack_frame(FrameType.SEGMENT, body, 1)), a.now)
    b.receive(a.batches(), 1)
    assert len(kernel_packets(b.tun())) == 3
    assert b.plane.counters == {"in segment size": 2}


# --- the differential test ----------------------------------------------------------------------------------------


@st.composite
def streams(draw: st.DrawFn) -> list[TunPacket]:
    """What a kernel with all offloads may hand over: TCP and UDP superpackets, single packets, pings."""
    items: list[TunPacket] = []
    sequences: Counter[tuple[int, int]] = Counter()
    for number in range(draw(st.integers(1, 8))):
        version, port = draw(st.sampled_from([4, 6])), draw(st.integers(1, 2))
        kind = draw(st.sampled_from(["tcp", "tcp", "tcp", "udp", "ping"]))
        if kind == "ping":
            echo = inner.echo_request(address(1, version), address(2, version), port, number, bytes(number))
            items.append(TunPacket(PLAIN, echo))
            continue
        size = draw(st.sampled_from([1, 100, 536, 1300]))
        count = draw(st.sampled_from([1, 1, 2, 5, 20]))
        payload = Random(number).randbytes(max(1, size * count - draw(st.integers(0, size - 1))))
        tos = draw(st.sampled_from([0, 2, 3, 0xB8]))
        ident = draw(st.sampled_from([0, 65_530]))
        if kind == "udp":
            udp = Udp(address(1, version), address(2, version), payload, (port, port), tos, ident)
            items.append(superpacket(udp, size))
            continue
        flags = ACK | draw(st.sampled_from([0, PSH, PSH | FIN, ECE, CWR | PSH]))
        key = (version, port)
        one = Tcp(
            address(1, version),
            address(2, version),
            (1 << 32) - 3000 + sequences[key],
            7,
            flags,
            payload,
            (port, 80),
            options=draw(st.sampled_from([b"", b"\x01" * 12])),
            tos=tos,
            ident=(ident + number) % 65536,
        )
        sequences[key] += len(payload)
        if draw(st.booleans()):
            items.append(superpacket(one, size))
        else:
            items.extend(TunPacket(PLAIN, packet) for packet in kernel_packets([superpacket(one, size)]))
    return items


def by_flow(packets: Sequence[bytes]) -> dict[bytes | None, list[bytes]]:
    flows: dict[bytes | None, list[bytes]] = {}
    for packet in packets:
        flows.setdefault(flow_key(packet), []).append(packet)
    return flows


def open_batch(mill: Mill, batch: Batch, merged: bool) -> list[bytes]:
    """What the other side's kernel sees of one batch, opened at once: in a queue flows may pass others."""
    (mill.receive_merged if merged else mill.receive)([batch], 1)
    return kernel_packets(mill.tun())


@given(streams(), st.randoms(use_true_random=False), st.booleans(), st.sampled_from(OFFLOADS))
@settings(max_examples=80, deadline=None)
def test_train_path_and_plain_path_deliver_the_same(
    stream: list[TunPacket], dice: Random, merged: bool, offload: Offload
) -> None:
    expected = by_flow(kernel_packets(stream))

    # The plain path: the kernel cuts before the tunnel, nothing is offloaded anywhere.
    a, plain = pair(config(1, Offload()), config(2, Offload()))
    a.push(*kernel_packets(stream))
    assert (
        by_flow([packet for batch in a.batches() for packet in open_batch(plain, batch, False)]) == expected
    )

    # The train path, nothing lost.
    a, b = pair(config(1), config(2, offload))
    batches = send(a, *stream)
    assert by_flow([packet for batch in batches for packet in open_batch(b, batch, merged)]) == expected
    assert not b.plane.counters

    # The same datagrams with loss, reordering and duplicates, to one with all offloads and one with none.
    datagrams = [
        batch._replace(data=data) for batch in batches for data in batch.datagrams() for _ in range(2)
    ]
    lossy = [datagram for datagram in datagrams if dice.random() < 0.6]
    for index in range(len(lossy) - 1):
        if dice.random() < 0.2:
            lossy[index], lossy[index + 1] = lossy[index + 1], lossy[index]
    delivered = []
    for kind in (FULL, Offload()):
        _, receiver = pair(config(1), config(2, kind))
        receiver.receive(lossy, 1)
        delivered.append(sorted(kernel_packets(receiver.tun())))
    assert delivered[0] == delivered[1]
    surplus = Counter(delivered[0])
    surplus.subtract(packet for packets in expected.values() for packet in packets)
    assert max(surplus.values(), default=0) <= 0


@given(streams())
@settings(max_examples=50, deadline=None)
def test_a_peer_without_any_capability_gets_the_same(stream: list[TunPacket]) -> None:
    a, b = pair(config(1), config(2, Offload()), Capability.NONE)
    opened = [packet for batch in send(a, *stream) for packet in open_batch(b, batch, False)]
    assert by_flow(opened) == by_flow(kernel_packets(stream))


@pytest.mark.parametrize("merged", [True, False])
def test_nothing_follows_the_last_segment(merged: bool) -> None:
    a, b = pair(config(1), config(2))
    header = superpacket(tcp(2000), 1000).data[:40]
    assert isinstance(header, bytes)
    pieces = [(0, b"x" * 1000), (1, b"y" * 1000), (2, b""), (2, b"z"), (2, b"z" * 1000)]
    for index, payload in pieces:
        a.plane.send_frames(
            SendFrames(b.id, pack_frame(2, Segment(index, 1000, header + payload).pack(), 1)), a.now
        )
    (b.receive_merged if merged else b.receive)(a.batches(), 1)
    assert [packet[40:] for packet in kernel_packets(b.tun())] == [b"x" * 1000, b"y" * 1000]
    assert b.plane.counters == {"in segment size": 3}


@pytest.mark.parametrize("version", [4, 6])
def test_packets_of_either_family_are_joined(version: int) -> None:
    a, b = pair(config(1), config(2))
    packets = [superpacket(tcp(100, n, version, seq=100 * n, ident=n), 1000) for n in range(5)]
    b.receive(send(a, *packets), 1)
    b.run()
    b.plane.set_offload(Offload(headers=version == 6))  # the kernel has just refused a superpacket
    written = b.tun()
    assert len(written) == 5
    assert kernel_packets(written) == kernel_packets(packets)


def test_a_train_stops_where_the_key_does() -> None:
    a, b = pair(config(1), config(2))
    session = a.plane._peers[b.id].session
    assert session is not None
    session.counter = session.reject_after - 5
    assert send(a, superpacket(tcp(10_000), 1000)) == []
    assert a.plane.counters == {"out key exhausted": 10}


def test_a_udp_checksum_of_zero_is_sent_as_all_ones() -> None:
    """The sum of a packet that happens to be zero must not read as "no checksum" (RFC 768)."""
    base = Udp(address(1), address(2), b"\0\0" + b"x" * 998 + b"\0\0" + b"y" * 998)
    first = Udp(address(1), address(2), b"\0\0" + b"x" * 998).build()
    filler = int.from_bytes(first[26:28], "big").to_bytes(2, "big")
    one = base._replace(payload=filler + base.payload[2:])
    for offload in (Offload(), FULL):
        a, b = pair(config(1), config(2, offload))
        b.receive(send(a, superpacket(one, 1000)), 1)
        packets = kernel_packets(b.tun())
        assert packets[0][26:28] == b"\xff\xff"
        assert all(checksums_right(packet) for packet in packets)


def test_a_packet_that_cannot_have_a_partial_checksum_is_dropped() -> None:
    a, b = pair(config(1), config(2))
    for packet in (
        inner.echo_request(address(1), address(2), 1, 1, b"x"),
        inner.ip_packet(address(1), address(2), 6, b"short"),
        inner.ip_packet(address(1, 6), address(2, 6), 17, b"short"),
        b"\x45\x00\x00\x28\x00\x00\x20\x00" + tcp(0).build()[8:],
    ):
        a.plane.send_frames(SendFrames(b.id, pack_frame(FrameType.PACKET, packet, 1)), a.now)
    b.receive(a.batches(), 1)
    assert b.tun() == []
    assert b.plane.counters == {"in partial checksum": 4}
