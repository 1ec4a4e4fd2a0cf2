"""Fragmentation inside the tunnel: whole packets come back, and nobody fills our memory."""

from contextlib import suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.dataplane.api import TunPacket
from meshnode.dataplane.fragments import FRAGMENT_OVERHEAD, Reassembly, ReassemblyLimits, fragment_frames
from meshnode.values import SECOND, BadPacket, Capability, RawFrame, SendFrames
from meshnode.wire.frames import (
    FLAG_PARTIAL,
    Fragment,
    FrameType,
    pack_frame,
    parse_fragment_untrusted,
    split_frames_untrusted,
)
from tests.unit.dataplane.kernel import kernel_packets, vnet
from tests.unit.dataplane.packets import Udp
from tests.unit.dataplane.pair import ALL, address, pair
from tests.unit.dataplane.test_trains import config, send


def pieces(packet: bytes, id: int = 1, room: int = 100, flags: int = 0) -> list[Fragment]:
    frames: list[RawFrame] = []
    for data in fragment_frames(packet, id, room, flags):
        assert len(data) <= room
        frames += split_frames_untrusted(bytes(4) + data)[1]
    assert all(frame.type == FrameType.FRAGMENT for frame in frames)
    return [parse_fragment_untrusted(frame.body) for frame in frames]


@given(
    st.binary(min_size=1, max_size=3000),
    st.integers(FRAGMENT_OVERHEAD + 12, 1400),
    st.randoms(use_true_random=False),
)
def test_any_order_gives_the_packet_once(packet: bytes, room: int, dice: Random) -> None:
    reassembly = Reassembly(ReassemblyLimits())
    parts = pieces(packet, 7, room, FLAG_PARTIAL)
    dice.shuffle(parts)
    results = [
        reassembly.add_untrusted(part, ecn, 0) for ecn, part in zip([3, *[0] * 999], parts, strict=False)
    ]
    assert [result for result in results[:-1] if result] == []
    whole = results[-1]
    assert whole is not None
    assert (whole.packet, whole.flags, whole.ecn) == (packet, FLAG_PARTIAL, 3)
    assert (len(reassembly), reassembly.size) == (0, 0)


def test_there_must_be_room() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        list(fragment_frames(b"x", 1, FRAGMENT_OVERHEAD, 0))


@pytest.mark.parametrize(
    "liar",
    [
        Fragment(1, 50, 300, 0, b"x" * 60),
        Fragment(1, 0, 300, 0, b"y" * 87),
        Fragment(1, 87, 301, 0, b"x" * 87),
        Fragment(1, 87, 300, 1, b"x" * 87),
    ],
)
def test_a_piece_that_contradicts_spoils_its_packet(liar: Fragment) -> None:
    reassembly = Reassembly(ReassemblyLimits())
    first, *rest = pieces(b"x" * 300)
    assert reassembly.add_untrusted(first, 0, 0) is None
    assert reassembly.add_untrusted(first, 0, 0) is None  # the same again is no contradiction
    with pytest.raises(BadPacket, match="fragment overlap"):
        reassembly.add_untrusted(liar, 0, 0)
    assert (len(reassembly), reassembly.size) == (0, 0)
    assert all(reassembly.add_untrusted(part, 0, 0) is None for part in rest)


def test_what_never_completes_is_forgotten_in_time() -> None:
    reassembly = Reassembly(ReassemblyLimits(lifetime=SECOND))
    assert reassembly.poll_timeout() is None
    reassembly.add_untrusted(pieces(b"x" * 300)[0], 0, 5)
    assert reassembly.poll_timeout() == SECOND + 5
    assert reassembly.expire(SECOND) == 0
    assert reassembly.expire(SECOND + 5) == 1
    assert (len(reassembly), reassembly.size) == (0, 0)


@given(
    st.lists(
        st.builds(
            lambda id, offset, size, spare, flags: Fragment(
                id, offset, offset + size + spare, flags, bytes(size)
            ),
            st.integers(0, 40),
            st.integers(0, 60_000),
            st.integers(1, 1400),
            st.integers(0, 4000),
            st.integers(0, 1),
        ),
        max_size=200,
    )
)
@settings(max_examples=50)
def test_memory_packets_and_pieces_are_bounded(fragments: list[Fragment]) -> None:
    limits = ReassemblyLimits(packets=8, size=10_000, pieces=4)
    reassembly = Reassembly(limits)
    for fragment in fragments:
        with suppress(BadPacket):
            reassembly.add_untrusted(fragment, 0, 0)
        assert len(reassembly) <= limits.packets
        assert reassembly.size <= limits.size
        assert reassembly.size == sum(puzzle.size for puzzle in reassembly._puzzles.values())
        assert all(len(puzzle.pieces) <= limits.pieces for puzzle in reassembly._puzzles.values())


def test_the_oldest_makes_room() -> None:
    reassembly = Reassembly(ReassemblyLimits(packets=2, size=250))
    for number in range(3):
        reassembly.add_untrusted(pieces(b"x" * 300, number)[0], 0, 0)
    assert list(reassembly._puzzles) == [1, 2]
    for part in pieces(b"x" * 300, 9)[:2]:
        reassembly.add_untrusted(part, 0, 0)
    assert list(reassembly._puzzles) == [9]


def test_the_plane_forgets_unfinished_packets_by_its_own_timeout() -> None:
    a, b = pair()
    packet = Udp(address(1), address(2), b"x" * 500).build()
    for part in pieces(packet)[:-1]:
        a.plane.send_frames(SendFrames(b.id, pack_frame(FrameType.FRAGMENT, part.pack())), a.now)
    b.receive(a.batches(), 1)
    assert b.packets() == []
    due = b.plane.poll_timeout()
    assert due is not None
    b.advance(due - b.now.boot)
    b.run()
    assert b.plane.counters == {"in fragment timeout": 1}
    assert b.plane.poll_timeout() is None


def test_fragments_are_not_nested() -> None:
    a, b = pair()
    inner = next(iter(fragment_frames(b"x" * 50, 1, 100, 0)))
    outer = Fragment(2, 0, len(inner), 0, inner).pack()
    a.plane.send_frames(SendFrames(b.id, pack_frame(FrameType.FRAGMENT, outer)), a.now)
    b.receive(a.batches(), 1)
    assert b.packets() == []
    assert b.plane.counters == {"in ip version": 1}


def test_a_partial_checksum_crosses_in_pieces() -> None:
    packet = Udp(address(1), address(2), b"x" * 400)
    given_ = TunPacket(vnet(0, 0, 20, 6), packet.build(partial=True))
    for capabilities in (ALL, ALL & ~Capability.PARTIAL_CHECKSUM):
        a, b = pair(config(1), config(2), capabilities, mtu=300)
        b.receive(send(a, given_), 1)
        assert kernel_packets(b.tun()) == [packet.build()]
