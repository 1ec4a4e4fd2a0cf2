"""The pure parts: what a wire is, and the Python program's FIFO. The programs themselves run in tests/netns."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.lab import LabError, Wire
from meshnode.lab.slow_delay import Direction
from meshnode.lab.slow_delay import Wire as SlowWire

MILLISECOND = 1_000_000


def wire(line: str, seed: int = 1) -> SlowWire:
    made = SlowWire(seed)
    made.obey(line)
    return made


def test_a_wire_is_one_line_in_whole_units() -> None:
    assert Wire(20.5, 0.25, 0.01, 0.002, 1000).line() == "20500 250 10000 2000 1000"


@pytest.mark.parametrize(
    "wrong", [{"delay_ms": -1}, {"jitter_ms": -1}, {"loss": 1.1}, {"loss": -0.1}, {"duplicate": 2}]
)
def test_impossible_wires_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(LabError, match="between 0 and 1"):
        Wire(**wrong)  # type: ignore[arg-type]


def test_a_frame_is_due_after_the_delay_and_not_before() -> None:
    direction = Direction(wire(Wire(delay_ms=20).line()))
    direction.push(b"one", 5)
    assert direction.next_due() == 5 + 20 * MILLISECOND
    assert direction.pop(4 + 20 * MILLISECOND) is None
    assert direction.pop(5 + 20 * MILLISECOND) == b"one"
    assert direction.next_due() is None
    assert direction.pop(1 << 62) is None


@given(
    st.lists(st.integers(0, 50 * MILLISECOND), min_size=1, max_size=40),
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(0, 1 << 32),
)
@settings(max_examples=50)
def test_jitter_neither_hurries_nor_reorders(
    gaps: list[int], delay_ms: int, jitter_ms: int, seed: int
) -> None:
    direction = Direction(wire(Wire(delay_ms=delay_ms, jitter_ms=jitter_ms).line(), seed))
    now, pushed = 0, []
    for number, gap in enumerate(gaps):
        now += gap
        pushed.append(now)
        direction.push(bytes([number]), now)
    for number, at in enumerate(pushed):
        due = direction.next_due()
        assert due is not None
        assert due >= at + delay_ms * MILLISECOND
        assert direction.pop(due) == bytes([number])


def test_a_seed_decides_who_is_lost() -> None:
    def survivors(seed: int) -> list[bytes]:
        direction = Direction(wire(Wire(loss=0.5).line(), seed))
        for number in range(100):
            direction.push(bytes([number]), number)
        return list(iter(lambda: direction.pop(100), None))

    assert survivors(1) == survivors(1)
    assert survivors(1) != survivors(2)
    assert 20 < len(survivors(1)) < 80


def test_a_wire_counts_what_it_does() -> None:
    line = wire(Wire(duplicate=1, limit_bytes=5).line())
    direction = Direction(line)
    direction.push(b"12", 0)  # and once more
    direction.push(b"34", 0)  # no room: 4 of 5 bytes are taken
    line.obey(Wire(loss=1).line())
    direction.push(b"56", 0)
    assert line.obey("") == "0 1 2 2 0"
    assert [direction.pop(0), direction.pop(0), direction.pop(0)] == [b"12", b"12", None]
