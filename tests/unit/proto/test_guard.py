"""The gate in front of the handshake. Floods and broken cookies have files of their own in tests/attacks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.crypto.primitives import SODIUM
from meshnode.proto import guard as module
from meshnode.proto.constants import (
    COOKIE_LIFE_TIME,
    COOKIE_SECRET_TIME,
    HARD_HANDSHAKES_PER_SECOND,
    LOAD_HANDSHAKES_PER_SECOND,
    LOAD_MEMORY,
    SOURCE_BURST,
    SOURCE_RATE_PER_SECOND,
)
from meshnode.proto.guard import (
    NO_MAC,
    Bucket,
    CookieJar,
    Guard,
    SourceBuckets,
    Verdict,
    cookie_key,
    mac1_key,
)
from meshnode.values import MILLISECOND, SECOND, BadPacket, Endpoint, Path, PathKind, PeerId
from meshnode.wire.handshake import CookieReply, Initiation, parse_cookie_untrusted, split_macs
from tests.unit.proto.entropy import Dice
from tests.unit.proto.people import NETWORK, Person

ANN, BOB = Person("ann"), Person("bob")
START = 1000 * SECOND
BODY = Initiation(7, bytes(32), bytes(48), bytes(40)).pack()
HOME = Path(PathKind.UDP, Endpoint("192.0.2.1", 4655))
AWAY = Path(PathKind.UDP, Endpoint("192.0.2.2", 4655))


def gate() -> Guard:
    return Guard(SODIUM, NETWORK, ANN.static, Dice("guard"), START)


def jar() -> CookieJar:
    return CookieJar(SODIUM, NETWORK, ANN.static)


def crowd(number: int) -> Path:
    return Path(PathKind.UDP, Endpoint(f"198.51.{number % 200}.1", 1 + number))


def ask(guard: Guard, path: Path, now: int, times: int = 1) -> list[Verdict]:
    return [guard.judge(jar().seal_macs(BODY, path, now), path, now) for _ in range(times)]


def press(guard: Guard, now: int) -> None:
    """Let so many different sources come at once that everybody has to show a cookie."""
    for number in range(LOAD_HANDSHAKES_PER_SECOND + 1):
        ask(guard, crowd(number), now)
    assert guard.under_load(now)


def proven(guard: Guard, path: Path, now: int) -> bytes:
    """An initiation with the cookie that the guard has given for `path`."""
    ours = jar()
    message = ours.seal_macs(BODY, path, now)
    ours.open_reply_untrusted(parse_cookie_untrusted(guard.cookie_reply(message, 7, path, now)), path, now)
    return ours.seal_macs(BODY, path, now)


# --- mac1 -------------------------------------------------------------------------------------------------------------


def test_every_purpose_and_network_has_its_own_key() -> None:
    keys = {
        f(n, s)
        for f in (mac1_key, cookie_key)
        for n in (NETWORK, bytes(32))
        for s in (ANN.static, BOB.static)
    }
    assert len(keys) == 8


def test_only_who_knows_our_key_makes_a_mac1() -> None:
    gate().check_mac1_untrusted(jar().seal_macs(BODY, HOME, START))
    gate().check_mac1_untrusted(jar().seal_response(BODY))
    for other in (CookieJar(SODIUM, NETWORK, BOB.static), CookieJar(SODIUM, bytes(32), ANN.static)):
        with pytest.raises(BadPacket, match="mac1"):
            gate().check_mac1_untrusted(other.seal_macs(BODY, HOME, START))


@settings(max_examples=60, deadline=None)
@given(bit=st.integers(0, (len(BODY) + 16) * 8 - 1))
def test_mac1_covers_every_bit_before_it(bit: int) -> None:
    message = bytearray(jar().seal_macs(BODY, HOME, START))
    message[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadPacket, match="mac1"):
        gate().check_mac1_untrusted(bytes(message))


# --- budgets ----------------------------------------------------------------------------------------------------------


def test_a_source_has_a_burst_and_then_its_rate() -> None:
    guard = gate()
    assert ask(guard, HOME, START, SOURCE_BURST) == [Verdict.ADMIT] * SOURCE_BURST
    assert ask(guard, HOME, START) == [Verdict.ASK_COOKIE]
    assert ask(guard, HOME, START + SECOND // SOURCE_RATE_PER_SECOND) == [Verdict.ADMIT]
    assert ask(guard, AWAY, START) == [Verdict.ADMIT]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (HOME, Path(PathKind.UDP, HOME.remote._replace(port=9)), True),
        (HOME, Path(PathKind.UDP, HOME.remote, local=3), True),
        (HOME, Path(PathKind.TCP, HOME.remote), False),
        (HOME, AWAY, False),
        (
            Path(PathKind.UDP, Endpoint("2001:db8::1", 1)),
            Path(PathKind.UDP, Endpoint("2001:db8::ffff", 2)),
            True,
        ),
        (
            Path(PathKind.UDP, Endpoint("2001:db8::1", 1)),
            Path(PathKind.UDP, Endpoint("2001:db8:0:1::1", 1)),
            False,
        ),
        (Path(PathKind.RELAY, via=ANN.id), Path(PathKind.RELAY, via=ANN.id), True),
        (Path(PathKind.RELAY, via=ANN.id), Path(PathKind.RELAY, via=PeerId(bytes(16))), False),
    ],
)
def test_who_shares_a_budget(first: Path, second: Path, same: bool) -> None:
    """An IPv4 address, an IPv6 /64, or a relay, whatever the port."""
    guard = gate()
    ask(guard, first, START, SOURCE_BURST)
    assert (ask(guard, second, START) == [Verdict.ASK_COOKIE]) is same


def test_under_load_everybody_shows_a_cookie_until_a_second_after() -> None:
    guard = gate()
    press(guard, START)
    assert ask(guard, HOME, START) == [Verdict.ASK_COOKIE]
    assert ask(guard, AWAY, START + LOAD_MEMORY - MILLISECOND) == [Verdict.ASK_COOKIE]
    assert ask(guard, HOME, START + LOAD_MEMORY) == [Verdict.ADMIT]
    assert not guard.under_load(START + LOAD_MEMORY)


def test_a_cookie_lets_through_but_no_faster_than_the_rate() -> None:
    guard = gate()
    press(guard, START)
    message = proven(guard, HOME, START)
    verdicts = [guard.judge(message, HOME, START) for _ in range(SOURCE_BURST + 1)]
    assert verdicts == [Verdict.ADMIT] * SOURCE_BURST + [Verdict.DROP]
    assert guard.judge(message, AWAY, START) is Verdict.ASK_COOKIE


def test_the_table_of_sources_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest unused is forgotten first, so who keeps on asking is not."""
    monkeypatch.setattr(module, "TRACKED_SOURCES", 10)
    buckets = SourceBuckets()
    for number in range(100):
        assert buckets.take(number.to_bytes(2, "big"), START)
        buckets.take(b"persistent", START)
    assert len(buckets) == 10
    assert not buckets.take(b"persistent", START)


