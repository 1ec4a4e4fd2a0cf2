"""The joiner's side of enrolment: from a token to a stored state (docs/protocol.md section 5, Enrolment).

It has the verbs of `Node`, so that whatever runs a node can run a joiner. It ends with `Enrolled` or
`EnrolmentRefused`; the grant is believed because it verifies up to the root that the token's network id names.
"""

from __future__ import annotations

from collections.abc import Sequence

from meshnode.crypto.primitives import Ciphers
from meshnode.proto.constants import (
    EARLY_RETRIES,
    ENROLMENT_TIME,
    REDEEM_INTERVAL,
    REDEEMS_PER_SESSION,
    REKEY_TIMEOUT,
)
from meshnode.proto.context import Context, NodeConfig, TimestampClock
from meshnode.proto.guard import CookieJar
from meshnode.proto.guests import provisional_id, redeem_proof
from meshnode.proto.handshake import Completed, InitiatorExchange
from meshnode.proto.invitations import invitation_id, invitation_psk
from meshnode.proto.membership import Membership
from meshnode.values import (
    BadPacket,
    Command,
    Endpoint,
    Enrolled,
    EnrolmentRefused,
    Entropy,
    InstallSession,
    Nanos,
    Now,
    Opened,
    Output,
    Path,
    PathKind,
    RetireSession,
    TrafficNote,
    Transmit,
    Unsendable,
    UseSession,
)
from meshnode.wire.address import network_id, peer_id
from meshnode.wire.control import (
    EnrolledAnswer,
    Redeem,
    Refused,
    Statements,
    parse_control_untrusted,
)
from meshnode.wire.frames import FrameType
from meshnode.wire.handshake import InitiationPayload, parse_cookie_untrusted, parse_response_untrusted
from meshnode.wire.header import MessageType, message_type_untrusted
from meshnode.wire.state import StoredState, pack_state
from meshnode.wire.statement import Genesis, parse_statement_untrusted
from meshnode.wire.token import Token

BAD_TOKEN = "the key in the token is none: somebody has tampered with it, ask for a new one"
NO_ANSWER = "the inviter did not answer at {}: check that its node runs and that its UDP port is reachable"


