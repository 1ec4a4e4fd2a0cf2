"""The inviter's side of enrolment: joiners that hold a token and are no members yet.

A guest has a session (its psk comes from the invitation) under a provisional PeerId made from its static key, and may
say one thing: redeem. The grant is on disk before the answer leaves; the same joiner gets the same answer again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from meshnode.crypto.primitives import short_hash
from meshnode.proto.constants import JOINER_TIME, JOINERS_AT_ONCE, MAX_CHAIN_BYTES
from meshnode.proto.context import Context
from meshnode.proto.guard import CookieJar
from meshnode.proto.handshake import ResponderExchange, choose_suite
from meshnode.proto.invitations import Invitations, Refusal
from meshnode.proto.membership import Membership, fitting
from meshnode.proto.registrar import Registrar
from meshnode.values import (
    BadPacket,
    Endpoint,
    InstallSession,
    Now,
    Opened,
    Path,
    PathKind,
    PeerId,
    RemovePeer,
    RetireSession,
    UseSession,
)
from meshnode.wire.address import peer_id
from meshnode.wire.control import EnrolledAnswer, Redeem, Refused, Statements
from meshnode.wire.handshake import InitiationPayload
from meshnode.wire.statement import Grant, parse_statement_untrusted


def provisional_id(static: bytes) -> PeerId:
    """What a joiner is called until it is a member. Never equal to a member's id by design of the hash."""
    return PeerId(short_hash(b"meshnode guest", static))


def redeem_proof(network_id: bytes, static: bytes, handshake_hash: bytes) -> bytes:
    """What a joiner signs with its new identity, so that it cannot claim another's."""
    return b"meshnode redeem" + network_id + static + handshake_hash


@dataclass(slots=True)
class Guest:
    """One joiner with a session."""

    id: PeerId
    static: bytes
    invitation: bytes
    local_index: int
    handshake_hash: bytes
    path: Path
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Promise:
    """A grant that the disk does not hold yet, and who waits for it where."""

    guest: PeerId
    invitation: bytes
    identity: bytes
    grant: bytes
    path: Path

    def endpoints(self) -> tuple[PeerId, tuple[Endpoint, ...]]:
        """Where the new member is: after a crash the node finds it there."""
        return peer_id(self.identity), (self.path.remote,) if self.path.kind is PathKind.UDP else ()


