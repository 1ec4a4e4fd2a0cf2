"""What an admin signs: the founder's grant, invitations, grants for joiners, revocations, renewals.

Works on a `Membership` and needs no running node, so that `meshnode init`, `invite` and `revoke` do the same with the
node stopped. Nothing here is saved or sent: callers do that.
"""

from __future__ import annotations

from dataclasses import replace

from meshnode.crypto.primitives import Ciphers
from meshnode.proto.constants import MAX_CHAIN, MAX_CHAIN_BYTES, MAX_MEMBERS, RENEWAL_S
from meshnode.proto.invitations import Invitations, InvitationTerms, Refusal
from meshnode.proto.membership import Member, Membership
from meshnode.values import SECOND, Entropy, Nanos, PeerId, Prefix
from meshnode.wire.address import network_id, peer_id
from meshnode.wire.control import Redeem
from meshnode.wire.state import StoredInvitation, StoredState
from meshnode.wire.statement import (
    Genesis,
    Grant,
    Revocation,
    Role,
    pack_unsigned,
    to_be_signed,
    valid_name,
)
from meshnode.wire.token import Token

MAX_NUMBERED_NAMES = 1000
MAX_SERIAL = 2**32 - 1
SUCCESSION_BYTES = 139
"""A statement of that kind, which may come to stand at the end of every chain some day."""


def found_network(
    ciphers: Ciphers,
    name: str,
    node_name: str,
    identity_seed: bytes,
    static: bytes,
    root_seed: bytes,
    ipv4_prefix: Prefix,
    wall: Nanos,
) -> StoredState:
    """The state of a new network with its founder as the only member (roles admin and router).

    `static` is the founder's public X25519 key; `ipv4_prefix` where members get addresses from.
    """
    root = ciphers.identity_key(root_seed)
    now = wall // SECOND
    unsigned = pack_unsigned(Genesis(root, now, ipv4_prefix, name), root)
    genesis = unsigned + ciphers.sign(root_seed, to_be_signed(network_id(root), unsigned))
    membership = Membership(ciphers, genesis, wall)
    registrar = Registrar(ciphers, membership, Invitations(()), identity_seed, root_seed)
    grant = registrar.grant(
        ciphers.identity_key(identity_seed), static, node_name, Role.ADMIN | Role.ROUTER, (), 0, wall
    )
    membership.add_untrusted(grant, wall)
    return StoredState(
        genesis=genesis,
        statements=tuple(membership.statements()),
        records=(),
        invitations=(),
        endpoints=(),
        timestamps=(),
        own_timestamp=0,
        serial=0,
    )


