"""Frames: splitting a plaintext, and the body of each kind."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.values import BadPacket, Endpoint, PeerId, RawFrame
from meshnode.wire import frames
from meshnode.wire.frames import (
    FLAG_PARTIAL,
    MINIMUM_PROBE,
    Echo,
    Fragment,
    FrameType,
    Probe,
    ProbeMode,
    Relay,
    Report,
    Segment,
    pack_frame,
    pack_transmit_time,
    split_frames_untrusted,
)
from tests.unit.wire.samples import FRAMES

u8, u16, u32 = st.integers(0, 255), st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
u64, i32 = st.integers(0, 2**64 - 1), st.integers(-(2**31), 2**31 - 1)
tokens, ids = st.binary(min_size=8, max_size=8), st.binary(min_size=16, max_size=16).map(PeerId)
modes, bits = st.sampled_from(ProbeMode), st.integers(0, 3)
some_bytes = st.binary(min_size=1, max_size=300)
endpoints = st.builds(Endpoint, st.ip_addresses(network="192.0.2.0/24").map(str), st.integers(1, 0xFFFF)) | (
    st.builds(Endpoint, st.ip_addresses(network="2001:db8::/32").map(str), st.integers(1, 0xFFFF))
)
fragments = st.builds(
    lambda offset, data, slack, id_, flags: Fragment(id_, offset, offset + len(data) + slack, flags, data),
    st.integers(0, 60000),
    some_bytes,
    st.integers(0, 5000),
    u32,
    u8,
)
any_frame = st.one_of(
    st.builds(Probe, tokens, modes, st.integers(MINIMUM_PROBE, 9000)),
    st.builds(Echo, tokens, modes, bits, u16, st.none() | endpoints),
    st.builds(Report, u32, u32, u64, u64, u32, u32, i32, i32, u32),
    st.builds(Relay, ids, ids, u8, bits, u16, some_bytes),
    fragments,
    st.builds(Segment, u16, st.integers(1, 0xFFFF), some_bytes),
)
raw_frames = st.builds(RawFrame, u8, u8, st.binary(max_size=100))


def parser(frame: object) -> Callable[[bytes], Any]:
    found: Callable[[bytes], Any] = getattr(frames, f"parse_{type(frame).__name__.lower()}_untrusted")
    return found


# --- Splitting -------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(time=u32, several=st.lists(raw_frames, max_size=6), view=st.booleans())
def test_what_is_packed_is_split(time: int, several: list[RawFrame], view: bool) -> None:
    plaintext = pack_transmit_time(time) + b"".join(pack_frame(f.type, f.body, f.flags) for f in several)
    split = split_frames_untrusted(memoryview(plaintext) if view else plaintext)
    assert split == (time, several)
    assert all(type(frame) is RawFrame for frame in split[1])


def test_the_layout_of_a_frame() -> None:
    assert pack_frame(FrameType.PACKET, b"abc", FLAG_PARTIAL).hex() == "01010003616263"
    assert pack_frame(FrameType.PADDING, bytearray(2)).hex() == "000000020000"


def test_the_transmit_time_wraps() -> None:
    assert pack_transmit_time(2**32 + 5) == b"\0\0\0\5"


def test_a_body_is_a_view_of_the_same_buffer() -> None:
    plaintext = bytearray(pack_transmit_time(0) + pack_frame(1, b"one") + pack_frame(1, b"two"))
    _, (first, _) = split_frames_untrusted(memoryview(plaintext))
    plaintext[8] = ord("O")
    assert bytes(first.body) == b"One"


def test_a_keepalive_has_no_frames() -> None:
    assert split_frames_untrusted(pack_transmit_time(7)) == (7, [])


@pytest.mark.parametrize("size", range(4))
def test_a_plaintext_without_a_time(size: int) -> None:
    with pytest.raises(BadPacket, match="no transmit time"):
        split_frames_untrusted(bytes(size))


@pytest.mark.parametrize("tail", [b"\1", b"\1\0", b"\1\0\0"])
def test_a_frame_header_past_the_end(tail: bytes) -> None:
    for before in (b"", pack_frame(1, b"good")):
        with pytest.raises(BadPacket, match="frame header past the end"):
            split_frames_untrusted(pack_transmit_time(0) + before + tail)


@pytest.mark.parametrize("length", [1, 2, 0xFFFF])
def test_a_frame_past_the_end(length: int) -> None:
    bad = struct.pack(">BBH", 1, 0, length)
    for before in (b"", pack_frame(1, b"good")):
        with pytest.raises(BadPacket, match="frame past the end"):
            split_frames_untrusted(pack_transmit_time(0) + before + bad)


# --- Bodies ----------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(frame=any_frame)
def test_bodies_come_back(frame: Any) -> None:
    assert parser(frame)(frame.pack()) == frame


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_samples_come_back(frame: Any) -> None:
    assert parser(frame)(frame.pack()) == frame


@given(echo=st.builds(Echo, tokens, modes, bits, u16, st.none() | endpoints))
def test_an_echo_is_never_longer_than_its_probe(echo: Echo) -> None:
    assert len(echo.pack()) <= len(Probe(echo.token, echo.mode).pack()) == MINIMUM_PROBE


@pytest.mark.parametrize("size", [0, 9, 47])
def test_a_probe_that_asks_for_a_longer_echo(size: int) -> None:
    with pytest.raises(BadPacket, match="probe length"):
        frames.parse_probe_untrusted(bytes(size))
    assert len(Probe(bytes(8), ProbeMode.LIVENESS, size).pack()) == MINIMUM_PROBE


def test_tails_of_newer_nodes_are_ignored() -> None:
    assert frames.parse_echo_untrusted(ECHO.pack() + b"new") == ECHO
    assert frames.parse_report_untrusted(REPORT.pack() + b"new") == REPORT


def spoiled(frame: Any, position: int, byte: int) -> bytes:
    body = bytearray(frame.pack())
    body[position] = byte
    return bytes(body)


PROBE, ECHO = FRAMES[0], FRAMES[2]
REPORT, RELAY, FRAGMENT, SEGMENT = FRAMES[5:]


@pytest.mark.parametrize(
    ("frame", "body", "reason"),
    [
        (PROBE, spoiled(PROBE, 8, 3), "probe mode"),
        (ECHO, spoiled(ECHO, 8, 3), "probe mode"),
        (ECHO, spoiled(ECHO, 9, 4), "ecn"),
        (ECHO, spoiled(ECHO, 12, 5), "address family"),
        (ECHO, ECHO.pack()[:13] + b"\0\0" + ECHO.pack()[15:], "port"),
        (ECHO, ECHO.pack()[:-1], "truncated"),
        (REPORT, REPORT.pack()[:-1], "report length"),
        (RELAY, spoiled(RELAY, 33, 4), "ecn"),
        (RELAY, RELAY.pack()[:36], "relay length"),
        (FRAGMENT, FRAGMENT.pack()[:9], "fragment length"),
        (FRAGMENT, spoiled(FRAGMENT, 4, 0xFF), "fragment past the end"),
        (SEGMENT, SEGMENT.pack()[:4], "segment length"),
        (SEGMENT, SEGMENT.pack()[:2] + b"\0\0" + SEGMENT.pack()[4:], "segment size"),
    ],
)
def test_bodies_that_are_against_the_rules(frame: Any, body: bytes, reason: str) -> None:
    with pytest.raises(BadPacket, match=reason):
        parser(frame)(body)


def test_a_fragment_may_reach_exactly_to_the_end() -> None:
    last = Fragment(1, 1300, 1380, 0, bytes(80))
    assert frames.parse_fragment_untrusted(last.pack()) == last
    with pytest.raises(BadPacket, match="fragment past the end"):
        frames.parse_fragment_untrusted(Fragment(1, 1300, 1380, 0, bytes(81)).pack())