def test_there_is_a_hard_limit_for_all_together() -> None:
    guard = gate()
    messages = [(crowd(n), proven(guard, crowd(n), START)) for n in range(2 * HARD_HANDSHAKES_PER_SECOND)]
    verdicts = [guard.judge(message, path, START) for path, message in messages]
    assert verdicts.count(Verdict.ADMIT) == HARD_HANDSHAKES_PER_SECOND
    assert Verdict.DROP in verdicts
    # A second later all are calm again, but the hard limit has only just begun to refill.
    quiet = gate()
    quiet._hard = Bucket(1, 1, START)
    assert ask(quiet, HOME, START, 2) == [Verdict.ADMIT, Verdict.DROP]


def test_a_cookie_dies_with_its_secret() -> None:
    guard = gate()
    press(guard, START)
    message = proven(guard, HOME, START)
    late = START + COOKIE_SECRET_TIME
    press(guard, late)
    assert guard.judge(message, HOME, late) is Verdict.ASK_COOKIE
    assert guard.judge(proven(guard, HOME, late), HOME, late) is Verdict.ADMIT
    # There is a new secret: the old cookie is wrong, not only too old.
    assert guard.judge(message, HOME, late) is Verdict.ASK_COOKIE


@settings(max_examples=80, deadline=None)
@given(
    rate=st.integers(1, 1000),
    burst=st.integers(1, 50),
    steps=st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(0, 20)), max_size=40),
)
def test_a_bucket_never_gives_more_than_its_rate_and_a_burst(
    rate: int, burst: int, steps: list[tuple[int, int]]
) -> None:
    bucket, now, spent = Bucket(rate, burst, START), START, 0
    for gap, tokens in steps:
        now += gap
        if bucket.take(now, tokens):
            spent += tokens
        assert spent <= burst + (now - START) * rate / SECOND * 1.01
    assert bucket.take(now + (burst + 1) * SECOND, burst)


