"""A cookie check that lets through what it should not.

It is the one check of which nobody notices when it is broken: everything goes on working, under load too.
OpenVPN's was inverted and took every cookie (CVE-2025-13086); another forgot the port.
"""

from collections.abc import Callable

import pytest

from meshnode.crypto.primitives import SODIUM
from meshnode.proto.constants import COOKIE_SECRET_TIME, LOAD_HANDSHAKES_PER_SECOND
from meshnode.proto.guard import CookieJar, Guard, Verdict
from meshnode.values import SECOND, BadPacket, Endpoint, Path, PathKind, PeerId
from meshnode.wire.handshake import Initiation, parse_cookie_untrusted
from tests.sim.entropy import SeededEntropy

STATIC_SECRET = bytes(range(32))
STATIC = SODIUM.public_key(STATIC_SECRET)
NETWORK = bytes(32)
HOME = Path(PathKind.UDP, Endpoint("45.7.0.5", 4655))
INITIATION = Initiation(7, bytes(32), bytes(48), bytes(40)).pack()
START = 1000 * SECOND


class UnderLoad:
    """A guard that is asking for cookies, and an honest initiator that has been given one."""

    def __init__(self) -> None:
        self.guard = Guard(SODIUM, NETWORK, STATIC, SeededEntropy(1, "guard"), START)
        self.jar = CookieJar(SODIUM, NETWORK, STATIC)
        self.now = START
        self.keep_up()
        first = self.jar.seal_macs(INITIATION, HOME, self.now)
        self.asked = self.guard.judge(first, HOME, self.now) is Verdict.ASK_COOKIE
        reply = self.guard.cookie_reply(first, 7, HOME, self.now)
        assert len(reply) <= len(first)
        self.jar.open_reply_untrusted(parse_cookie_untrusted(reply), HOME, self.now)
        self.proven = self.jar.seal_macs(INITIATION, HOME, self.now)

    def keep_up(self) -> None:
        """A crowd of strangers, each within his own rate, uses up the rate of all."""
        for number in range(LOAD_HANDSHAKES_PER_SECOND + 1):
            crowd = Path(PathKind.UDP, Endpoint(f"46.0.{number}.1", 1))
            message = CookieJar(SODIUM, NETWORK, STATIC).seal_macs(INITIATION, crowd, 0)
            self.guard.judge(message, crowd, self.now)
        assert self.guard.under_load(self.now)

    def admits(self, data: bytes, path: Path = HOME, after: int = 0) -> bool:
        self.now += after
        self.keep_up()
        return self.guard.judge(data, path, self.now) is Verdict.ADMIT


def with_flipped_bit(data: bytes, bit: int) -> bytes:
    spoiled = bytearray(data)
    spoiled[bit // 8] ^= 1 << bit % 8
    return bytes(spoiled)


def forged_bits(load: UnderLoad) -> bool:
    first_bit = (len(load.proven) - 16) * 8
    # The clock moves on, so that the honest source's own rate never is what refuses.
    return any(
        load.admits(with_flipped_bit(load.proven, first_bit + b), after=SECOND // 20) for b in range(128)
    )


def no_cookie_at_all(load: UnderLoad) -> bool:
    return load.admits(load.proven[:-16] + bytes(16))


def from_elsewhere(load: UnderLoad) -> bool:
    others = (
        Path(PathKind.UDP, Endpoint("45.7.0.6", 4655)),
        Path(PathKind.UDP, Endpoint("45.7.0.5", 4656)),
        Path(PathKind.TCP, HOME.remote),
        Path(PathKind.RELAY, via=PeerId(bytes(16))),
    )
    return any(load.admits(load.proven, other) for other in others)


def forged_replies(load: UnderLoad) -> bool:
    """Whether an initiator takes a cookie reply of which a bit behind the index was flipped."""
    message = load.jar.seal_macs(INITIATION, HOME, load.now)
    reply = load.guard.cookie_reply(message, 7, HOME, load.now)
    for bit in range(8 * 8, len(reply) * 8):
        try:
            load.jar.open_reply_untrusted(
                parse_cookie_untrusted(with_flipped_bit(reply, bit)), HOME, load.now
            )
        except BadPacket:
            continue
        return True
    load.jar.open_reply_untrusted(parse_cookie_untrusted(reply), HOME, load.now)
    return False


def too_old(load: UnderLoad) -> bool:
    return load.admits(load.proven, after=COOKIE_SECRET_TIME)


ATTACKS = [forged_replies, forged_bits, no_cookie_at_all, from_elsewhere, too_old]


def test_an_honest_cookie_is_taken_until_its_end() -> None:
    load = UnderLoad()
    assert load.asked
    assert load.admits(load.proven)
    assert load.admits(load.proven, after=COOKIE_SECRET_TIME - 1)


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_else_is_taken(attack: Callable[[UnderLoad], bool]) -> None:
    assert not attack(UnderLoad())


@pytest.mark.parametrize("attack", [forged_bits, from_elsewhere])
def test_the_attack_works_where_the_comparison_is_broken(
    attack: Callable[[UnderLoad], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = UnderLoad()
    monkeypatch.setattr("meshnode.proto.guard.equal", lambda a, b: True)
    assert attack(load)


def test_an_inverted_comparison_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    load = UnderLoad()
    monkeypatch.setattr("meshnode.proto.guard.equal", lambda a, b: a != b)
    assert not load.admits(load.proven)
    assert forged_bits(load)


def test_a_forgotten_port_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshnode.proto.guard.encode_path", lambda path: path.remote.host.encode())
    assert from_elsewhere(UnderLoad())


def test_a_check_that_is_skipped_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    load = UnderLoad()
    monkeypatch.setattr(Guard, "_mac2_is_right", lambda *_: True)
    assert no_cookie_at_all(load)


def test_a_secret_that_lives_on_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshnode.proto.guard.COOKIE_SECRET_TIME", 10 * COOKIE_SECRET_TIME)
    assert too_old(UnderLoad())
