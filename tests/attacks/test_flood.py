"""Handshakes by the thousand: what they cost us, and whom they keep out.

An initiation with a right mac1 needs nothing but our public key, and costs us a Diffie-Hellman. A limiter for
all keeps the honest out together with the flooder; one per port is none.
"""

from collections.abc import Iterator

import pytest

from meshnode.crypto.primitives import SODIUM
from meshnode.proto.constants import HARD_HANDSHAKES_PER_SECOND, TRACKED_SOURCES
from meshnode.proto.guard import CookieJar, Guard, SourceBuckets, Verdict
from meshnode.values import SECOND, Endpoint, Nanos, Path, PathKind
from meshnode.wire.handshake import Initiation, parse_cookie_untrusted
from tests.sim.entropy import SeededEntropy

STATIC = SODIUM.public_key(bytes(range(32)))
NETWORK = bytes(32)
INITIATION = Initiation(7, bytes(32), bytes(48), bytes(40)).pack()
HONEST = Path(PathKind.UDP, Endpoint("45.7.0.5", 4655))
RATE = 10_000
START = 1000 * SECOND


def initiation(path: Path) -> bytes:
    return CookieJar(SODIUM, NETWORK, STATIC).seal_macs(INITIATION, path, 0)


FORGED = initiation(HONEST)


def udp(host: str, port: int = 4655) -> Path:
    return Path(PathKind.UDP, Endpoint(host, port))


SOURCES = {
    "one address": [udp("46.0.0.1")],
    "one address, all ports": [udp("46.0.0.1", port) for port in range(1, 1001)],
    "one /64": [udp(f"2a0e:9::{n:x}") for n in range(1, 1001)],
    "a thousand addresses": [udp(f"46.0.{n >> 8}.{n & 255}") for n in range(1000)],
    "a /48": [udp(f"2a0e:9:1:{n:x}::1") for n in range(10_000)],
}
ONE_SOURCE = ["one address", "one address, all ports", "one /64"]


class Flood:
    """Two seconds of it against one guard. `admitted` is what each cost us a Diffie-Hellman."""

    def __init__(self, sources: list[Path], guard: Guard | None = None) -> None:
        self.guard = guard or Guard(SODIUM, NETWORK, STATIC, SeededEntropy(1, "guard"), START)
        self.sources = sources
        self.admitted = 0
        self.cookies = 0
        self.now: Nanos = START

    def pour(self, seconds: int = 2) -> Iterator[Nanos]:
        """Let it run; yields ten times a second."""
        for number in range(seconds * RATE):
            self.now += SECOND // RATE
            path = self.sources[number % len(self.sources)]
            verdict = self.guard.judge(FORGED, path, self.now)
            self.admitted += verdict is Verdict.ADMIT
            self.cookies += verdict is Verdict.ASK_COOKIE
            if number % (RATE // 10) == 0:
                yield self.now


def cost_of(sources: list[Path]) -> int:
    flood = Flood(sources)
    for _ in flood.pour():
        pass
    return flood.admitted


def honest_admitted(sources: list[Path]) -> int:
    """How many of an honest node's ten initiations in two seconds are taken at once, without a cookie."""
    flood = Flood(sources)
    verdicts = []
    for number, now in enumerate(flood.pour()):
        if number % 2 == 1:
            verdicts.append(flood.guard.judge(initiation(HONEST), HONEST, now))
    return verdicts.count(Verdict.ADMIT)


@pytest.mark.parametrize("kind", SOURCES)
def test_a_flood_costs_a_bounded_number_of_handshakes(kind: str) -> None:
    assert cost_of(SOURCES[kind]) <= 3 * HARD_HANDSHAKES_PER_SECOND


@pytest.mark.parametrize("kind", ONE_SOURCE)
def test_one_source_costs_no_more_than_its_own_rate(kind: str) -> None:
    assert cost_of(SOURCES[kind]) <= 2 * 20 + 5


@pytest.mark.parametrize("kind", ONE_SOURCE)
def test_one_flooder_keeps_nobody_else_out_and_sends_nobody_else_for_a_cookie(kind: str) -> None:
    assert honest_admitted(SOURCES[kind]) == 10


@pytest.mark.parametrize("kind", SOURCES)
def test_with_a_cookie_an_honest_node_gets_in_whoever_floods(kind: str) -> None:
    flood = Flood(SOURCES[kind])
    jar = CookieJar(SODIUM, NETWORK, STATIC)
    taken = False
    for now in flood.pour():
        message = jar.seal_macs(INITIATION, HONEST, now)
        verdict = flood.guard.judge(message, HONEST, now)
        if verdict is Verdict.ADMIT:
            taken = True
            break
        reply = flood.guard.cookie_reply(message, 7, HONEST, now)
        jar.open_reply_untrusted(parse_cookie_untrusted(reply), HONEST, now)
    assert taken


@pytest.mark.parametrize("kind", SOURCES)
def test_calm_returns_within_a_second_of_the_flood(kind: str) -> None:
    flood = Flood(SOURCES[kind])
    for _ in flood.pour():
        pass
    later = flood.now + SECOND
    assert not flood.guard.under_load(later)
    assert flood.guard.judge(initiation(HONEST), HONEST, later) is Verdict.ADMIT


def test_the_tables_have_a_bound() -> None:
    buckets = SourceBuckets()
    for number in range(3 * TRACKED_SOURCES):
        buckets.take(number.to_bytes(5, "big"), START)
    assert len(buckets) <= TRACKED_SOURCES


def test_without_the_budget_per_source_the_flood_costs_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SourceBuckets, "take", lambda *_: True)
    assert cost_of(SOURCES["one address"]) > 2 * 20 + 5


def test_a_budget_per_port_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshnode.proto.guard._source", lambda path: str(path).encode())
    assert cost_of(SOURCES["one address, all ports"]) > 2 * 20 + 5


def test_without_the_hard_limit_and_the_cookie_the_flood_costs_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Guard, "_mac2_is_right", lambda *_: True)
    monkeypatch.setattr("meshnode.proto.guard.HARD_HANDSHAKES_PER_SECOND", 1_000_000)
    assert cost_of(SOURCES["a /48"]) > 3 * HARD_HANDSHAKES_PER_SECOND