class Registrar:
    """The signing side of one node. Raises Refusal with a line for people where something cannot be granted."""

    def __init__(
        self,
        ciphers: Ciphers,
        membership: Membership,
        invitations: Invitations,
        identity_seed: bytes,
        root_seed: bytes | None,
    ) -> None:
        self._ciphers = ciphers
        self._membership = membership
        self._invitations = invitations
        self._identity_seed = identity_seed
        self._root_seed = root_seed
        self.identity = ciphers.identity_key(identity_seed)

    # --- authority ---------------------------------------------------------------------------------------

    def holds_root(self) -> bool:
        return self._root_seed is not None and self._membership.is_root(
            self._ciphers.identity_key(self._root_seed)
        )

    def level(self) -> int | None:
        """How far from the root we sign: 0 with its key, 1 to 3 as an admin, None without a right to sign."""
        return 0 if self.holds_root() else self._membership.admin_level(self.identity)

    def may_grant(self) -> bool:
        level = self.level()
        return level is not None and level < MAX_CHAIN

    def _seed(self) -> bytes:
        """The strongest key we may sign with: the root's, else ours as an admin."""
        if self.level() is None:
            raise Refusal("not-admin", "this node is no admin: ask one to invite (or to grant `--admin`)")
        return self._root_seed if self._root_seed is not None and self.holds_root() else self._identity_seed

    def _granting_seed(self) -> bytes:
        seed = self._seed()
        if not self.may_grant():
            raise Refusal(
                "depth",
                f"this admin is {MAX_CHAIN} steps from the founder, too far to let others in: ask a nearer one",
            )
        return seed

    # --- invitations -------------------------------------------------------------------------------------

    def invite(
        self, terms: InvitationTerms, static: bytes, endpoints: tuple[str, ...], entropy: Entropy, wall: Nanos
    ) -> Token:
        """Open an invitation and return its token; the caller saves the state before showing it."""
        seed = self._granting_seed()
        if terms.name is not None:
            self._check_name(terms.name)
        # What could not be signed for the joiner later is refused now.
        name = terms.name or "joiner"
        self._sign_grant(
            Grant(bytes(32), bytes(32), 0, 0, 0, Role(terms.roles), None, name, terms.prefixes), seed
        )
        secret = entropy.token(16)
        invitation = self._invitations.add(secret, terms, wall)
        genesis = self._membership.genesis
        return Token(
            network_id=self._membership.network_id,
            static=static,
            secret=secret,
            expires=invitation.expires,
            name=genesis.name,
            endpoints=endpoints,
        )

    def admit(
        self,
        invitation: StoredInvitation,
        redeem: Redeem,
        static: bytes,
        wall: Nanos,
        taken: tuple[Grant, ...] = (),
    ) -> bytes:
        """The signed grant for a joiner whose redemption is reserved. `taken`: promised, but not yet on disk."""
        peer = peer_id(redeem.identity)
        if peer in self._membership.revoked:
            raise Refusal("revoked", "this node's key was revoked: remove its state directory and join anew")
        name = self._joiner_name(invitation, redeem, tuple(g.name for g in taken))
        return self.grant(
            redeem.identity,
            static,
            name,
            Role(invitation.roles),
            invitation.prefixes,
            invitation.valid_seconds,
            wall,
            tuple(g.ipv4 for g in taken if g.ipv4 is not None),
        )

    def grant(
        self,
        identity: bytes,
        static: bytes,
        name: str,
        roles: Role,
        prefixes: tuple[Prefix, ...],
        valid_seconds: int,
        wall: Nanos,
        taken_ipv4: tuple[bytes, ...] = (),
    ) -> bytes:
        """A signed grant with a free IPv4 address."""
        now = wall // SECOND
        if len(self._membership.members) >= MAX_MEMBERS:
            raise Refusal(
                "full", f"the network has {MAX_MEMBERS} members, which is the most: revoke some first"
            )
        body = Grant(
            subject=identity,
            static=static,
            serial=self._next_serial(identity),
            not_before=now,
            not_after=now + valid_seconds if valid_seconds else 0,
            roles=roles,
            ipv4=self._free_ipv4(peer_id(identity), taken_ipv4),
            name=name,
            prefixes=prefixes,
        )
        return self._sign_grant(body, self._granting_seed())

    def _sign_grant(self, body: Grant, seed: bytes) -> bytes:
        """Sign it if the chain up to the root fits where it has to travel."""
        raw = self._membership.sign(body, seed)
        vouchers = self._membership.vouchers(self._ciphers.identity_key(seed))
        if len(raw) + sum(map(len, vouchers)) > MAX_CHAIN_BYTES - SUCCESSION_BYTES:
            raise Refusal(
                "too-long",
                f"the grant of {body.name} and those of its admins are too long together: "
                "give fewer prefixes or shorter names, or let the founder invite",
            )
        return raw

    def _next_serial(self, identity: bytes) -> int:
        serial = self._membership.next_serial(identity)
        if serial > MAX_SERIAL:
            raise Refusal(
                "serial", "this key can be granted nothing more: revoke it and let the node join anew"
            )
        return serial

    def _joiner_name(self, invitation: StoredInvitation, redeem: Redeem, taken: tuple[str, ...]) -> str:
        if invitation.name is not None:
            if redeem.explicit and redeem.name != invitation.name:
                raise Refusal("name", f"the token is for the name {invitation.name}: join without --name")
            if self._name_is_taken(invitation.name, taken):
                raise Refusal(
                    "name-taken", f"the name {invitation.name} is taken by now: ask for a new token"
                )
            return invitation.name
        if not valid_name(redeem.name):
            raise Refusal("name", "a node's name has 1 to 63 characters of a-z A-Z 0-9 . _ -")
        if not self._name_is_taken(redeem.name, taken):
            return redeem.name
        if redeem.explicit:
            raise Refusal("name-taken", f"the name {redeem.name} is taken: choose another with --name")
        for number in range(2, MAX_NUMBERED_NAMES):
            name = f"{redeem.name[:58]}-{number}"
            if not self._name_is_taken(name, taken):
                return name
        raise Refusal("name-taken", f"the name {redeem.name} is taken: choose another with --name")

    def _check_name(self, name: str) -> None:
        if not valid_name(name):
            raise Refusal("name", "a node's name has 1 to 63 characters of a-z A-Z 0-9 . _ -")
        if self._name_is_taken(name, ()):
            raise Refusal("name-taken", f"the name {name} is taken: choose another with --name")

    def _name_is_taken(self, name: str, taken: tuple[str, ...]) -> bool:
        return name in taken or any(m.granted_name == name for m in self._membership.members.values())

    def _free_ipv4(self, peer: PeerId, taken: tuple[bytes, ...]) -> bytes:
        """A host address of the network's prefix: first where the peer's id points, then the next free one.

        Two admins that cannot see each other seldom give the same address so.
        """
        network, length = self._membership.genesis.prefix
        size = 1 << (32 - length)
        base = int.from_bytes(network, "big")
        used = {m.ipv4 for m in self._membership.members.values()} | set(taken)
        start = int.from_bytes(peer[8:16], "big")
        for step in range(min(size - 2, 65536)):
            address = (base + 1 + (start + step) % (size - 2)).to_bytes(4, "big")
            if address not in used:
                return address
        raise Refusal("addresses", "the network's IPv4 prefix has no free address left")

    # --- revocation and renewal --------------------------------------------------------------------------

    def revoke(self, member: Member, keep: bool, wall: Nanos) -> list[bytes]:
        """Statements that end `member`; with `keep`, first new grants for those whom only it had vouched for."""
        if member.identity == self.identity:
            raise Refusal("self", "a node cannot revoke itself: use `meshnode leave` there")
        admin = bool(member.roles & Role.ADMIN)
        if admin and not self.holds_root():
            raise Refusal("root", f"{member.label} is an admin: only the founder's node can revoke it")
        seed = self._granting_seed() if keep else self._seed()
        wanted = [*self._kept_grants(member, seed), *self._kept_revocations(member, seed)] if keep else []
        revocation = Revocation(subject=member.identity, at=wall // SECOND)
        return [*wanted, self._membership.sign(revocation, seed)]

    def _kept_grants(self, member: Member, seed: bytes) -> list[bytes]:
        grants = self._membership.signed_only_by(member.identity)
        return [self._sign_grant(replace(g, serial=self._next_serial(g.subject)), seed) for g in grants]

    def _kept_revocations(self, member: Member, seed: bytes) -> list[bytes]:
        """An admin's revocations are void without it, too: nobody shall come back by that."""
        return [self._membership.sign(r, seed) for r in self._membership.revoked_only_by(member.identity)]

    def due_for_renewal(self, member: Member, wall: Nanos) -> bool:
        """Whether less than a third of the grant's life (at most RENEWAL_S) is left, and we may give another.

        An admin's grant counts only from its own distance to the root or nearer: who is not nearer cannot renew it.
        """
        life = min(member.not_after - member.not_before, RENEWAL_S)
        if member.not_after == 0 or life <= 0 or not self.may_grant():
            return False
        above, level = self._membership.admin_level(member.identity), self.level()
        if above is not None and level is not None and level >= above:
            return False
        if self._membership.next_serial(member.identity) > MAX_SERIAL:
            return False
        return member.not_after - wall // SECOND < life // 3

    def renew(self, member: Member, wall: Nanos) -> bytes:
        """The same grant again with a new end; not-before stays, so that precedence does."""
        life = min(member.not_after - member.not_before, RENEWAL_S)
        body = Grant(
            subject=member.identity,
            static=member.static,
            serial=self._next_serial(member.identity),
            not_before=member.not_before,
            not_after=wall // SECOND + life,
            roles=member.roles,
            ipv4=member.ipv4,
            name=member.granted_name,
            prefixes=member.prefixes,
        )
        return self._sign_grant(body, self._granting_seed())
