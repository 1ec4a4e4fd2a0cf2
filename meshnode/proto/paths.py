"""The ways to one peer: candidates, probes, proof, choice (DESIGN section 6; RFC 9000 section 8 and 9 for the rules).

A path is *proven* by an echo of our own probe that came back on it (or by a handshake that did). Hearing the peer on a
path proves nothing about sending there, so it only makes a candidate, to which at most three times the bytes heard are
sent. Proven paths that miss three probes in a row are dead. The best proven path is active; better means a clearly
lower round-trip time, so that two equal paths do not alternate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from meshnode.proto.constants import (
    CANDIDATES_PER_PEER,
    KEEPALIVE_INTERVAL,
    PATH_MISSES,
    PROBE_BACKOFF,
    PROBE_INTERVAL,
    PROBE_TIMEOUT,
    PROVEN_PROBE_INTERVAL,
    UNPROVEN_FACTOR,
)
from meshnode.values import MILLISECOND, Nanos, Path, PathKind, PeerId

LATE_ECHOES = 8
"""Probes of a path that were given up and whose echo is welcome all the same."""

SUSPECT_MISSES = 2
"""Misses after which a relay, which costs others, is preferred to a direct path."""

NEVER: Nanos = -(1 << 62)
CLEARLY_BETTER: Nanos = 2 * MILLISECOND


class Origin(Enum):
    """Who told us of a candidate. The order is that of trust: a table that is full drops from the end."""

    CONFIGURED = 0
    REMEMBERED = 1
    RECORD = 2
    LAN = 3
    OBSERVED = 4
    RELAY = 5


@dataclass(slots=True)
class Candidate:
    """One path and what is known of it. Times are boot time; an `rtt` of 0 is not measured yet."""

    path: Path
    origin: Origin
    added: Nanos
    proven: bool = False
    proven_at: Nanos = NEVER
    heard_at: Nanos = NEVER
    rtt: Nanos = 0
    misses: int = 0
    probes: int = 0
    next_probe: Nanos = 0
    credit: int = 0
    waiting: dict[bytes, Nanos] = field(default_factory=dict)
    late: dict[bytes, Nanos] = field(default_factory=dict)

    @property
    def direct(self) -> bool:
        """Datagrams go straight to the peer: no relay carries them, no stream holds them up."""
        return self.path.kind is PathKind.UDP

    def score(self) -> Nanos:
        """What choosing this path costs among its like: its round trip."""
        return self.rtt or PROBE_TIMEOUT

    def rank(self) -> tuple[bool, bool, bool, bool, Nanos]:
        """The order of choice, best first: alive, direct, from our main port, without a miss, quick."""
        suspect = self.misses >= SUSPECT_MISSES
        return suspect, not self.direct, self.path.local > 0, self.misses > 0, self.score()


class Paths:
    """The candidates of one peer. Sends nothing itself: `due` says which probes to send."""

    def __init__(self) -> None:
        self._candidates: dict[Path, Candidate] = {}
        self.active: Path | None = None
        self._busy = False
        self.keepalive: Nanos = KEEPALIVE_INTERVAL

    # --- candidates --------------------------------------------------------------------------------------

    def offer(self, path: Path, origin: Origin, now: Nanos) -> bool:
        """Learn of a path; True when it is new. A full table forgets its least trusted dead entry."""
        held = self._candidates.get(path)
        if held is not None:
            if origin.value < held.origin.value:
                held.origin = origin
            return False
        if len(self._candidates) >= CANDIDATES_PER_PEER and not self._make_room(origin):
            return False
        self._candidates[path] = Candidate(path, origin, now, next_probe=now)
        return True

    def withdraw(self, origin: Origin, keep: set[Path]) -> None:
        """Forget the unproven candidates of this origin but those in `keep` (a newer record replaces an older)."""
        for candidate in list(self._candidates.values()):
            if candidate.origin is origin and not candidate.proven and candidate.path not in keep:
                del self._candidates[candidate.path]

    def heard(self, path: Path, size: int, now: Nanos) -> None:
        """An authenticated datagram of `size` bytes came on `path`."""
        candidate = self._candidates.get(path)
        if candidate is None:
            if not self.offer(path, Origin.OBSERVED, now):
                return
            candidate = self._candidates[path]
        candidate.heard_at = now
        candidate.credit = min(candidate.credit + UNPROVEN_FACTOR * size, 16_384)
        if not candidate.proven and candidate.origin is Origin.OBSERVED:
            candidate.next_probe = min(
                candidate.next_probe, max(now, _last_sent(candidate) + 200 * MILLISECOND)
            )
        if self.active is not None and path != self.active:
            self._suspect_active(now)

    def prove(self, path: Path, rtt: Nanos | None, now: Nanos) -> None:
        """A handshake or an echo has gone to `path` and come back."""
        if path not in self._candidates and not self.offer(path, Origin.OBSERVED, now):
            return
        candidate = self._candidates[path]
        if rtt is not None:
            known = candidate.proven and candidate.rtt
            candidate.rtt = (7 * candidate.rtt + rtt) // 8 if known else rtt
        candidate.proven = True
        candidate.proven_at = candidate.heard_at = now
        candidate.misses = 0
        candidate.probes = 0
        self._schedule(candidate, now)
        if candidate.rtt == 0:
            candidate.next_probe = now  # proven by a handshake alone: measure it

    def proven(self) -> tuple[Path, ...]:
        return tuple(c.path for c in self._candidates.values() if c.proven)

    def candidates(self) -> list[Candidate]:
        """All candidates, the most promising first: active, proven by score, then by trust."""
        return sorted(
            self._candidates.values(),
            key=lambda c: (c.path != self.active, not c.proven, c.score() if c.proven else 0, c.origin.value),
        )

    @property
    def has_direct(self) -> bool:
        """Whether a direct path works."""
        return any(c.proven and c.direct for c in self._candidates.values())

    @property
    def in_doubt(self) -> bool:
        """Whether no direct path can be trusted now: none is proven without several misses."""
        return not any(c.proven and c.direct and c.misses < SUSPECT_MISSES for c in self._candidates.values())

    def lose_relay(self, relay: PeerId) -> bool:
        """`relay` is gone, and the paths through it with it. Whether there were any."""
        lost = [path for path in self._candidates if path.via == relay]
        for path in lost:
            del self._candidates[path]
        return bool(lost)

    def provoke(self, now: Nanos) -> None:
        """Both sides probe at this moment: start the schedule of all unproven direct candidates anew."""
        for candidate in self._candidates.values():
            if candidate.direct and not candidate.proven:
                candidate.probes = 0
                candidate.next_probe = now

    def find(self, path: Path) -> Candidate | None:
        return self._candidates.get(path)

    # --- probing -----------------------------------------------------------------------------------------

    def due(self, now: Nanos) -> list[Candidate]:
        """Candidates that want a probe now; overdue answers are counted as misses first."""
        for candidate in self._candidates.values():
            self._count_misses(candidate, now)
        return [c for c in self._candidates.values() if c.next_probe <= now]

    def may_send(self, candidate: Candidate, size: int) -> bool:
        """Whether `size` bytes may go to this path; spends the credit of one that was only overheard."""
        if candidate.proven or candidate.origin is not Origin.OBSERVED:
            return True
        if candidate.credit < size:
            return False
        candidate.credit -= size
        return True

    def probed(self, candidate: Candidate, token: bytes, now: Nanos) -> None:
        """A probe with `token` was sent."""
        candidate.waiting[token] = now
        candidate.probes += 1
        self._schedule(candidate, now)

    def postpone(self, candidate: Candidate, now: Nanos) -> None:
        """No probe could be sent: try when the schedule says."""
        candidate.probes += 1
        self._schedule(candidate, now)

    def echoed(self, token: bytes, now: Nanos) -> tuple[Path, Nanos] | None:
        """An echo came: the path on which we had sent its probe, and the round-trip time. None if it answers none.

        The probe has reached the peer, so that path works (RFC 9000, 8.2.3). On which path the echo came says nothing:
        somebody who overtakes it with a copy from elsewhere must not make a good path look dead. One that comes late
        counts too: a full queue can make any path slower than PROBE_TIMEOUT, and a slow path is not a dead one.
        """
        candidate = next(
            (c for c in self._candidates.values() if token in c.waiting or token in c.late), None
        )
        if candidate is None:
            return None
        sent = candidate.waiting.pop(token) if token in candidate.waiting else candidate.late.pop(token)
        candidate.waiting = {t: s for t, s in candidate.waiting.items() if s > sent}
        rtt = max(now - sent, 1)
        self.prove(candidate.path, rtt, now)
        return candidate.path, rtt

    def sent_data(self, now: Nanos) -> None:
        """User traffic went out on the active path: it is watched every second while that lasts."""
        self._busy = True
        active = self._candidates.get(self.active) if self.active is not None else None
        if active is not None and not active.waiting:
            active.next_probe = min(active.next_probe, max(now, active.proven_at + PROBE_INTERVAL))

    def wake(self, now: Nanos) -> None:
        """The network or the machine changed: probe everything at once, from the start of the schedule."""
        for candidate in self._candidates.values():
            candidate.probes = 0
            candidate.next_probe = now

    def next_wakeup(self) -> Nanos | None:
        """When `due` should be called next."""
        times = [c.next_probe for c in self._candidates.values()]
        for candidate in self._candidates.values():
            times.extend(sent + self._patience(candidate) for sent in candidate.waiting.values())
        return min(times, default=None)

    # --- choice ------------------------------------------------------------------------------------------

    def choose(self) -> Path | None:
        """Make the best proven path active and return it; None when there is none."""
        alive = [c for c in self._candidates.values() if c.proven]
        if not alive:
            self.active = None
            return None
        best = min(alive, key=lambda c: (*c.rank(), c.origin.value))
        active = self._candidates.get(self.active) if self.active is not None else None
        if active is None or not active.proven or self._is_better(best, active):
            self.active = best.path
            # It was scheduled as one that is not in use, and those are probed too seldom to keep a NAT awake.
            best.next_probe = min(best.next_probe, best.proven_at + self.keepalive)
        return self.active

    @staticmethod
    def _is_better(best: Candidate, active: Candidate) -> bool:
        if best.rank()[:4] < active.rank()[:4]:
            return True
        return best.score() + CLEARLY_BETTER < active.score() * 3 // 4

    # --- inside ------------------------------------------------------------------------------------------

    def _make_room(self, origin: Origin) -> bool:
        dead = [c for c in self._candidates.values() if not c.proven and c.origin.value >= origin.value]
        if not dead:
            return False
        worst = max(dead, key=lambda c: (c.origin.value, c.probes, -c.added))
        del self._candidates[worst.path]
        return True

    def _suspect_active(self, now: Nanos) -> None:
        """The peer spoke on another path: it may have left the active one, so ask there now."""
        active = self._candidates.get(self.active) if self.active is not None else None
        if active is not None and not active.waiting and now - active.proven_at > PROBE_INTERVAL // 2:
            active.next_probe = now

    def _count_misses(self, candidate: Candidate, now: Nanos) -> None:
        patience = self._patience(candidate)
        late = [t for t, sent in candidate.waiting.items() if now - sent >= patience]
        for token in late:
            candidate.late[token] = candidate.waiting.pop(token)
        while len(candidate.late) > LATE_ECHOES:
            del candidate.late[next(iter(candidate.late))]
        if not late:
            return
        candidate.misses += len(late)
        if not candidate.proven:
            return
        candidate.next_probe = now
        if candidate.misses >= PATH_MISSES:
            candidate.proven = False
            candidate.probes = 0

    @staticmethod
    def _patience(candidate: Candidate) -> Nanos:
        return max(PROBE_TIMEOUT, 3 * candidate.rtt)

    def _schedule(self, candidate: Candidate, now: Nanos) -> None:
        if not candidate.proven:
            gap = PROBE_BACKOFF[min(candidate.probes, len(PROBE_BACKOFF) - 1)]
        elif candidate.misses > 0:
            gap = PROBE_INTERVAL
        elif candidate.path == self.active:
            gap = PROBE_INTERVAL if self._busy else self.keepalive
            self._busy = False
        else:
            gap = PROVEN_PROBE_INTERVAL
        candidate.next_probe = now + gap


def _last_sent(candidate: Candidate) -> Nanos:
    return max(candidate.waiting.values(), default=NEVER)


def usable_endpoint(host: str, port: int) -> bool:
    """Whether an endpoint that a member *claims* may be tried at all: no loopback, multicast, broadcast, or port 0.

    Private addresses are fine: they are how neighbours meet.
    """
    if not 0 < port < 65536:
        return False
    if ":" in host:
        low = host.lower()
        bad = low in ("::", "::1") or low.startswith(("ff", "::ffff:"))
        return not bad and (not low.startswith(("fe8", "fe9", "fea", "feb")) or "%" in low)
    first = int(host.split(".", 1)[0])
    return first not in (0, 127) and first < 224
