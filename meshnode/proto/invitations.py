"""Invitations: one secret, so many uses, one redemption per joiner (DESIGN section 3, Enrolment).

The inviter keeps hashes, never the secret. Redemption is split in two, so that the disk comes before the answer:
`reserve` picks the grant and takes a use, then `commit` or `release` follows what the disk said.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

from meshnode.crypto.primitives import equal, hash32, short_hash
from meshnode.proto.constants import MAX_INVITATIONS, TIMESTAMPS_PER_INVITATION
from meshnode.values import SECOND, Nanos, Prefix
from meshnode.wire.state import StoredInvitation


class Refusal(Exception):
    """A joiner cannot be let in. `code` is for programs, `text` one line for the person who typed the token."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class InvitationTerms:
    """What an operator asks for: `name` None lets the joiner choose, `expires` is a duration."""

    name: str | None = None
    uses: int = 1
    expires: Nanos = 7 * 24 * 3600 * SECOND
    roles: int = 0
    prefixes: tuple[Prefix, ...] = ()
    valid_seconds: int = 0


def invitation_id(secret: bytes) -> bytes:
    """16 bytes that name an invitation without telling its secret."""
    return short_hash(b"id", secret)


def invitation_psk(secret: bytes) -> bytes:
    return hash32(b"psk", secret)


def redeem_hash(secret: bytes) -> bytes:
    return hash32(b"redeem", secret)


class Invitations:
    """The open invitations of this node, and what their redemption has promised."""

    def __init__(self, stored: tuple[StoredInvitation, ...]) -> None:
        self._stored = {i.id: i for i in stored}
        self._reserved: dict[bytes, dict[bytes, bytes]] = {}
        self._timestamps: dict[bytes, _Timestamps] = {}

    def __len__(self) -> int:
        return len(self._stored)

    def add(self, secret: bytes, terms: InvitationTerms, wall: Nanos) -> StoredInvitation:
        """Open an invitation; raises Refusal when too many are open."""
        self.expire(wall)
        if len(self._stored) >= MAX_INVITATIONS:
            raise Refusal("too-many", f"{MAX_INVITATIONS} invitations are open; wait until some expire")
        invitation = StoredInvitation(
            id=invitation_id(secret),
            psk=invitation_psk(secret),
            redeem=redeem_hash(secret),
            name=terms.name,
            uses=terms.uses,
            expires=(wall + terms.expires) // SECOND,
            roles=terms.roles,
            prefixes=terms.prefixes,
            valid_seconds=terms.valid_seconds,
            redeemed=(),
        )
        self._stored[invitation.id] = invitation
        return invitation

    def find(self, invitation: bytes) -> StoredInvitation | None:
        return self._stored.get(invitation)

    def fresh_timestamp(self, invitation: bytes, static: bytes, timestamp: int) -> bool:
        """Whether a joiner's initiation is newer than any before it; remembers it when it is."""
        return self._timestamps.setdefault(invitation, _Timestamps()).advance(static, timestamp)

    def reserve(self, invitation: bytes, secret: bytes, identity: bytes, static: bytes, wall: Nanos) -> bool:
        """Check a redemption and take a use for this joiner. False: it was granted before, answer as then.

        Raises Refusal when the secret is wrong, the invitation has expired, or others have used it up.
        """
        held = self._stored.get(invitation)
        if held is None or not equal(held.redeem, redeem_hash(secret)):
            raise Refusal("unknown", "the inviter does not know this token: ask for a new one")
        if (identity, static) in held.redeemed:
            return False
        if wall >= held.expires * SECOND:
            raise Refusal("expired", "the token has expired: ask for a new one")
        reserved = self._reserved.setdefault(invitation, {})
        if len(held.redeemed) + len(reserved.keys() - {identity}) >= held.uses:
            raise Refusal("used", "the token has been used already: ask for a new one")
        reserved[identity] = static
        return True

    def commit(self, invitation: bytes, identity: bytes) -> None:
        """The disk holds the redemption."""
        static = self._reserved.get(invitation, {}).pop(identity, None)
        held = self._stored.get(invitation)
        if held is not None and static is not None:  # it may have expired while the disk was writing
            self._stored[invitation] = replace(held, redeemed=(*held.redeemed, (identity, static)))

    def release(self, invitation: bytes, identity: bytes) -> None:
        """The disk refused: the use is free again."""
        self._reserved.get(invitation, {}).pop(identity, None)

    def expire(self, wall: Nanos) -> None:
        """Forget invitations a day after their end (until then a joiner whose answer was lost may ask again)."""
        for invitation in [i for i in self._stored.values() if wall >= (i.expires + 86_400) * SECOND]:
            del self._stored[invitation.id]
            self._timestamps.pop(invitation.id, None)
            self._reserved.pop(invitation.id, None)

    def stored(self) -> tuple[StoredInvitation, ...]:
        """What belongs on disk: reserved uses count as redeemed there, so that a crash cannot free them twice."""
        result = []
        for held in self._stored.values():
            waiting = tuple(self._reserved.get(held.id, {}).items())
            result.append(replace(held, redeemed=held.redeemed + waiting))
        return tuple(result)


class _Timestamps:
    """The greatest initiation timestamp per joiner key, bounded; what is pushed out raises the floor for all."""

    def __init__(self) -> None:
        self._greatest: OrderedDict[bytes, int] = OrderedDict()
        self._floor = 0

    def advance(self, static: bytes, timestamp: int) -> bool:
        if timestamp <= self._greatest.get(static, self._floor):
            return False
        self._greatest[static] = timestamp
        self._greatest.move_to_end(static)
        if len(self._greatest) > TIMESTAMPS_PER_INVITATION:
            _, pushed_out = self._greatest.popitem(last=False)
            self._floor = max(self._floor, pushed_out)
        return True