# --- cookies, from the side of who gets them --------------------------------------------------------------------------


def test_a_cookie_reply_is_no_longer_than_any_initiation() -> None:
    guard, ours = gate(), jar()
    message = ours.seal_macs(BODY, HOME, START)
    assert len(guard.cookie_reply(message, 7, HOME, START)) == 64 < len(message)
    assert parse_cookie_untrusted(guard.cookie_reply(message, 7, HOME, START)).receiver_index == 7


def test_without_a_cookie_mac2_is_zero() -> None:
    _, _, mac2 = split_macs(jar().seal_macs(BODY, HOME, START))
    assert mac2 == NO_MAC
    assert split_macs(jar().seal_response(BODY))[2] == NO_MAC


def test_a_cookie_is_used_on_its_path_and_while_it_lives() -> None:
    guard, ours = gate(), jar()
    message = ours.seal_macs(BODY, HOME, START)
    ours.open_reply_untrusted(
        parse_cookie_untrusted(guard.cookie_reply(message, 7, HOME, START)), HOME, START
    )

    def has_mac2(path: Path, now: int) -> bool:
        return split_macs(ours.seal_macs(BODY, path, now))[2] != NO_MAC

    assert has_mac2(HOME, START + COOKIE_LIFE_TIME - 1)
    assert not has_mac2(HOME, START + COOKIE_LIFE_TIME)
    assert not has_mac2(AWAY, START)


def test_a_reply_that_nobody_asked_for_is_refused() -> None:
    guard, ours = gate(), jar()
    reply = parse_cookie_untrusted(guard.cookie_reply(jar().seal_macs(BODY, HOME, START), 7, HOME, START))
    with pytest.raises(BadPacket, match="unasked"):
        ours.open_reply_untrusted(reply, HOME, START)
    ours.seal_macs(BODY, AWAY, START)
    with pytest.raises(BadPacket, match="unasked"):
        ours.open_reply_untrusted(reply, HOME, START)


def test_a_reply_counts_once_for_each_path_of_the_last_initiation() -> None:
    guard, ours = gate(), jar()
    replies = {}
    for path in (HOME, AWAY):
        message = ours.seal_macs(BODY, path, START)
        replies[path] = parse_cookie_untrusted(guard.cookie_reply(message, 7, path, START))
    for path, reply in replies.items():
        ours.open_reply_untrusted(reply, path, START)
        with pytest.raises(BadPacket, match="unasked"):
            ours.open_reply_untrusted(reply, path, START)
    late = guard.cookie_reply(ours.seal_macs(BODY, HOME, START), 7, HOME, START)
    ours.seal_macs(BODY + b"a later one", HOME, START)
    with pytest.raises(BadPacket):
        ours.open_reply_untrusted(parse_cookie_untrusted(late), HOME, START)


def test_a_response_of_ours_in_between_does_not_spoil_the_cookie() -> None:
    guard, ours = gate(), jar()
    message = ours.seal_macs(BODY, HOME, START)
    ours.seal_response(BODY + b"to a crossing initiation")
    reply = guard.cookie_reply(message, 7, HOME, START)
    ours.open_reply_untrusted(parse_cookie_untrusted(reply), HOME, START)


def test_a_forged_reply_does_not_use_up_the_chance() -> None:
    guard, ours = gate(), jar()
    message = ours.seal_macs(BODY, HOME, START)
    with pytest.raises(BadPacket, match="bad tag"):
        ours.open_reply_untrusted(CookieReply(7, bytes(24), bytes(32)), HOME, START)
    reply = guard.cookie_reply(message, 7, HOME, START)
    ours.open_reply_untrusted(parse_cookie_untrusted(reply), HOME, START)


def test_the_jar_has_a_bound() -> None:
    guard, ours = gate(), jar()
    for number in range(50):
        message = ours.seal_macs(BODY, crowd(number), START)
        reply = parse_cookie_untrusted(guard.cookie_reply(message, 7, crowd(number), START))
        ours.open_reply_untrusted(reply, crowd(number), START)
    assert len(ours._cookies) <= 8