class Joiner:
    """Redeems one token. `endpoints` are the token's, resolved to numbers by the caller."""

    def __init__(
        self,
        config: NodeConfig,
        ciphers: Ciphers,
        token: Token,
        endpoints: Sequence[Endpoint],
        name: str,
        explicit: bool,
        entropy: Entropy,
        now: Now,
    ) -> None:
        self._context = Context(config, ciphers, token.network_id, entropy)
        self._token = token
        self._paths = tuple(dict.fromkeys(Path(PathKind.UDP, e) for e in endpoints))
        self._name = name
        self._explicit = explicit
        self._jar = CookieJar(ciphers, token.network_id, token.static)
        self._inviter = provisional_id(token.static)
        self._timestamps = TimestampClock(0)
        self._exchange: InitiatorExchange | None = None
        self._session: tuple[Completed, Path] | None = None
        self._tries = 0
        self._redeems = 0
        self._collected: list[bytes] = []
        self._done = False
        self.counters = self._context.counters
        self._context.timers.set("joiner", "give up", now.boot + ENROLMENT_TIME)
        self._initiate(now)

    # --- the verbs ----------------------------------------------------------------------------------------------------

    def handle_datagram(self, data: bytes, path: Path, now: Now) -> None:
        """A response or a cookie. Never raises on bad input."""
        try:
            kind = message_type_untrusted(data)
            if kind is MessageType.RESPONSE:
                self._read_response_untrusted(data, path, now)
            elif kind is MessageType.COOKIE:
                self._jar.open_reply_untrusted(parse_cookie_untrusted(data), path, now.boot)
                if self._session is None and not self._done:
                    self._context.timers.set("joiner", "initiate", now.boot)
        except BadPacket as error:
            self._context.count(f"drop {error.reason}")

    def handle_frames(self, opened: Opened, now: Now) -> None:
        """The inviter's answer. Never raises on bad input."""
        for frame in opened.frames:
            if frame.type != FrameType.CONTROL or self._done:
                continue
            try:
                message = parse_control_untrusted(frame.body)
                if isinstance(message, Statements):
                    self._collected = list(message.items)
                elif isinstance(message, EnrolledAnswer):
                    self._enrol_untrusted(message, opened.path, now)
                elif isinstance(message, Refused):
                    self._finish(EnrolmentRefused(message.text))
            except BadPacket as error:
                self._context.count(f"drop {error.reason}")

    def handle_traffic(self, notes: Sequence[TrafficNote | Unsendable], now: Now) -> None:
        """Nothing depends on traffic here."""

    def handle_command(self, command: Command, now: Now) -> None:
        """Nothing can be asked of a joiner."""

    def handle_timeout(self, now: Now) -> None:
        while (expired := self._context.timers.pop_expired(now.boot)) is not None:
            reason = expired[1]
            if reason == "give up":
                where = ", ".join(str(p.remote) for p in self._paths) or "any endpoint of the token"
                self._finish(EnrolmentRefused(NO_ANSWER.format(where)))
            elif reason == "initiate":
                self._initiate(now)
            elif self._redeems < REDEEMS_PER_SESSION:
                self._redeem(now)
            else:
                self._start_over(now)

    def poll_timeout(self) -> tuple[Nanos, str] | None:
        return self._context.timers.next()

    def poll_transmit(self) -> Transmit | None:
        return self._context.transmits.popleft() if self._context.transmits else None

    def poll_event(self) -> Output | None:
        return self._context.outputs.popleft() if self._context.outputs else None

    # --- inside -------------------------------------------------------------------------------------------------------

    def _initiate(self, now: Now) -> None:
        context = self._context
        if self._exchange is not None:
            context.free_index(self._exchange.local_index)
        psk = invitation_psk(self._token.secret)
        self._exchange = InitiatorExchange(context.secrets, self._token.static, context.new_index(self), psk)
        payload = InitiationPayload(
            timestamp=self._timestamps.next(now),
            psk_epoch=0,
            capabilities=context.config.capabilities,
            suites=context.config.suites,
            grants=(),
            invitation=invitation_id(self._token.secret),
        )
        try:
            body = self._exchange.write(payload, context.entropy.token(32))
        except BadPacket:
            self._finish(EnrolmentRefused(BAD_TOKEN))
            return
        for path in self._paths:
            context.transmit(path, self._jar.seal_macs(body, path, now.boot))
        gap = EARLY_RETRIES[self._tries] if self._tries < len(EARLY_RETRIES) else REKEY_TIMEOUT
        self._tries += 1
        context.timers.set("joiner", "initiate", now.boot + gap)

    def _read_response_untrusted(self, data: bytes, path: Path, now: Now) -> None:
        if self._exchange is None or self._session is not None:
            raise BadPacket("response unasked")
        if parse_response_untrusted(data).receiver_index != self._exchange.local_index:
            raise BadPacket("index")
        completed = self._exchange.read_response_untrusted(data)
        self._session = (completed, path)
        self._context.timers.cancel("joiner", "initiate")
        self._context.tell(InstallSession(self._inviter, completed.keys))
        self._context.tell(UseSession(self._inviter, completed.keys.local_index))
        self._redeem(now)

    def _start_over(self, now: Now) -> None:
        """The inviter knows this session no more: it has restarted."""
        assert self._session is not None
        self._context.tell(RetireSession(self._inviter, self._session[0].keys.local_index))
        self._session = None
        self._redeems = 0
        self._initiate(now)

    def _redeem(self, now: Now) -> None:
        self._redeems += 1
        assert self._session is not None
        completed, path = self._session
        context = self._context
        proof = redeem_proof(context.network_id, context.static, completed.hash)
        seed = context.config.identity_seed
        message = Redeem(
            secret=self._token.secret,
            identity=context.ciphers.identity_key(seed),
            signature=context.ciphers.sign(seed, proof),
            name=self._name,
            explicit=self._explicit,
        )
        context.send_control(self._inviter, message, path, completed.keys.local_index)
        context.timers.set("joiner", "redeem", now.boot + REDEEM_INTERVAL)

    def _enrol_untrusted(self, answer: EnrolledAnswer, path: Path, now: Now) -> None:
        """Believe the answer only as far as it verifies: genesis names the network, the chain ends in our keys."""
        if not answer.statements:
            raise BadPacket("enrolled empty")
        genesis = parse_statement_untrusted(answer.statements[0])
        if not isinstance(genesis.body, Genesis) or network_id(genesis.body.root) != self._token.network_id:
            raise BadPacket("enrolled elsewhere")
        membership = Membership(self._context.ciphers, genesis.raw, now.wall)
        for raw in (*answer.statements[1:], *self._collected):
            membership.add_untrusted(raw, now.wall)
        own = membership.by_static(self._context.static)
        inviter = membership.by_static(self._token.static)
        identity = self._context.ciphers.identity_key(self._context.config.identity_seed)
        if own is None or own.peer != peer_id(identity):
            raise BadPacket("enrolled without a grant")
        if inviter is None:
            raise BadPacket("enrolled without the inviter")  # its chain was lost on the way: ask again
        state = StoredState(
            genesis=genesis.raw,
            statements=tuple(membership.statements()),
            endpoints=((inviter.peer, (path.remote,)),),
        )
        self._finish(Enrolled(pack_state(state)))

    def _finish(self, outcome: Enrolled | EnrolmentRefused) -> None:
        self._done = True
        for reason in ("give up", "initiate", "redeem"):
            self._context.timers.cancel("joiner", reason)
        self._context.tell(outcome)
