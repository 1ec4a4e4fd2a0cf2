"""The node: demultiplexes what comes in, owns all peers, and turns membership into peers.

The verbs (DESIGN section 2): `handle_datagram`, `handle_frames`, `handle_traffic`, `handle_command`, `handle_timeout`
take what happened; `poll_timeout`, `poll_transmit`, `poll_event` give what is to be done. After each `handle_*` the
caller polls transmits and events until None; the deadline may have changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from meshnode.crypto.primitives import Ciphers
from meshnode.proto.constants import (
    MAX_CHAIN_BYTES,
    MAX_MEMBERS,
    RECORD_GAP,
    RECORD_INTERVAL,
    RELAYS_TRIED,
    TIMESTAMP_TOLERANCE,
)
from meshnode.proto.context import Context, NodeConfig, TimestampClock
from meshnode.proto.gossip import MESSAGE_BYTES, Gossip
from meshnode.proto.guard import Guard, Verdict
from meshnode.proto.guests import Guests, Promise
from meshnode.proto.handshake import ResponderExchange
from meshnode.proto.invitations import Invitations, InvitationTerms, Refusal
from meshnode.proto.membership import Member, Membership, fitting
from meshnode.proto.own_record import OwnRecord
from meshnode.proto.paths import NEVER, Origin, usable_endpoint
from meshnode.proto.peer import Peer
from meshnode.proto.registrar import Registrar
from meshnode.values import (
    SECOND,
    BadPacket,
    Command,
    Endpoint,
    Entropy,
    Goodbye,
    Hint,
    LinkChanged,
    LocalEndpoints,
    MembershipChanged,
    Nanos,
    Now,
    Opened,
    Output,
    Path,
    PathKind,
    PeerId,
    RawFrame,
    SaveState,
    StateSaved,
    TooBig,
    TrafficNote,
    Transmit,
    Unsendable,
)
from meshnode.wire.address import peer_id
from meshnode.wire.control import (
    Buckets,
    Digest,
    GoodbyeMessage,
    Punch,
    Redeem,
    Statements,
    Summary,
    Want,
    parse_control_untrusted,
)
from meshnode.wire.frames import FrameType, parse_relay_untrusted
from meshnode.wire.handshake import (
    InitiationPayload,
    parse_cookie_untrusted,
    parse_initiation_untrusted,
    parse_response_untrusted,
)
from meshnode.wire.header import MessageType, message_type_untrusted
from meshnode.wire.state import StoredState
from meshnode.wire.statement import Record, SignedStatement
from meshnode.wire.token import Token

SAVE_DELAY: Nanos = 2 * SECOND
"""Changes that nobody waits for are collected this long before they go to disk."""

GOSSIP_OVERHEAD = 48 + 36 + 16
"""IPv6 and UDP, seal and frame, and msgpack round the items."""

HOUSEKEEPING: Nanos = 60 * SECOND


class Node:
    """All decisions of one member of one network. Deterministic in its arguments and the sequence of calls."""

    OWNER = "node"

    def __init__(
        self, config: NodeConfig, state: StoredState, ciphers: Ciphers, entropy: Entropy, now: Now
    ) -> None:
        """Raises BadPacket when `state` is not that of a network, ValueError when this node has no grant in it."""
        self.membership = Membership(ciphers, state.genesis, now.wall)
        for raw in (*state.statements, *state.records):
            self._restore(raw, now)
        context = Context(config, ciphers, self.membership.network_id, entropy)
        self._context = context
        self.identity = ciphers.identity_key(config.identity_seed)
        self.id = peer_id(self.identity)
        self.peers: dict[PeerId, Peer] = {}
        self._guard = Guard(ciphers, context.network_id, context.static, entropy, now.boot)
        self._timestamps = TimestampClock(state.own_timestamp)
        self._invitations = Invitations(state.invitations)
        self.registrar = Registrar(
            ciphers, self.membership, self._invitations, config.identity_seed, config.root_seed
        )
        self._guests = Guests(
            context, self.membership, self._invitations, self.registrar, self._save_now, self._granted
        )
        self._gossip = Gossip(context, self.membership, self._up_peers, self._learned, now, self._gossip_room)
        self._own_record = OwnRecord(self.membership, self.id, config.identity_seed, config.relay)
        self._remembered = dict(state.endpoints)
        self._greatest = dict(state.timestamps)
        self._ticket = 0
        self._revoked_told = False
        self._synced: dict[PeerId, Member] | None = None
        self._published: Nanos = NEVER
        if self.own is None:
            raise ValueError("the stored state holds no grant for this node's key")
        self._sync_members(now)
        context.timers.set(self.OWNER, "housekeeping", now.boot + HOUSEKEEPING)

    # --- what can be asked ----------------------------------------------------------------------------------------

    @property
    def counters(self) -> Counter[str]:
        return self._context.counters

    @property
    def own(self) -> Member | None:
        """Our own membership, None once we are revoked or expired."""
        return self.membership.members.get(self.id)

    @property
    def static(self) -> bytes:
        """Our public X25519 key."""
        return self._context.static

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where we believe to be reachable, best first."""
        return self._own_record.endpoints()

    def chain(self) -> tuple[bytes, ...]:
        """The statements that prove our membership, as many of them as message 1 holds."""
        return fitting(self.membership.chain(self.identity), MAX_CHAIN_BYTES)

    def relays(self, peer: PeerId, turn: int) -> list[PeerId]:
        """Members that may relay to `peer`: those that we reach directly and that are willing, quickest first."""
        willing = [p for p in self.peers.values() if p.id != peer and p.relays and self._relays(p.id)]
        willing.sort(key=lambda p: p.rtt)
        first = turn * RELAYS_TRIED % len(willing) if len(willing) > RELAYS_TRIED else 0
        return [p.id for p in (willing + willing)[first : first + RELAYS_TRIED]][: len(willing)]

    def _relays(self, peer: PeerId) -> bool:
        record = self.membership.record(peer)
        return record is None or record.relays

    def stored_state(self) -> StoredState:
        """Everything that has to survive a restart, promised grants included."""
        remembered = dict(self._remembered)
        for peer in self.peers.values():
            reached = tuple(path.remote for path in peer.endpoints())[:8]
            if reached:
                remembered[peer.id] = reached
        promises = self._guests.promises()
        timestamps = {static: greatest for static, greatest in self._greatest.items() if greatest}
        timestamps.update(
            (p.member.static, p.greatest_timestamp) for p in self.peers.values() if p.greatest_timestamp
        )
        return StoredState(
            genesis=self.membership.genesis_statement,
            statements=(*self.membership.statements(), *(p.grant for p in promises)),
            records=tuple(self.membership.records()),
            invitations=self._invitations.stored(),
            endpoints=(
                *((p, e) for p, e in remembered.items() if p in self.membership.members),
                *(p.endpoints() for p in promises),
            ),
            timestamps=tuple(timestamps.items()),
            own_timestamp=self._timestamps.promise(),
        )

    # --- what an operator asks ------------------------------------------------------------------------------------

    def invite(self, terms: InvitationTerms, endpoints: tuple[str, ...], now: Now) -> tuple[Token, int]:
        """Open an invitation. The token may be shown once the save with the returned ticket has succeeded."""
        token = self.registrar.invite(terms, self.static, endpoints, self._context.entropy, now.wall)
        return token, self._save_now()

    def revoke(self, name: str, keep: bool, now: Now) -> int:
        """End a member's membership everywhere; returns the ticket of the save. Raises Refusal."""
        member = self.membership.by_name(name)
        if member is None:
            raise Refusal("unknown", f"there is no member {name}: `meshnode peers` lists them")
        if not self._adopt(self.registrar.revoke(member, keep, now.wall), now):
            raise Refusal(
                "full", f"{name} is not revoked: this node cannot keep more statements, ask the founder"
            )
        return self._save_now()

    def ping(self, peer: PeerId, now: Now) -> bytes | None:
        """Probe a peer; the event `Pong` with the returned token answers. None: there is no way to it now."""
        return self.peers[peer].ping(now) if peer in self.peers else None

    # --- the verbs ------------------------------------------------------------------------------------------------

    def handle_datagram(self, data: bytes, path: Path, now: Now) -> None:
        """A handshake datagram from anybody. Never raises on bad input: counts it."""
        try:
            self._handle_datagram_untrusted(data, path, now)
        except BadPacket as error:
            self._context.count(f"drop {error.reason}")
        self._after(now)

    def handle_frames(self, opened: Opened, now: Now) -> None:
        """Frames of one authenticated datagram. Never raises on bad input: counts it."""
        peer = self.peers.get(opened.peer)
        if peer is not None:
            peer.heard(opened, now)
        for frame in opened.frames:
            try:
                self._handle_frame_untrusted(frame, opened, now)
            except BadPacket as error:
                self._context.count(f"drop {error.reason}")
        self._after(now)

    def handle_traffic(self, notes: Sequence[TrafficNote | Unsendable], now: Now) -> None:
        """What the data plane saw since the last call."""
        for note in notes:
            peer = self.peers.get(note.peer)
            if peer is None:
                continue
            if isinstance(note, Unsendable):
                peer.handle_unsendable(now)
            else:
                peer.handle_note(note, now)
        self._after(now)

    def handle_command(self, command: Command, now: Now) -> None:
        """What the edge reports or the operator wants."""
        if isinstance(command, StateSaved):
            self._guests.saved(command.ticket, command.error, now)
            if command.error is not None:
                self._context.notice("error", f"the state is not on disk: {command.error}")
                self._save_soon(now, HOUSEKEEPING)
        elif isinstance(command, LocalEndpoints):
            if self._own_record.set_local(command.endpoints):
                self._context.timers.set(self.OWNER, "record", now.boot)
        elif isinstance(command, LinkChanged):
            for peer in self.peers.values():
                peer.wake(now)
        elif isinstance(command, TooBig):
            if command.peer in self.peers:
                self.peers[command.peer].too_big(command.path, command.size, now)
        elif isinstance(command, Hint):
            self._offer(command.peer, (command.endpoint,), Origin.CONFIGURED, now)
        elif isinstance(command, Goodbye):
            for peer in self.peers.values():
                peer.say_goodbye("the node stops")
        self._after(now)

    def handle_timeout(self, now: Now) -> None:
        """Serve all deadlines that are due at `now.boot`."""
        while (expired := self._context.timers.pop_expired(now.boot)) is not None:
            owner, reason = expired
            if owner == Gossip.OWNER:
                self._gossip.handle_timer(now)
            elif owner == Guests.OWNER:
                self._guests.handle_timer(reason)
            elif owner == self.OWNER:
                self._handle_timer(reason, now)
            elif isinstance(owner, bytes) and owner in self.peers:
                self.peers[PeerId(owner)].handle_timer(reason, now)
            self._after(now)

    def poll_timeout(self) -> tuple[Nanos, str] | None:
        """The next deadline (boot time) and its reason."""
        return self._context.timers.next()

    def poll_transmit(self) -> Transmit | None:
        """A handshake datagram to send now."""
        return self._context.transmits.popleft() if self._context.transmits else None

    def poll_event(self) -> Output | None:
        """An event for the edge, a command for the data plane, or frames to seal."""
        return self._context.outputs.popleft() if self._context.outputs else None

    # --- handshakes -----------------------------------------------------------------------------------------------

    def _handle_datagram_untrusted(self, data: bytes, path: Path, now: Now) -> None:
        kind = message_type_untrusted(data)
        if kind is MessageType.INITIATION:
            self._handle_initiation_untrusted(data, path, now)
        elif kind is MessageType.RESPONSE:
            self._guard.check_mac1_untrusted(data)
            owner = self._owner_untrusted(parse_response_untrusted(data).receiver_index)
            owner.read_response_untrusted(data, path, now)
        elif kind is MessageType.COOKIE:
            owner = self._owner_untrusted(parse_cookie_untrusted(data).receiver_index)
            owner.read_cookie_untrusted(data, path, now)
        else:
            raise BadPacket("data at the core")

    def _owner_untrusted(self, index: int) -> Peer:
        owner = self._context.indices.get(index)
        if not isinstance(owner, Peer):
            raise BadPacket("index unknown")
        return owner

    def _handle_initiation_untrusted(self, data: bytes, path: Path, now: Now) -> None:
        self._guard.check_mac1_untrusted(data)
        verdict = self._guard.judge(data, path, now.boot)
        if verdict is Verdict.ASK_COOKIE:
            self._context.count("cookie sent")
            sender = parse_initiation_untrusted(data).sender_index
            self._context.transmit(path, self._guard.cookie_reply(data, sender, path, now.boot))
            return
        if verdict is Verdict.DROP:
            raise BadPacket("handshake budget")
        exchange = ResponderExchange(self._context.secrets)
        offer = exchange.read_untrusted(data)
        if offer.timestamp > now.wall + TIMESTAMP_TOLERANCE and self._clock_is_sane(now):
            raise BadPacket("timestamp in the future")
        if offer.invitation is not None:
            self._guests.answer_untrusted(exchange, offer, path, now)
            return
        peer = self._initiator_untrusted(exchange.remote_static, offer, now)
        peer.check_initiation_untrusted(offer, now)
        peer.paths.heard(path, len(data), now.boot)
        peer.answer(exchange, offer, path, now)
        self._save_soon(now, HOUSEKEEPING)  # its timestamp, against replays after a restart

    def _clock_is_sane(self, now: Now) -> bool:
        """A clock before the network's founding is certainly wrong, and must not refuse the others."""
        return now.wall // SECOND >= self.membership.genesis.created

    def _initiator_untrusted(self, static: bytes, offer: InitiationPayload, now: Now) -> Peer:
        """The peer that owns `static`: known, or made known by the grants that its initiation carries."""
        for raw in reversed(offer.grants):
            try:
                signed = self.membership.add_untrusted(raw, now.wall)
            except BadPacket as error:
                if error.reason == "signature":
                    raise  # a forger shall not make us verify all that fits into an initiation
                # A revoked admin's chain, or one that we have outlived: what is known already decides.
                self._context.count(f"initiation {error.reason}")
                continue
            if signed is not None:
                self._learned(signed, self.id, now)
        self._sync_members(now)
        member = self.membership.by_static(static)
        if member is None or member.peer == self.id:
            raise BadPacket("stranger")
        return self.peers[member.peer]

    # --- frames ---------------------------------------------------------------------------------------------------

    def _handle_frame_untrusted(self, frame: RawFrame, opened: Opened, now: Now) -> None:
        if opened.peer in self._guests:
            self._handle_guest_untrusted(frame, opened, now)
            return
        peer = self.peers.get(opened.peer)
        if peer is None:
            raise BadPacket("frame of a former member")
        if frame.type == FrameType.PROBE:
            peer.read_probe_untrusted(frame.body, opened)
        elif frame.type == FrameType.ECHO:
            before = dict(peer.reflexive)
            peer.read_echo_untrusted(frame.body, opened, now)
            if peer.reflexive != before:
                self._observed(now)
        elif frame.type == FrameType.CONTROL:
            self._handle_control_untrusted(frame.body, peer, now)
        elif frame.type == FrameType.RELAY:
            self._handle_relayed_untrusted(frame.body, opened, now)
        else:
            self._context.count("frame ignored")

    def _handle_control_untrusted(self, body: bytes, peer: Peer, now: Now) -> None:
        message = parse_control_untrusted(body)
        if isinstance(message, Digest | Buckets | Summary | Want | Statements):
            self._gossip.handle_untrusted(peer.id, message, now)
            self._sync_members(now)
        elif isinstance(message, GoodbyeMessage):
            peer.read_goodbye(now)
        elif isinstance(message, Punch):
            peer.read_punch_untrusted(message, now)
        else:
            self._context.count("control ignored")

    def _handle_relayed_untrusted(self, body: bytes, opened: Opened, now: Now) -> None:
        """A handshake datagram that a member has relayed to us; its claimed source is only where answers go."""
        relay = parse_relay_untrusted(body)
        if relay.destination != self.id:
            raise BadPacket("relay for another")
        path = Path(PathKind.RELAY, via=opened.peer, far=relay.source)
        self._handle_datagram_untrusted(relay.datagram, path, now)

    def _handle_guest_untrusted(self, frame: RawFrame, opened: Opened, now: Now) -> None:
        message = parse_control_untrusted(frame.body) if frame.type == FrameType.CONTROL else None
        if not isinstance(message, Redeem):
            raise BadPacket("guest may only redeem")
        self._guests.redeem_untrusted(opened, message, now)

    # --- members and peers ----------------------------------------------------------------------------------------

    def _sync_members(self, now: Now) -> None:
        """Bring `peers` in line with the membership."""
        members = self.membership.members
        if members is self._synced:
            return
        self._synced = members
        changed = False
        for peer in list(self.peers.values()):
            member = members.get(peer.id)
            # Another static key is another handshake partner: nothing of the old one may stay.
            if member is None or member.static != peer.member.static:
                self._part(peer)
                changed = True
        for member in members.values():
            known = self.peers.get(member.peer)
            if member.peer == self.id:
                continue
            if known is None:
                self._meet(member, now)
                changed = True
            elif known.member != member:
                known.admit(member)
                changed = True
        own = self.own
        if own is None and not self._revoked_told:
            self._context.notice(
                "error", "this node is no member any more (revoked or expired): it serves nobody"
            )
        if changed or (own is None) != self._revoked_told:
            self._revoked_told = own is None
            self._context.tell(MembershipChanged())
            self._save_soon(now)
        self._watch_expiry(now)

    def _part(self, peer: Peer) -> None:
        """Forget a peer, but not which of its initiations were served: it may become a member again."""
        if peer.greatest_timestamp:
            self._greatest[peer.member.static] = peer.greatest_timestamp
            while len(self._greatest) > 2 * MAX_MEMBERS:
                del self._greatest[next(iter(self._greatest))]
        del self.peers[peer.id]
        peer.remove()
        self._gossip.peer_gone(peer.id)

    def _meet(self, member: Member, now: Now) -> None:
        peer = Peer(
            self._context,
            member,
            self.id < member.peer,
            self._timestamps,
            self,
            now,
        )
        peer.greatest_timestamp = self._greatest.get(member.static, 0)
        self.peers[member.peer] = peer
        for endpoint in self._remembered.get(member.peer, ()):
            peer.paths.offer(Path(PathKind.UDP, endpoint), Origin.REMEMBERED, now.boot)
        self._offer_record(member.peer, now)
        peer.wake(now)

    def _offer(self, peer: PeerId, endpoints: Sequence[Endpoint], origin: Origin, now: Now) -> None:
        if peer in self.peers:
            ours = self.endpoints()
            self.peers[peer].offer([Path(PathKind.UDP, e) for e in endpoints if e not in ours], origin, now)

    def _offer_record(self, peer: PeerId, now: Now) -> None:
        record = self.membership.record(peer)
        if record is None or peer not in self.peers:
            return
        usable = [e for e in record.endpoints if usable_endpoint(e.host, e.port)]
        self.peers[peer].paths.withdraw(Origin.RECORD, {Path(PathKind.UDP, e) for e in usable})
        self._offer(peer, usable, Origin.RECORD, now)

    def _learned(self, signed: SignedStatement, source: PeerId, now: Now) -> None:
        """Gossip, or an initiation, brought a new statement."""
        if isinstance(signed.body, Record):
            self._offer_record(peer_id(signed.signer), now)
        self._save_soon(now)

    def _granted(self, promise: Promise, now: Now) -> None:
        """A promised grant is on disk: from now on it counts."""
        self._adopt([promise.grant], now)
        # Only to store it: now the new member is about to initiate, and we would cross it.
        self._remembered.update([promise.endpoints()])

    def _adopt(self, statements: list[bytes], now: Now) -> bool:
        """Add what we have signed ourselves, and tell everybody. False when some of it does not count."""
        taken = []
        for raw in statements:
            try:
                self.membership.add_untrusted(raw, now.wall)
            except BadPacket as error:
                # Our own right to sign has ended meanwhile, or a table is full.
                self._context.notice("error", f"a statement of ours does not count: {error.reason}")
                continue
            taken.append(raw)
        self._gossip.publish(taken, now)
        self._sync_members(now)
        return len(taken) == len(statements)

    def _restore(self, raw: bytes, now: Now) -> None:
        """A statement from our own disk: one that does not fit is left out, the rest still serves."""
        try:
            self.membership.add_untrusted(raw, now.wall)
        except BadPacket:
            return

    def _gossip_room(self, peer: PeerId) -> int:
        """What a gossip message to `peer` may carry: small underlays get small messages."""
        quality = self.peers[peer].quality
        return MESSAGE_BYTES if quality is None else min(MESSAGE_BYTES, quality.mtu - GOSSIP_OVERHEAD)

    def _up_peers(self) -> list[PeerId]:
        return [p.id for p in self.peers.values() if p.up]

    # --- our own record -------------------------------------------------------------------------------------------

    def _observed(self, now: Now) -> None:
        """A peer has told how it sees us."""
        seen = [e for peer in self.peers.values() for e in dict.fromkeys(peer.reflexive.values())]
        if self._own_record.set_observed(seen):
            timers = self._context.timers
            due = timers.deadline(self.OWNER, "record")
            soon = max(now.boot + SECOND // 2, self._published + RECORD_GAP)
            if due is None or soon < due:
                timers.set(self.OWNER, "record", soon)

    def _publish_record(self, now: Now) -> None:
        self._published = now.boot
        raw = self._own_record.sign(now)
        self.membership.add_untrusted(raw, now.wall)
        self._gossip.publish([raw], now)
        self._save_soon(now)

    # --- timers and saving ----------------------------------------------------------------------------------------

    def _handle_timer(self, reason: str, now: Now) -> None:
        if reason == "record":
            if self.own is not None:
                self._publish_record(now)
                self._context.timers.set(self.OWNER, "record", now.boot + RECORD_INTERVAL)
        elif reason == "save":
            self._ticket += 1
            self._context.tell(SaveState(self._ticket, urgent=False))
        elif reason == "membership":
            self.membership.refresh(now.wall)
            self._sync_members(now)
        elif reason == "housekeeping":
            self._invitations.expire(now.wall)
            self._renew(now)
            self._context.timers.set(self.OWNER, "housekeeping", now.boot + HOUSEKEEPING)

    def _renew(self, now: Now) -> None:
        """An admin renews grants that run out, of members that are here."""
        if not self.registrar.may_grant():
            return
        here = [p.member for p in self.peers.values() if p.up] + ([self.own] if self.own else [])
        renewed = []
        for member in here:
            if self.registrar.due_for_renewal(member, now.wall):
                try:
                    renewed.append(self.registrar.renew(member, now.wall))
                except Refusal as refusal:
                    self._context.count(f"renewal refused {refusal.code}")
        if renewed:
            self._adopt(renewed, now)

    def _watch_expiry(self, now: Now) -> None:
        """Look again when a grant ends, and at least hourly: the wall clock may step."""
        change = self.membership.next_change()
        if change is not None:
            wait = min(max(change - now.wall, SECOND), 3600 * SECOND)
            self._context.timers.set(self.OWNER, "membership", now.boot + wait)

    def _save_now(self) -> int:
        self._ticket += 1
        self._context.tell(SaveState(self._ticket, urgent=True))
        return self._ticket

    def _save_soon(self, now: Now, delay: Nanos = SAVE_DELAY) -> None:
        timers = self._context.timers
        due = timers.deadline(self.OWNER, "save")
        if due is None or now.boot + delay < due:
            timers.set(self.OWNER, "save", now.boot + delay)

    def _after(self, now: Now) -> None:
        """Follow what the last call has caused: peers that came up gossip, timestamps are promised."""
        turns = self._context.turns
        while turns:
            peer, up = turns.popleft()
            if up:
                self._gossip.peer_up(peer, now)
                self._save_soon(now)
            else:
                self._gossip.peer_gone(peer)
                for other in self.peers.values():
                    other.lose_relay(peer, now)
        if self._timestamps.must_promise():
            # At once: a node that dies before that, and whose clock is then set back, is refused as a replay.
            self._timestamps.promise()
            self._save_now()
