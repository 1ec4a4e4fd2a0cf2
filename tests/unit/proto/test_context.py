"""What the machines of a node share: indices, jitter, output, and the clock of initiation timestamps."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.crypto.primitives import SODIUM
from meshnode.proto.constants import TIMESTAMP_BLOCK, TIMESTAMP_TOLERANCE
from meshnode.proto.context import Context, NodeConfig, TimestampClock
from meshnode.values import SECOND, Endpoint, Notice, Now, Path, PathKind, PeerId, SendFrames, Transmit
from meshnode.wire.control import GoodbyeMessage, parse_control_untrusted
from meshnode.wire.frames import FRAME_HEADER, FrameType, parse_relay_untrusted
from tests.unit.proto.entropy import Dice

PEER = PeerId(bytes(16))
PATH = Path(PathKind.UDP, Endpoint("192.0.2.1", 4655))
SECRET = bytes(range(32))
EPOCH = 1_700_000_000 * SECOND


class Loaded:
    """Entropy that throws what it is told to."""

    def __init__(self, *throws: bytes) -> None:
        self._throws = list(throws)

    def token(self, size: int) -> bytes:
        thrown = self._throws.pop(0)
        assert len(thrown) == size
        return thrown


def context(*throws: bytes) -> Context:
    return Context(
        NodeConfig(SECRET, SECRET), SODIUM, bytes(32), Loaded(*throws) if throws else Dice("context")
    )


def test_output_comes_out_in_order() -> None:
    shared = context()
    shared.transmit(PATH, b"handshake")
    shared.notice("info", "hello")
    shared.send_control(PEER, GoodbyeMessage("bye"), PATH, 7)
    shared.count("drop", 2)
    shared.turned(PEER, True)
    assert list(shared.transmits) == [Transmit(PATH, b"handshake")]
    notice, frames = shared.outputs
    assert notice == Notice("info", "hello")
    assert isinstance(frames, SendFrames)
    assert (frames.peer, frames.path, frames.local_index) == (PEER, PATH, 7)
    type_, _, length = FRAME_HEADER.unpack_from(frames.payload)
    body = frames.payload[FRAME_HEADER.size :]
    assert (type_, length) == (FrameType.CONTROL, len(body))
    assert parse_control_untrusted(body) == GoodbyeMessage("bye")
    assert shared.counters["drop"] == 2
    assert list(shared.turns) == [(PEER, True)]


def test_what_is_to_be_relayed_goes_to_the_relay_inside_its_session() -> None:
    shared = context()
    far = PeerId(bytes(15) + b"\x01")
    shared.transmit(Path(PathKind.RELAY, via=PEER, far=far), b"handshake")
    assert not shared.transmits
    (frames,) = shared.outputs
    assert isinstance(frames, SendFrames)
    relay = parse_relay_untrusted(frames.payload[FRAME_HEADER.size :])
    assert (frames.peer, relay.source, relay.destination, relay.datagram) == (
        PEER,
        shared.id,
        far,
        b"handshake",
    )
    shared.outputs.clear()
    shared.transmit(Path(PathKind.RELAY), b"to nobody by nobody")
    assert not shared.outputs


def test_an_index_is_never_zero_and_never_twice_in_use() -> None:
    shared = context(b"\0\0\0\0", b"\0\0\0\5", b"\0\0\0\5", b"\0\0\0\6", b"\0\0\0\5")
    assert shared.new_index("first") == 5
    assert shared.new_index("second") == 6
    assert shared.indices == {5: "first", 6: "second"}
    shared.free_index(5)
    shared.free_index(5)
    assert shared.new_index("third") == 5


def test_jitter_stays_below_its_bound() -> None:
    assert context(bytes(6)).jitter(SECOND) == 0
    assert context(b"\xff" * 6).jitter(SECOND) == SECOND - 1
    assert context(b"\xff" * 6).jitter(0) == 0


def test_nothing_secret_is_shown() -> None:
    shared = context()
    shown = repr((shared.config, shared.secrets, shared))
    assert SECRET.hex() not in shown
    assert repr(SECRET) not in shown
    assert str(SECRET) not in shown


# --- timestamps -------------------------------------------------------------------------------------------------------


def test_timestamps_follow_the_clock_and_always_grow() -> None:
    clock = TimestampClock(0)
    assert clock.next(Now(0, EPOCH)) == EPOCH
    assert clock.next(Now(1, EPOCH)) == EPOCH + 1
    assert clock.next(Now(2, EPOCH - SECOND)) == EPOCH + 2
    assert clock.next(Now(3, EPOCH + SECOND)) == EPOCH + SECOND


def test_a_new_node_has_to_promise_before_long() -> None:
    clock = TimestampClock(0)
    assert clock.must_promise()
    clock.next(Now(0, EPOCH))
    promised = clock.promise()
    assert promised == EPOCH + TIMESTAMP_BLOCK
    assert not clock.must_promise()
    clock.next(Now(0, EPOCH + TIMESTAMP_BLOCK))
    assert clock.must_promise()


def test_a_promise_is_ahead_even_before_the_first_timestamp() -> None:
    assert TimestampClock(EPOCH).promise() > EPOCH


def test_a_clock_that_ran_far_ahead_is_corrected_by_turns() -> None:
    """Timestamps of then are refused now (TIMESTAMP_TOLERANCE), those of now may be outlived: try both."""
    ahead = EPOCH + 2 * TIMESTAMP_TOLERANCE
    clock = TimestampClock(ahead)
    first, second, third, fourth = (clock.next(Now(0, EPOCH), tries) for tries in range(4))
    assert (first, third) == (ahead + 1, ahead + 3)
    assert (second, fourth) == (EPOCH, EPOCH + 1)


LIVES = st.lists(
    st.tuples(
        st.integers(-3 * TIMESTAMP_TOLERANCE, 3 * TIMESTAMP_TOLERANCE),
        st.lists(st.integers(0, 10 * SECOND), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(lives=LIVES)
def test_first_tries_grow_over_restarts_however_the_clock_is_set(lives: list[tuple[int, list[int]]]) -> None:
    disk, wall, used = 0, EPOCH, []
    for step, gaps in lives:
        clock = TimestampClock(disk)
        wall = max(wall + step, SECOND)
        for gap in gaps:
            wall += gap
            used.append(clock.next(Now(0, wall)))
            if clock.must_promise():
                disk = clock.promise()
    assert used == sorted(dict.fromkeys(used))
