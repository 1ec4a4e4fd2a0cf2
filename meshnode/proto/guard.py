"""The gate in front of the handshake: mac1, cookies (mac2) and budgets (WireGuard whitepaper section 5.3 and 5.4.4-7).

Nothing that fails mac1 is answered or remembered. Load is judged per source first, then in total, so that one flooder
sends only himself into cookie mode; a source is an IPv4 address, an IPv6 /64, or a relay.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum

from meshnode.crypto.primitives import Ciphers, equal, hash32, keyed_hash
from meshnode.proto.constants import (
    COOKIE_LIFE_TIME,
    COOKIE_SECRET_TIME,
    HARD_HANDSHAKES_PER_SECOND,
    LOAD_HANDSHAKES_PER_SECOND,
    LOAD_MEMORY,
    SOURCE_BURST,
    SOURCE_RATE_PER_SECOND,
    TRACKED_SOURCES,
)
from meshnode.values import SECOND, BadPacket, Entropy, Nanos, Path
from meshnode.wire.address import encode_path
from meshnode.wire.handshake import CookieReply, split_macs

MAC_SIZE = 16
NO_MAC = bytes(MAC_SIZE)


class Verdict(Enum):
    """What becomes of an initiation whose mac1 is right."""

    ADMIT = "admit"
    ASK_COOKIE = "ask cookie"
    DROP = "drop"


def mac1_key(network_id: bytes, static: bytes) -> bytes:
    """The key of mac1 in messages to the owner of `static` (32 bytes)."""
    return hash32(b"meshnode mac1", network_id, static)


def cookie_key(network_id: bytes, static: bytes) -> bytes:
    """The key that seals cookies made by the owner of `static` (32 bytes)."""
    return hash32(b"meshnode cookie", network_id, static)


class Guard:
    """The responder's side: checks macs, makes cookies, keeps the budgets."""

    def __init__(
        self, ciphers: Ciphers, network_id: bytes, static: bytes, entropy: Entropy, now: Nanos
    ) -> None:
        self._ciphers = ciphers
        self._entropy = entropy
        self._mac1_key = mac1_key(network_id, static)
        self._cookie_key = cookie_key(network_id, static)
        self._secret = entropy.token(32)
        self._secret_made = now
        self._unverified = SourceBuckets()
        self._verified = SourceBuckets()
        self._total = Bucket(LOAD_HANDSHAKES_PER_SECOND, LOAD_HANDSHAKES_PER_SECOND, now)
        self._hard = Bucket(HARD_HANDSHAKES_PER_SECOND, HARD_HANDSHAKES_PER_SECOND, now)
        self._loaded_until: Nanos = 0

    def check_mac1_untrusted(self, data: bytes) -> None:
        """Raise BadPacket unless `data` was made by someone who knows our static key."""
        body, mac1, _ = split_macs(data)
        if not equal(keyed_hash(self._mac1_key, body, MAC_SIZE), mac1):
            raise BadPacket("mac1")

    def judge(self, data: bytes, path: Path, now: Nanos) -> Verdict:
        """Whether an initiation with a right mac1 may cost us a Diffie-Hellman.

        A source within its own rate is admitted while the whole is calm. Otherwise its mac2 must prove the path,
        and what is proven has a rate of its own: a spoofed flood cannot spend it.
        """
        source = _source(path)
        calm = self._unverified.take(source, now)
        if calm and not self._total.take(now):
            self._loaded_until = now + LOAD_MEMORY
        if calm and now >= self._loaded_until:
            return Verdict.ADMIT if self._hard.take(now) else Verdict.DROP
        if not self._mac2_is_right(data, path, now):
            return Verdict.ASK_COOKIE
        if self._verified.take(source, now) and self._hard.take(now):
            return Verdict.ADMIT
        return Verdict.DROP

    def under_load(self, now: Nanos) -> bool:
        """Whether every source has to show a cookie."""
        return now < self._loaded_until

    def cookie_reply(self, data: bytes, sender_index: int, path: Path, now: Nanos) -> bytes:
        """The 64-byte answer that lets the sender of the initiation `data` prove its path."""
        _, mac1, _ = split_macs(data)
        nonce = self._entropy.token(24)
        sealed = self._ciphers.xseal(self._cookie_key, nonce, mac1, self._cookie(path, now))
        return CookieReply(sender_index, nonce, sealed).pack()

    def _mac2_is_right(self, data: bytes, path: Path, now: Nanos) -> bool:
        body, mac1, mac2 = split_macs(data)
        if mac2 == NO_MAC or now - self._secret_made >= COOKIE_SECRET_TIME:
            return False
        return equal(keyed_hash(self._cookie(path, now), body + mac1, MAC_SIZE), mac2)

    def _cookie(self, path: Path, now: Nanos) -> bytes:
        if now - self._secret_made >= COOKIE_SECRET_TIME:
            self._secret = self._entropy.token(32)
            self._secret_made = now
        return keyed_hash(self._secret, encode_path(path), MAC_SIZE)


