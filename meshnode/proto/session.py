"""The sessions of one peer: which keys are held, which one seals, when they are renewed and dropped.

Crossing initiations make two sessions of opposite direction; both stay open for receiving, and only the choice of the
sealing one follows the lower PeerId, so nobody's handshake is ever ignored (DESIGN section 4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from meshnode.crypto.suites import SUITES
from meshnode.proto.constants import (
    CROSSING_TIME,
    REJECT_AFTER_TIME,
    REKEY_AFTER_TIME,
    RESPONDER_REKEY_TIME,
    SESSIONS_PER_PEER,
)
from meshnode.values import Nanos, SessionKeys


@dataclass(slots=True)
class Session:
    """One set of keys.

    `confirmed`: the other side has shown that it holds them too. `crossed`: made while a handshake of the other
    direction was in flight; a session that a restarted peer makes is not, and must win over the one it forgot.
    """

    keys: SessionKeys
    born: Nanos
    confirmed: bool
    crossed: bool = False
    sent: int = 0

    @property
    def local_index(self) -> int:
        return self.keys.local_index

    def rekey_at(self) -> Nanos:
        """When this side starts a new handshake if the other has not."""
        return self.born + (REKEY_AFTER_TIME if self.keys.initiator else RESPONDER_REKEY_TIME)

    def worn(self) -> bool:
        """Whether so many datagrams were sealed that a new session is due."""
        return self.sent >= SUITES[self.keys.suite].rekey_after

    def dead(self, now: Nanos) -> bool:
        return now - self.born >= REJECT_AFTER_TIME or self.sent >= SUITES[self.keys.suite].reject_after


class Sessions:
    """All sessions of one peer, oldest first."""

    def __init__(self, we_are_lower: bool) -> None:
        self._we_are_lower = we_are_lower
        self._held: list[Session] = []

    def __iter__(self) -> Iterator[Session]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def find(self, local_index: int) -> Session | None:
        return next((s for s in self._held if s.local_index == local_index), None)

    def add(self, keys: SessionKeys, now: Nanos, confirmed: bool, crossed: bool = False) -> list[Session]:
        """Hold new keys; returns the sessions dropped to make room.

        An unconfirmed session replaces an older unconfirmed one: only the newest answer of ours can be in use.
        """
        dropped = [s for s in self._held if not s.confirmed and not confirmed]
        kept = [s for s in self._held if s not in dropped]
        kept.append(Session(keys, now, confirmed, crossed))
        while len(kept) > SESSIONS_PER_PEER:
            dropped.append(kept.pop(0))
        self._held = kept
        return dropped

    def sealing(self) -> Session | None:
        """The session to seal with: the newest confirmed one, or of a crossing pair the lower id's."""
        confirmed = [s for s in self._held if s.confirmed]
        if not confirmed:
            return None
        newest = max(confirmed, key=lambda s: s.born)
        for other in confirmed:
            if _crossed(newest, other):
                return newest if newest.keys.initiator == self._we_are_lower else other
        return newest

    def expire(self, now: Nanos) -> list[Session]:
        """Drop and return what is too old or worn out to be used at all."""
        dropped = [s for s in self._held if s.dead(now)]
        self._held = [s for s in self._held if not s.dead(now)]
        return dropped

    def clear(self) -> list[Session]:
        """Drop and return all."""
        dropped, self._held = self._held, []
        return dropped

    def next_expiry(self) -> Nanos | None:
        return min((s.born + REJECT_AFTER_TIME for s in self._held), default=None)


def _crossed(newest: Session, other: Session) -> bool:
    opposite = other.keys.initiator != newest.keys.initiator
    return opposite and newest.crossed and other.crossed and newest.born - other.born < CROSSING_TIME