class Guests:
    """All joiners of this node. `save` asks for the state to be stored and returns the ticket of the request."""

    OWNER = "guests"

    def __init__(
        self,
        context: Context,
        membership: Membership,
        invitations: Invitations,
        registrar: Registrar,
        save: Callable[[], int],
        granted: Callable[[Promise, Now], None],
    ) -> None:
        self._context = context
        self._membership = membership
        self._invitations = invitations
        self._registrar = registrar
        self._save = save
        self._granted = granted
        self._guests: dict[PeerId, Guest] = {}
        self._promises: dict[int, Promise] = {}

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._guests

    def promises(self) -> list[Promise]:
        """What belongs on disk though it does not count yet."""
        return list(self._promises.values())

    # --- the handshake --------------------------------------------------------------------------------------------

    def answer_untrusted(
        self, exchange: ResponderExchange, offer: InitiationPayload, path: Path, now: Now
    ) -> None:
        """Respond to a joiner's initiation, whoever it is: only the secret inside the session lets it in."""
        assert offer.invitation is not None
        invitation = self._invitations.find(offer.invitation)
        if invitation is None:
            raise BadPacket("invitation unknown")
        if not self._invitations.fresh_timestamp(offer.invitation, exchange.remote_static, offer.timestamp):
            raise BadPacket("initiation replayed")
        guest_id = provisional_id(exchange.remote_static)
        self._forget(guest_id)
        if len(self._guests) >= JOINERS_AT_ONCE:
            self._forget(next(iter(self._guests)))
        config = self._context.config
        suite = choose_suite(offer.suites, config.suites)
        index = self._context.new_index(self)
        secret = self._context.entropy.token(32)
        body, completed = exchange.answer(offer, suite, config.capabilities, index, secret, invitation.psk)
        self._guests[guest_id] = Guest(
            guest_id, exchange.remote_static, offer.invitation, index, completed.hash, path
        )
        jar = CookieJar(self._context.ciphers, self._context.network_id, exchange.remote_static)
        self._context.tell(InstallSession(guest_id, completed.keys))
        self._context.timers.set(self.OWNER, guest_id.hex(), now.boot + JOINER_TIME)
        self._context.transmit(path, jar.seal_response(body))

    # --- redemption -----------------------------------------------------------------------------------------------

    def redeem_untrusted(self, opened: Opened, redeem: Redeem, now: Now) -> None:
        """A joiner shows its secret: promise a grant, or say why not."""
        guest = self._guests[opened.peer]
        if opened.local_index != guest.local_index:
            raise BadPacket("redeem in a former session")
        self._context.tell(UseSession(guest.id, guest.local_index))
        if self._is_promised(redeem.identity):
            return
        proof = redeem_proof(self._context.network_id, guest.static, guest.handshake_hash)
        if not self._context.ciphers.verify(redeem.identity, redeem.signature, proof):
            raise BadPacket("redeem proof")
        try:
            fresh = self._invitations.reserve(
                guest.invitation, redeem.secret, redeem.identity, guest.static, now.wall
            )
            if fresh:
                self._promise(guest, redeem, now)
            else:
                self._answer(guest, redeem.identity)
        except Refusal as refusal:
            self._refuse(guest, refusal)

    def saved(self, ticket: int, error: str | None, now: Now) -> None:
        """The disk has answered for `ticket`."""
        promise = self._promises.pop(ticket, None)
        if promise is None:
            return
        guest = self._guests.get(promise.guest)
        if error is not None:
            self._invitations.release(promise.invitation, promise.identity)
            self._context.notice("error", f"a joiner could not be let in: {error}")
            if guest is not None:
                self._refuse(
                    guest, Refusal("disk", "the inviter cannot store the grant now: try again later")
                )
            return
        self._invitations.commit(promise.invitation, promise.identity)
        self._granted(promise, now)
        if guest is not None:
            self._answer(guest, promise.identity)

    def handle_timer(self, reason: str) -> None:
        """A guest has been here for too long."""
        self._forget(PeerId(bytes.fromhex(reason)))

    # --- inside ---------------------------------------------------------------------------------------------------

    def _is_promised(self, identity: bytes) -> bool:
        """Whether the disk is about to answer for this joiner, whatever session it asks in by now."""
        return any(p.identity == identity for p in self._promises.values())

    def _promise(self, guest: Guest, redeem: Redeem, now: Now) -> None:
        invitation = self._invitations.find(guest.invitation)
        assert invitation is not None
        others = [parse_statement_untrusted(p.grant).body for p in self._promises.values()]
        taken = tuple(g for g in others if isinstance(g, Grant))
        try:
            grant = self._registrar.admit(invitation, redeem, guest.static, now.wall, taken)
        except Refusal:
            self._invitations.release(guest.invitation, redeem.identity)
            raise
        ticket = self._save()
        self._promises[ticket] = Promise(guest.id, guest.invitation, redeem.identity, grant, guest.path)

    def _answer(self, guest: Guest, identity: bytes) -> None:
        """Our own chain first, so that the joiner can recognise us, then its genesis and chain."""
        if peer_id(identity) not in self._membership.members:
            self._refuse(guest, Refusal("revoked", "this node was revoked: remove its state and join anew"))
            return
        ours = fitting(self._membership.chain(self._registrar.identity), MAX_CHAIN_BYTES)
        theirs = fitting(self._membership.chain(identity), MAX_CHAIN_BYTES)
        send = self._context.send_control
        send(guest.id, Statements(tuple(reversed(ours))), guest.path, guest.local_index)
        answer = EnrolledAnswer((self._membership.genesis_statement, *reversed(theirs)))
        send(guest.id, answer, guest.path, guest.local_index)

    def _refuse(self, guest: Guest, refusal: Refusal) -> None:
        self._context.count(f"join refused {refusal.code}")
        if not guest.refused:  # it asks again every second
            self._context.notice("warning", f"a joiner at {guest.path} was refused: {refusal.text}")
        guest.refused = True
        self._context.send_control(
            guest.id, Refused(refusal.code, refusal.text), guest.path, guest.local_index
        )

    def _forget(self, guest_id: PeerId) -> None:
        guest = self._guests.pop(guest_id, None)
        if guest is None:
            return
        self._context.timers.cancel(self.OWNER, guest_id.hex())
        self._context.free_index(guest.local_index)
        self._context.tell(RetireSession(guest_id, guest.local_index))
        self._context.tell(RemovePeer(guest_id))