class CookieJar:
    """The initiator's side, one per peer: adds the macs, opens cookie replies, uses a cookie while it lives."""

    def __init__(self, ciphers: Ciphers, network_id: bytes, static: bytes) -> None:
        self._ciphers = ciphers
        self._mac1_key = mac1_key(network_id, static)
        self._cookie_key = cookie_key(network_id, static)
        self._cookies: OrderedDict[Path, tuple[bytes, Nanos]] = OrderedDict()
        self._last_mac1 = b""
        self._asked: dict[Path, None] = {}

    def seal_response(self, body: bytes) -> bytes:
        """The response `body` with mac1. Nobody asks for a cookie in return for one."""
        return body + keyed_hash(self._mac1_key, body, MAC_SIZE) + NO_MAC

    def seal_macs(self, body: bytes, path: Path, now: Nanos) -> bytes:
        """The initiation `body` with mac1, and mac2 where `path` has given us a cookie."""
        mac1 = keyed_hash(self._mac1_key, body, MAC_SIZE)
        if not equal(mac1, self._last_mac1):
            self._last_mac1, self._asked = mac1, {}
        self._asked[path] = None
        cookie = self._cookies.get(path)
        if cookie is None or now - cookie[1] >= COOKIE_LIFE_TIME:
            return body + mac1 + NO_MAC
        return body + mac1 + keyed_hash(cookie[0], body + mac1, MAC_SIZE)

    def open_reply_untrusted(self, reply: CookieReply, path: Path, now: Nanos) -> None:
        """Keep the cookie in `reply`, which must answer the last initiation made here, once for each of its paths."""
        if path not in self._asked:
            raise BadPacket("cookie unasked")
        cookie = self._ciphers.xopen_untrusted(
            self._cookie_key, reply.nonce, self._last_mac1, reply.sealed_cookie
        )
        del self._asked[path]
        self._cookies[path] = (cookie, now)
        while len(self._cookies) > 8:
            self._cookies.popitem(last=False)


class Bucket:
    """A token bucket: `rate` tokens a second, at most `burst` of them. Integers of nanoseconds inside."""

    __slots__ = ("_cost", "_full", "_level", "_updated")

    def __init__(self, rate: int, burst: int, now: Nanos) -> None:
        self._cost = SECOND // rate
        self._full = burst * self._cost
        self._level = self._full
        self._updated = now

    def take(self, now: Nanos, tokens: int = 1) -> bool:
        """Spend `tokens` when there are so many; False and nothing spent otherwise."""
        self._level = min(self._full, self._level + now - self._updated)
        self._updated = now
        if self._level < tokens * self._cost:
            return False
        self._level -= tokens * self._cost
        return True


class SourceBuckets:
    """One bucket per source, the longest unused forgotten first.

    A table pushed over by invented sources forgets honest ones too; then the total rate speaks.
    """

    def __init__(self) -> None:
        self._buckets: OrderedDict[bytes, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, source: bytes, now: Nanos) -> bool:
        bucket = self._buckets.get(source)
        if bucket is None:
            bucket = self._buckets[source] = Bucket(SOURCE_RATE_PER_SECOND, SOURCE_BURST, now)
            while len(self._buckets) > TRACKED_SOURCES:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(source)
        return bucket.take(now)


def _source(path: Path) -> bytes:
    """Who pays for a datagram on `path`: kind, then the IPv4 address, the IPv6 /64, or the relay.

    Ports do not count: one limiter per port would be none (fastd CVE-2025-24356).
    """
    encoded = encode_path(path)
    kind, rest = encoded[:1], encoded[1:]
    if path.via is not None:
        return encoded
    address = rest[:-2]
    return kind + (address[:8] if len(address) == 16 else address)
