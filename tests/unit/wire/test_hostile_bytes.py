"""Whatever the network sends: every parser gives a result or BadPacket, and nothing else ever."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.values import BadPacket
from tests.unit.wire.samples import SAMPLES, Sample

every_sample = pytest.mark.parametrize("sample", SAMPLES, ids=[sample.name[:40] for sample in SAMPLES])
WORTHLESS = object()


def result_or_bad_packet(sample: Sample, data: bytes) -> Any:
    """What the parser makes of `data`; WORTHLESS for BadPacket. Any other exception fails the test."""
    try:
        return sample.parse(data)
    except BadPacket as error:
        reason = error.reason
    assert reason == reason.lower()
    assert 0 < len(reason) < 40
    return WORTHLESS


@every_sample
def test_valid_bytes_are_accepted(sample: Sample) -> None:
    assert result_or_bad_packet(sample, sample.data) is not WORTHLESS


@every_sample
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=1300))
def test_any_bytes(sample: Sample, data: bytes) -> None:
    result_or_bad_packet(sample, data)


@every_sample
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_valid_bytes_with_a_hole_and_a_patch(sample: Sample, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(sample.data)))
    end = data.draw(st.integers(start, len(sample.data)))
    patch = data.draw(st.binary(max_size=40))
    result_or_bad_packet(sample, sample.data[:start] + patch + sample.data[end:])


@every_sample
def test_cut_short_at_every_length(sample: Sample) -> None:
    for length in range(len(sample.data)):
        result = result_or_bad_packet(sample, sample.data[:length])
        if sample.exact:
            assert result is WORTHLESS, length


@every_sample
def test_a_byte_too_many(sample: Sample) -> None:
    result = result_or_bad_packet(sample, sample.data + b"\0")
    if sample.exact:
        assert result is WORTHLESS


@every_sample
def test_every_bit_flipped(sample: Sample) -> None:
    for position in range(8 * len(sample.data)):
        mauled = bytearray(sample.data)
        mauled[position // 8] ^= 1 << position % 8
        result_or_bad_packet(sample, bytes(mauled))


@every_sample
def test_a_view_is_as_good_as_bytes(sample: Sample) -> None:
    if sample.name == "token":
        return  # text
    assert sample.parse(memoryview(sample.data)) == sample.parse(sample.data)  # type: ignore[arg-type]
