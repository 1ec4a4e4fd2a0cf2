"""Framing: any cut of a stream gives the same datagrams, and no stream at all makes it keep more than a frame."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.edge.framing import LARGEST_FRAME, PREFIX, Deframer, frame_prefix
from meshnode.values import BadPacket

LIMIT = 600


def framed(*datagrams: bytes) -> bytes:
    return b"".join(frame_prefix(len(each)) + each for each in datagrams)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(stream) + 1) for place in places} | {len(stream)})
    return [stream[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@settings(max_examples=60)
@given(
    st.lists(st.binary(min_size=1, max_size=LIMIT), max_size=6), st.lists(st.integers(0, 5000), max_size=12)
)
def test_any_cut_of_a_stream_gives_the_same_datagrams(datagrams: list[bytes], places: list[int]) -> None:
    deframer = Deframer(LIMIT)
    got = [frame for piece in cut(framed(*datagrams), places) for frame in deframer.feed_untrusted(piece)]
    assert [bytes(each) for each in got] == datagrams


def test_byte_by_byte() -> None:
    deframer = Deframer(LIMIT)
    got = [frame for byte in framed(b"one", b"x" * LIMIT) for frame in deframer.feed_untrusted(bytes([byte]))]
    assert [bytes(each) for each in got] == [b"one", b"x" * LIMIT]


@pytest.mark.parametrize("size", [0, LIMIT + 1, 0xFFFF])
def test_a_length_that_cannot_be_spoils_the_stream(size: int) -> None:
    deframer = Deframer(LIMIT)
    with pytest.raises(BadPacket, match="tcp frame length"):
        deframer.feed_untrusted(framed(b"fine") + size.to_bytes(2, "big"))


def test_the_largest_frame_is_the_largest_datagram() -> None:
    deframer = Deframer(LARGEST_FRAME)
    (got,) = deframer.feed_untrusted(framed(bytes(LARGEST_FRAME)))
    assert len(got) == LARGEST_FRAME
    with pytest.raises(BadPacket):
        deframer.feed_untrusted((LARGEST_FRAME + 1).to_bytes(PREFIX, "big"))


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=LIMIT), max_size=8))
def test_whatever_comes_at_most_one_frame_is_kept(pieces: list[bytes]) -> None:
    deframer = Deframer(LIMIT)
    fed = 0
    for piece in pieces:
        try:
            got = deframer.feed_untrusted(piece)
        except BadPacket:
            return
        fed += len(piece) - sum(PREFIX + len(each) for each in got)
        assert 0 <= fed < PREFIX + LIMIT
