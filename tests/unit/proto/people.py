"""People with keys, and a network that they sign statements for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from meshnode.crypto.primitives import SODIUM, hash32
from meshnode.proto.constants import CLOCK_TOLERANCE_S
from meshnode.proto.membership import Membership
from meshnode.values import SECOND, BadPacket, Endpoint, PeerId, Prefix
from meshnode.wire.address import network_id, peer_id
from meshnode.wire.statement import (
    Body,
    Genesis,
    Grant,
    Record,
    Revocation,
    Role,
    Succession,
    pack_unsigned,
    to_be_signed,
)

FOUNDED = 1_700_000_000
"""Seconds since 1970."""

WALL = (FOUNDED + 30 * 86_400) * SECOND
"""What the clocks of the tests say, in nanoseconds: a month after the founding."""

TOLERANCE = CLOCK_TOLERANCE_S


@dataclass(frozen=True)
class Person:
    """Somebody with the keys of a node. The same name gives the same keys."""

    name: str

    @cached_property
    def seed(self) -> bytes:
        return hash32(b"identity", self.name.encode())

    @cached_property
    def static_secret(self) -> bytes:
        return hash32(b"static", self.name.encode())

    @cached_property
    def identity(self) -> bytes:
        return SODIUM.identity_key(self.seed)

    @cached_property
    def static(self) -> bytes:
        return SODIUM.public_key(self.static_secret)

    @cached_property
    def id(self) -> PeerId:
        return peer_id(self.identity)


ROOT = Person("root")
NETWORK = network_id(ROOT.identity)


def sign(body: Body, signer: Person) -> bytes:
    unsigned = pack_unsigned(body, signer.identity)
    return unsigned + SODIUM.sign(signer.seed, to_be_signed(NETWORK, unsigned))


GENESIS = sign(Genesis(ROOT.identity, FOUNDED, (bytes((10, 77, 0, 0)), 16), "home"), ROOT)


def grant(
    signer: Person,
    subject: Person,
    serial: int = 1,
    roles: Role = Role.NONE,
    not_before: int = FOUNDED,
    not_after: int = 0,
    name: str | None = None,
    ipv4: bytes | None = None,
    prefixes: tuple[Prefix, ...] = (),
    static: bytes | None = None,
) -> bytes:
    body = Grant(
        subject.identity,
        static or subject.static,
        serial,
        not_before,
        not_after,
        roles,
        ipv4,
        name or subject.name,
        prefixes,
    )
    return sign(body, signer)


def admin(signer: Person, subject: Person, serial: int = 1, not_after: int = 0) -> bytes:
    """A grant with the role admin."""
    return grant(signer, subject, serial, Role.ADMIN, not_after=not_after)


def revocation(signer: Person, subject: Person, at: int = FOUNDED + 1) -> bytes:
    return sign(Revocation(subject.identity, at), signer)


def succession(signer: Person, new: Person, at: int = FOUNDED + 1) -> bytes:
    return sign(Succession(new.identity, at), signer)


def record(person: Person, sequence: int = 1, endpoints: tuple[Endpoint, ...] = ()) -> bytes:
    return sign(Record(sequence, True, (1,), endpoints), person)


def membership(*statements: bytes, wall: int = WALL) -> Membership:
    """What follows from these; each has to be news."""
    result = Membership(SODIUM, GENESIS, wall)
    for raw in statements:
        assert result.add_untrusted(raw, wall) is not None
    return result


def settled(statements: Iterable[bytes], wall: int = WALL) -> Membership:
    """What follows from these in whatever order: what is refused is offered again, as anti-entropy does."""
    result = Membership(SODIUM, GENESIS, wall)
    refused = list(statements)
    while True:
        waiting, refused = refused, []
        for raw in waiting:
            try:
                result.add_untrusted(raw, wall)
            except BadPacket:
                refused.append(raw)
        if len(refused) == len(waiting):
            return result


def names(members: Membership) -> set[str]:
    return {member.granted_name for member in members.members.values()}
