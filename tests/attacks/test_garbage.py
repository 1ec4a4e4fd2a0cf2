"""Bytes that no node ever sent: one uncaught exception takes a whole process down.

Every entry that the network can reach gets noise, truncations of real messages, wrong keys and points of low order;
inside the seal a member sends frames and messages that no honest node makes. Nothing may raise, and everybody still
works afterwards.
"""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshnode.crypto.primitives import SODIUM, CryptoFailure
from meshnode.proto.guard import Guard, Verdict
from meshnode.wire import schema
from meshnode.wire.frames import FrameType, pack_frame
from tests.attacks.field import DATA, Field, at, control, push, recorded, say, settled, with_right_macs

LOW_ORDER = [
    bytes(32),
    bytes([1]) + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]
"""The X25519 points of small order and their aliases (RFC 7748 section 6.1; Bernstein's list)."""

shared: list[Field] = []


@pytest.fixture(scope="module", autouse=True)
def ground() -> Iterator[None]:
    """One field for all examples: what breaks it shows in a later one, or at the end. Budgets would read less."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Guard, "judge", lambda *_: Verdict.ADMIT)
        shared[:] = [settled()]
        yield


def shove(field: Field, data: bytes) -> None:
    """Hand `data` to alpha as if it had come from a stranger."""
    push(field.alpha, data, field.mallory.endpoint())


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=1600))
def test_noise(data: bytes) -> None:
    shove(shared[0], data)


@settings(max_examples=200)
@given(st.integers(1, 4), st.binary(max_size=1300))
def test_noise_with_a_plausible_beginning_and_a_right_mac(kind: int, rest: bytes) -> None:
    field = shared[0]
    data = bytes((kind, 1, 0, 0)) + rest
    shove(field, data)
    if len(data) >= 64:
        shove(field, with_right_macs(data, field.alpha))


def test_every_message_cut_at_every_length() -> None:
    field = settled()
    whole = {p.data[0]: p.data for p in recorded(field)}
    assert set(whole) >= {1, 2, 4}
    for data in whole.values():
        for length in range(len(data)):
            shove(field, data[:length])
            if length >= 64 and data[0] != DATA:
                shove(field, with_right_macs(data[:length], field.alpha))
    assert field.works()


def test_the_longest_datagrams() -> None:
    field = settled()
    for kind in range(6):
        shove(field, bytes((kind, 1, 0, 0)) + bytes(65_503))
    assert field.works()


@pytest.mark.parametrize("point", LOW_ORDER)
def test_points_of_low_order_make_no_secret(point: bytes) -> None:
    with pytest.raises(CryptoFailure):
        SODIUM.dh(bytes(range(32)), point)
    field = settled()
    for packet in recorded(field):
        if packet.data[0] in (1, 2) and packet.destination == at(field.alpha):
            start = 8 if packet.data[0] == 1 else 12
            spoiled = packet.data[:start] + point + packet.data[start + 32 :]
            shove(field, with_right_macs(spoiled, field.alpha))
    assert field.works()


@settings(max_examples=200)
@given(st.integers(0, 12), st.integers(0, 255), st.binary(max_size=1100))
def test_frames_of_a_member_that_mean_nothing(kind: int, flags: int, body: bytes) -> None:
    field = shared[0]
    say(field.beta, field.alpha, pack_frame(kind, body, flags))
    field.run(0.05)


@settings(max_examples=150)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=64),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=12,
    ),
    st.integers(0, 20),
)
def test_control_messages_that_mean_nothing(value: object, kind: int) -> None:
    field = shared[0]
    for message in (value, [kind, value], [kind, *value] if isinstance(value, list) else [value]):
        body = schema.pack(message)
        if len(body) < 1100:
            say(field.beta, field.alpha, control(body))
    field.run(0.05)


@pytest.mark.parametrize(
    "body",
    [
        b"\x91" * 1000,
        b"\xc7\xff\x05" + bytes(255),
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xcb\x7f\xf8" + bytes(6),
        b"\xd9\xff" + b"\xff" * 255,
        b"",
    ],
    ids=["nested", "extension", "array32", "bin32", "map32", "nan", "bad utf-8", "empty"],
)
def test_msgpack_bombs(body: bytes) -> None:
    field = shared[0]
    say(field.beta, field.alpha, control(body))
    field.run(0.05)


def test_frames_whose_lengths_lie() -> None:
    field = shared[0]
    for raw in (b"\x01", b"\x01\x00\xff\xff", bytes((FrameType.PACKET, 0, 0, 5)) + b"1234", bytes(3)):
        say(field.beta, field.alpha, raw)
    field.run(0.1)


def test_afterwards_everybody_still_works() -> None:
    assert shared[0].works()


def test_an_exception_that_is_not_expected_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    field = settled()

    def careless(data: bytes) -> int:
        return data[3]

    monkeypatch.setattr("meshnode.proto.node.message_type_untrusted", careless)
    with pytest.raises(IndexError):
        shove(field, b"\x01")
