"""What an admin signs: the founder's grant, invitations, grants for joiners, revocations, renewals.

Works on a `Membership` and needs no running node, so that `meshnode init`, `invite` and `revoke` do the same with the
node stopped. Nothing here is saved or sent: callers do that.
"""

from __future__ import annotations

from dataclasses import replace

from meshnode.crypto.primitives import Ciphers
from meshnode.proto.constants import RENEWAL_S
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

    def may_grant(self) -> bool:
        if self.holds_root():
            return True
        own = self._membership.members.get(peer_id(self.identity))
        return own is not None and bool(own.roles & Role.ADMIN)

    def _seed(self) -> bytes:
        """The strongest key we may sign with: the root's, else ours as an admin."""
        if not self.may_grant():
            raise Refusal("not-admin", "this node is no admin: ask one to invite (or to grant `--admin`)")
        return self._root_seed if self._root_seed is not None and self.holds_root() else self._identity_seed

    # --- invitations -------------------------------------------------------------------------------------

    def invite(
        self, terms: InvitationTerms, static: bytes, endpoints: tuple[str, ...], entropy: Entropy, wall: Nanos
    ) -> Token:
        """Open an invitation and return its token; the caller saves the state before showing it."""
        self._seed()
        if terms.name is not None:
            self._check_name(terms.name)
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
        body = Grant(
            subject=identity,
            static=static,
            serial=self._membership.next_serial(identity),
            not_before=now,
            not_after=now + valid_seconds if valid_seconds else 0,
            roles=roles,
            ipv4=self._free_ipv4(peer_id(identity), taken_ipv4),
            name=name,
            prefixes=prefixes,
        )
        return self._membership.sign(body, self._seed())

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
        seed = self._seed()
        statements = []
        if keep:
            for grant in self._membership.signed_only_by(member.identity):
                serial = self._membership.next_serial(grant.subject)
                statements.append(self._membership.sign(replace(grant, serial=serial), seed))
        revocation = Revocation(subject=member.identity, at=wall // SECOND)
        return [*statements, self._membership.sign(revocation, seed)]

    def due_for_renewal(self, member: Member, wall: Nanos) -> bool:
        """Whether less than a third of the grant's life (at most RENEWAL_S) is left."""
        if member.not_after == 0 or member.peer in self._membership.revoked:
            return False
        life = min(member.not_after - member.not_before, RENEWAL_S)
        return member.not_after - wall // SECOND < life // 3

    def renew(self, member: Member, wall: Nanos) -> bytes:
        """The same grant again with a new end; not-before stays, so that precedence does."""
        life = min(member.not_after - member.not_before, RENEWAL_S)
        body = Grant(
            subject=member.identity,
            static=member.static,
            serial=self._membership.next_serial(member.identity),
            not_before=member.not_before,
            not_after=wall // SECOND + life,
            roles=member.roles,
            ipv4=member.ipv4,
            name=member.granted_name,
            prefixes=member.prefixes,
        )
        return self._membership.sign(body, self._seed())
