"""One peer: its handshakes, sessions and paths. The readable story of a tunnel.

    no session  --initiate--> in flight --response--> confirmed session --120 s--> initiate again ...
                <--initiation-- answered --first datagram--> confirmed session

A peer is *up* when it has a confirmed session and a proven path. Handshakes run beside that and never take it down; a
peer goes down when its last path is dead, its keys are too old, or it says goodbye.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from meshnode.proto.constants import (
    CANDIDATES_PER_PEER,
    EARLY_RETRIES,
    INITIATION_PATHS,
    INITIATIONS_PER_SECOND,
    KEEPALIVE_TIMEOUT,
    PROBE_TIMEOUT,
    PUNCH_INTERVALS,
    RECONNECT_TIME,
    REKEY_ATTEMPT_TIME,
    REKEY_TIMEOUT,
    REKEY_TIMEOUT_JITTER,
    SILENCE_TIME,
)
from meshnode.proto.context import Context, TimestampClock
from meshnode.proto.guard import CookieJar
from meshnode.proto.handshake import Completed, InitiatorExchange, ResponderExchange, choose_suite
from meshnode.proto.membership import Member
from meshnode.proto.path_quality import PathQuality, codel_interval
from meshnode.proto.paths import NEVER, Candidate, Origin, Paths, usable_endpoint
from meshnode.proto.session import Session, Sessions
from meshnode.values import (
    SECOND,
    AdmitPeer,
    BadPacket,
    Capability,
    Ecn,
    Endpoint,
    InstallSession,
    Nanos,
    Now,
    Opened,
    Path,
    PathKind,
    PeerDown,
    PeerId,
    PeerUp,
    Pong,
    ProvePaths,
    RemovePeer,
    RetireSession,
    SendFrames,
    TrafficNote,
    UsePath,
    UseSession,
)
from meshnode.wire.address import pack_endpoint, read_endpoint
from meshnode.wire.control import GoodbyeMessage, Punch
from meshnode.wire.cursor import Cursor
from meshnode.wire.frames import (
    FRAME_HEADER,
    MINIMUM_PROBE,
    PROBE_TOKEN_SIZE,
    Echo,
    FrameType,
    Probe,
    ProbeMode,
    pack_frame,
    parse_echo_untrusted,
    parse_probe_untrusted,
)
from meshnode.wire.handshake import (
    MAC_SIZE,
    InitiationPayload,
    parse_cookie_untrusted,
    parse_response_untrusted,
)
from meshnode.wire.header import MINIMUM_DATA
from meshnode.wire.statement import Role

PROBE_FRAME = MINIMUM_DATA + FRAME_HEADER.size + MINIMUM_PROBE
MAX_PINGS = 16
TIMERS = ("handshake retry", "rekey", "probe", "expiry", "keepalive", "silence", "quality", "punch")


@dataclass(slots=True)
class Attempt:
    """Our handshake in flight. `started` is the first try, `tries` how many went out."""

    exchange: InitiatorExchange
    jar: CookieJar
    started: Nanos
    sent_at: Nanos
    tries: int
    paths: tuple[Path, ...]
    crossed: bool = False


class Surroundings(Protocol):
    """What a peer has to ask the node for."""

    def chain(self) -> tuple[bytes, ...]:
        """The statements that prove us to be a member."""
        ...

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where we believe to be reachable."""
        ...

    def relays(self, peer: PeerId, turn: int) -> list[PeerId]:
        """Members that may relay to `peer`, best first; another `turn` brings others."""
        ...


class Peer:
    """All that is known and done about one other member."""

    def __init__(
        self,
        context: Context,
        member: Member,
        we_are_lower: bool,
        timestamps: TimestampClock,
        surroundings: Surroundings,
        now: Now,
    ) -> None:
        self.id = member.peer
        self.member = member
        self.paths = Paths()
        self.sessions = Sessions(we_are_lower)
        self.up = False
        self.since: Nanos = now.boot
        self.why = "not reached yet"
        self.greatest_timestamp = 0
        self.reflexive: dict[Path, Endpoint] = {}
        self._seen: tuple[Path, Endpoint] | None = None
        self._context = context
        self._timestamps = timestamps
        self._surroundings = surroundings
        self._punches = 0
        self._last_punched: Nanos = NEVER
        self._attempt: Attempt | None = None
        self._jar = CookieJar(context.ciphers, context.network_id, member.static)
        self._answered: dict[int, Path] = {}
        self._counted: dict[Path, int] = {}
        self._last_answer: Nanos = NEVER
        self._pings: dict[bytes, None] = {}
        self._sealing: int | None = None
        self.quality: PathQuality | None = None
        self._told: UsePath | None = None
        self._told_proven: tuple[Path, ...] = ()
        self.admit(member)

    # --- what the operator and the node say --------------------------------------------------------------

    def admit(self, member: Member) -> None:
        """Tell the data plane what this member may send (again after its grant changed)."""
        self.member = member
        self._context.tell(
            AdmitPeer(
                self.id,
                member.link_local,
                member.addresses,
                member.prefixes,
                bool(member.roles & Role.ROUTER),
            )
        )

    def offer(self, paths: Iterable[Path], origin: Origin, now: Now) -> None:
        """Learn where the peer may be; try all of it at once when there is no session yet."""
        if not [path for path in paths if self.paths.offer(path, origin, now.boot)]:
            return
        if self.up:
            self._schedule_probe(now)
        else:
            self._try_soon(now)

    def wake(self, now: Now) -> None:
        """The network changed: probe all paths at once, or start over."""
        # After a suspend the timers have not run yet: nothing may be sealed with what has expired meanwhile.
        self._expire(now)
        self.paths.wake(now.boot)
        if self.sessions.sealing() is None:
            self._try_soon(now)
        self._probe(now)

    def ping(self, now: Now) -> bytes | None:
        """Probe the active path; the echo brings a `Pong` with the returned token. None: there is no way now."""
        active = self.paths.find(self.paths.active) if self.paths.active is not None else None
        if active is None or self.sessions.sealing() is None:
            return None
        token = self._send_probe(active, now)
        self._pings[token] = None
        while len(self._pings) > MAX_PINGS:
            del self._pings[next(iter(self._pings))]
        self._schedule_probe(now)
        return token

    def _try_soon(self, now: Now) -> None:
        """Initiate, but leave an attempt of just now the time to be answered: a new one would orphan its answer."""
        if self._attempt is None or now.boot - self._attempt.sent_at >= SECOND:
            self.initiate(now)
        else:
            self._context.timers.set(self.id, "handshake retry", self._attempt.sent_at + SECOND)

    def say_goodbye(self, reason: str) -> None:
        if self.up:
            self._context.send_control(self.id, GoodbyeMessage(reason))

    def remove(self) -> None:
        """The peer is no member any more: forget everything."""
        self._drop_attempt()
        for session in self.sessions.clear():
            self._retire(session)
        if self.up:
            self.up = False
            self._context.turned(self.id, False)
            self._context.tell(PeerDown(self.id, "revoked"))
        for reason in TIMERS:
            self._context.timers.cancel(self.id, reason)
        self._context.tell(RemovePeer(self.id))

    # --- handshakes we start -----------------------------------------------------------------------------

    def initiate(self, now: Now) -> None:
        """Send an initiation to the best candidates; it is retried until something answers."""
        if self._attempt is not None and self.paths.in_doubt:
            self._offer_relays(self._attempt.tries, now)
        targets = self._targets()
        if not targets:
            return
        previous = self._attempt
        if previous is not None:
            self._context.free_index(previous.exchange.local_index)
        exchange = InitiatorExchange(self._context.secrets, self.member.static, self._context.new_index(self))
        payload = InitiationPayload(
            timestamp=self._timestamps.next(now, 0 if previous is None else previous.tries),
            psk_epoch=0,
            capabilities=self._context.config.capabilities,
            suites=self._context.config.suites,
            grants=self._surroundings.chain(),
            invitation=None,
        )
        try:
            body = exchange.write(payload, self._context.entropy.token(32))
        except BadPacket as error:
            # An admin has granted a key of low order: no handshake is possible, now or ever.
            self._context.count(f"drop {error.reason}")
            self._context.free_index(exchange.local_index)
            self._attempt = None
            return
        for path in targets:
            if self._may_reach(path, len(body) + 2 * MAC_SIZE):
                self._context.transmit(path, self._jar.seal_macs(body, path, now.boot))
        started = now.boot if previous is None else previous.started
        tries = 1 if previous is None else previous.tries + 1
        self._attempt = Attempt(exchange, self._jar, started, now.boot, tries, targets)
        self._context.timers.set(self.id, "handshake retry", now.boot + self._retry_gap(self._attempt, now))

    def read_response_untrusted(self, data: bytes, path: Path, now: Now) -> None:
        """A response to the handshake in flight: a session, confirmed at once towards the peer."""
        attempt = self._attempt
        if attempt is None:
            raise BadPacket("response unasked")
        if parse_response_untrusted(data).receiver_index != attempt.exchange.local_index:
            raise BadPacket("index")
        completed = attempt.exchange.read_response_untrusted(data)
        self._attempt = None
        self._context.timers.cancel(self.id, "handshake retry")
        self._hold(completed, now, confirmed=True, crossed=attempt.crossed)
        rtt = now.boot - attempt.sent_at
        if path in attempt.paths:
            self.paths.prove(path, rtt, now.boot)
        else:
            self.paths.heard(path, len(data), now.boot)
        self._settle(now)
        # Key confirmation: the responder may not send before it has seen one datagram of ours.
        self._context.tell(SendFrames(self.id, b"", path, completed.keys.local_index))
        self._schedule_probe(now)

    def read_cookie_untrusted(self, data: bytes, path: Path, now: Now) -> None:
        """A cookie for the handshake in flight: it goes into the next retry, which comes soon."""
        attempt = self._attempt
        if attempt is None or path not in attempt.paths:
            raise BadPacket("cookie unasked")
        attempt.jar.open_reply_untrusted(parse_cookie_untrusted(data), path, now.boot)
        soon = attempt.sent_at + SECOND // 2 + self._context.jitter(SECOND // 2)
        self._context.timers.set(self.id, "handshake retry", max(now.boot, soon))

    def _may_reach(self, path: Path, size: int) -> bool:
        """An address that was only overheard gets no more than it has credit for, handshakes included."""
        candidate = self.paths.find(path)
        return candidate is None or self.paths.may_send(candidate, size)

    def _targets(self) -> tuple[Path, ...]:
        """The active path alone while it works (a rekey), else the best candidates."""
        tries = 0 if self._attempt is None else self._attempt.tries
        if self.paths.active is not None and tries < len(EARLY_RETRIES):
            return (self.paths.active,)
        candidates = [c.path for c in self.paths.candidates()]
        if len(candidates) > INITIATION_PATHS:
            # The best half always, the others in turn.
            fixed, rest = candidates[: INITIATION_PATHS // 2], candidates[INITIATION_PATHS // 2 :]
            turn = tries * (INITIATION_PATHS // 2) % len(rest)
            candidates = fixed + (rest + rest)[turn : turn + INITIATION_PATHS // 2]
        return tuple(candidates)

    def _retry_gap(self, attempt: Attempt, now: Now) -> Nanos:
        jitter = self._context.jitter(REKEY_TIMEOUT_JITTER)
        if attempt.tries <= len(EARLY_RETRIES):
            return EARLY_RETRIES[attempt.tries - 1] + jitter
        if now.boot - attempt.started < REKEY_ATTEMPT_TIME:
            return REKEY_TIMEOUT + jitter
        return RECONNECT_TIME - self._context.jitter(RECONNECT_TIME // 4)

    # --- handshakes they start ---------------------------------------------------------------------------

    def check_initiation_untrusted(self, payload: InitiationPayload, now: Now) -> None:
        """Refuse what is replayed or comes too often. Remembers the timestamp of what passes."""
        if payload.timestamp <= self.greatest_timestamp:
            raise BadPacket("initiation replayed")
        if now.boot - self._last_answer < SECOND // INITIATIONS_PER_SECOND:
            raise BadPacket("initiation flood")
        self.greatest_timestamp = payload.timestamp
        self._last_answer = now.boot

    def answer(self, exchange: ResponderExchange, offer: InitiationPayload, path: Path, now: Now) -> None:
        """Respond on the path on which the initiation came. The session counts once the peer has used it."""
        suite = choose_suite(offer.suites, self._context.config.suites)
        index = self._context.new_index(self)
        body, completed = exchange.answer(
            offer, suite, self._context.config.capabilities, index, self._context.entropy.token(32)
        )
        crossed = self._attempt is not None
        if self._attempt is not None:
            self._attempt.crossed = True
        self._hold(completed, now, confirmed=False, crossed=crossed)
        self._answered[index] = path
        response = self._jar.seal_response(body)
        self._may_reach(
            path, len(response)
        )  # it always may, being no longer than what it answers, but it counts
        self._context.transmit(path, response)

    # --- what the data plane saw -------------------------------------------------------------------------

    def handle_note(self, note: TrafficNote, now: Now) -> None:
        """Traffic on one session and path: confirms keys, feeds timers and paths."""
        if note.received:
            # Datagrams with frames were heard before this note, which counts them again.
            counted = self._counted.pop(note.path, 0)
            self._heard(note.local_index, note.path, max(0, note.received_bytes - counted), now)
        session = self.sessions.find(note.local_index)
        if session is not None:
            session.sent = max(session.sent, note.highest_sent)
            if session.worn() and session is self.sessions.sealing() and self._attempt is None:
                self.initiate(now)
        timers = self._context.timers
        if note.sent:
            timers.cancel(self.id, "keepalive")
        elif note.received_data and timers.deadline(self.id, "keepalive") is None:
            timers.set(self.id, "keepalive", now.boot + KEEPALIVE_TIMEOUT)
        if note.received:
            timers.cancel(self.id, "silence")
        elif note.sent_data and timers.deadline(self.id, "silence") is None:
            timers.set(self.id, "silence", now.boot + SILENCE_TIME)
        if note.sent_data:
            self.paths.sent_data(now.boot)
            self._schedule_probe(now)
            if self.quality is not None:
                self.quality.busy(now.boot)
                self._schedule_quality(now)

    def handle_unsendable(self, now: Now) -> None:
        """User traffic waits and there is no way to send it."""
        if self._attempt is None and self.sessions.sealing() is None:
            self.initiate(now)

    def heard(self, opened: Opened, now: Now) -> None:
        """An authenticated datagram with frames for the core (before its frames are served)."""
        size = opened.size
        if opened.path in self._counted or len(self._counted) < CANDIDATES_PER_PEER:
            self._counted[opened.path] = self._counted.get(opened.path, 0) + size
        else:
            size = 0  # so many sources at once: what they sent is credited once, by the note that follows
        self._heard(opened.local_index, opened.path, size, now)

    def read_probe_untrusted(self, body: bytes, opened: Opened) -> None:
        """Answer a probe where it came from, never with more bytes than it had.

        One from an unproven source is answered on the active path, too: it may be a copy that overtook the original,
        sent by somebody who will not pass the answer on. Where nothing is known of the source (the table is full of
        others) that is the only answer: what nobody keeps account of gets nothing.
        """
        probe = parse_probe_untrusted(body)
        udp = opened.path.kind is not PathKind.RELAY
        seen = opened.path.remote if udp and "%" not in opened.path.remote.host else None
        echo = Echo(probe.token, probe.mode, opened.ecn, min(opened.size, 0xFFFF), seen)
        ecn = Ecn.ECT0 if probe.mode is ProbeMode.ECN else Ecn.NOT_ECT
        payload = pack_frame(FrameType.ECHO, echo.pack())
        candidate = self.paths.find(opened.path)
        if (candidate is None or not candidate.proven) and self.paths.active is not None:
            self._context.tell(SendFrames(self.id, payload, self.paths.active, opened.local_index, ecn))
        if candidate is None or not self.paths.may_send(candidate, MINIMUM_DATA + len(payload)):
            raise BadPacket("echo budget")
        self._context.tell(SendFrames(self.id, payload, opened.path, opened.local_index, ecn))

    def read_echo_untrusted(self, body: bytes, opened: Opened, now: Now) -> None:
        """The answer to a probe of ours: the path works, and the peer tells how it sees us."""
        echo = parse_echo_untrusted(body)
        if echo.mode is not ProbeMode.LIVENESS:
            self._read_quality_untrusted(echo, now)
            return
        answered = self.paths.echoed(echo.token, now.boot)
        if answered is None:
            raise BadPacket("echo unasked")
        path, rtt = answered
        if echo.token in self._pings:
            del self._pings[echo.token]
            self._context.tell(Pong(self.id, echo.token, rtt, path))
        self._see(path, echo.seen)
        self._settle(now)
        self._schedule_probe(now)

    def _see(self, path: Path, seen: Endpoint | None) -> None:
        """How the peer saw a probe on `path`. Twice the same is believed: a single copy from elsewhere that overtook
        the original must not become our address in everybody's eyes."""
        proven = self.paths.proven()
        self.reflexive = {p: e for p, e in self.reflexive.items() if p in proven}
        if seen is None:
            return
        before, self._seen = self._seen, (path, seen)
        if before == self._seen:
            self.reflexive[path] = seen

    def _read_quality_untrusted(self, echo: Echo, now: Now) -> None:
        changed = None if self.quality is None else self.quality.echoed(echo, now.boot)
        if changed is None or self.quality is None:
            raise BadPacket("echo unasked")
        self._see(self.quality.path, echo.seen)
        self._settle_paths(now)
        self._schedule_quality(now)

    def too_big(self, path: Path, size: int, now: Now) -> None:
        """The kernel says that `path` does not take datagrams of `size`."""
        if self.quality is not None and self.quality.path == path:
            self.quality.too_big(size, now.boot)
            self._settle_paths(now)
            self._schedule_quality(now)

    def read_goodbye(self, now: Now) -> None:
        """The peer stops: drop its sessions, and wait for it to come back by itself."""
        for session in self.sessions.clear():
            self._retire(session)
        self.paths.active = None
        for candidate in self.paths.candidates():
            candidate.proven = False
        self.why = "said goodbye"
        self._settle(now)
        self._drop_attempt()
        self._context.timers.set(self.id, "handshake retry", now.boot + RECONNECT_TIME)

    def _heard(self, local_index: int, path: Path, size: int, now: Now) -> None:
        session = self.sessions.find(local_index)
        if session is not None and not session.confirmed:
            session.confirmed = True
            if self._answered.pop(local_index, None) == path:
                # Our response went there and came back as a datagram under its keys: that proves the path.
                self.paths.prove(path, None, now.boot)
        self.paths.heard(path, size, now.boot)
        self._settle(now)
        self._schedule_probe(now)

    # --- timers ------------------------------------------------------------------------------------------

    def handle_timer(self, reason: str, now: Now) -> None:
        """One of this peer's deadlines has come."""
        {
            "handshake retry": self._retry,
            "rekey": self._rekey,
            "probe": self._probe,
            "expiry": self._expire,
            "keepalive": self._keep_alive,
            "silence": self._break_silence,
            "quality": self._probe_quality,
            "punch": self._punch,
        }[reason](now)

    def _retry(self, now: Now) -> None:
        if self._attempt is not None or self.sessions.sealing() is None:  # else it has come back by itself
            self.initiate(now)

    def _rekey(self, now: Now) -> None:
        session = self.sessions.sealing()
        if session is None:
            return
        if session.rekey_at() > now.boot:
            self._context.timers.set(self.id, "rekey", session.rekey_at())
        elif self._attempt is None:
            self.initiate(now)

    def _keep_alive(self, now: Now) -> None:
        self._context.tell(SendFrames(self.id, b""))

    def _break_silence(self, now: Now) -> None:
        self._context.count("silence")
        self.paths.wake(now.boot)
        self._probe(now)
        if self._attempt is None:
            self.initiate(now)

    def _expire(self, now: Now) -> None:
        for session in self.sessions.expire(now.boot):
            self._retire(session)
        self._watch_expiry()
        self._settle(now)
        if self.sessions.sealing() is None and self._attempt is None:
            self.initiate(now)

    def _probe(self, now: Now) -> None:
        session = self.sessions.sealing()
        had_path = self.paths.active is not None
        if session is not None and self.paths.in_doubt:
            self._offer_relays(0, now)
        for candidate in self.paths.due(now.boot):
            if session is None or not self.paths.may_send(candidate, PROBE_FRAME):
                self.paths.postpone(candidate, now.boot)
                continue
            self._send_probe(candidate, now)
        self._settle(now)
        if had_path and self.paths.active is None and self._attempt is None:
            self.initiate(now)
        self._schedule_probe(now)

    def _send_probe(self, candidate: Candidate, now: Now) -> bytes:
        token = self._context.entropy.token(PROBE_TOKEN_SIZE)
        probe = pack_frame(FrameType.PROBE, Probe(token, ProbeMode.LIVENESS).pack())
        self.paths.probed(candidate, token, now.boot)
        self._context.tell(SendFrames(self.id, probe, candidate.path))
        return token

    def _schedule_probe(self, now: Now) -> None:
        wakeup = self.paths.next_wakeup()
        if wakeup is None or self.sessions.sealing() is None:
            self._context.timers.cancel(self.id, "probe")
        else:
            self._context.timers.set(self.id, "probe", max(wakeup, now.boot + 1))

    # --- relays and punching ------------------------------------------------------------------------------

    def _offer_relays(self, turn: int, now: Now) -> None:
        """Without a direct path somebody else may carry our datagrams meanwhile."""
        relays = self._surroundings.relays(self.id, turn)
        paths = [Path(PathKind.RELAY, via=relay, far=self.id) for relay in relays]
        self.paths.withdraw(Origin.RELAY, set(paths))
        for path in paths:
            self.paths.offer(path, Origin.RELAY, now.boot)

    def lose_relay(self, relay: PeerId, now: Now) -> None:
        """Another peer went down: whatever it relayed between us needs another way at once."""
        if self.paths.lose_relay(relay):
            self._probe(now)

    def _punch(self, now: Now) -> None:
        """Call the peer to probe all our endpoints while we probe its (RFC 5128 section 3.3), again and again."""
        if not self.up or self.paths.has_direct:
            self._punches = 0
            return
        self._call_to_punch(False)
        self.paths.provoke(now.boot)
        self._schedule_probe(now)
        gap = PUNCH_INTERVALS[min(self._punches, len(PUNCH_INTERVALS) - 1)]
        self._punches += 1
        self._context.timers.set(self.id, "punch", now.boot + gap)

    def _call_to_punch(self, answer: bool) -> None:
        endpoints = tuple(pack_endpoint(e) for e in self._surroundings.endpoints())
        self._context.send_control(self.id, Punch(endpoints, answer))

    def read_punch_untrusted(self, message: Punch, now: Now) -> None:
        """The peer probes our endpoints now: do the same, and answer so that it knows ours."""
        if now.boot - self._last_punched < SECOND // 2:
            raise BadPacket("punch flood")
        self._last_punched = now.boot
        for packed in message.endpoints:
            endpoint = read_endpoint(Cursor(packed))
            if usable_endpoint(endpoint.host, endpoint.port):
                self.paths.offer(Path(PathKind.UDP, endpoint), Origin.RECORD, now.boot)
        if not message.answer:
            self._call_to_punch(True)
        self.paths.provoke(now.boot)
        self._schedule_probe(now)

    # --- bringing the data plane in line -----------------------------------------------------------------

    def _hold(self, completed: Completed, now: Now, confirmed: bool, crossed: bool) -> None:
        self._context.tell(InstallSession(self.id, completed.keys))
        for dropped in self.sessions.add(completed.keys, now.boot, confirmed, crossed):
            self._retire(dropped)
        self._watch_expiry()

    def _watch_expiry(self) -> None:
        expiry = self.sessions.next_expiry()
        if expiry is not None:
            self._context.timers.set(self.id, "expiry", expiry)

    def _retire(self, session: Session) -> None:
        self._answered.pop(session.local_index, None)
        self._context.free_index(session.local_index)
        self._context.tell(RetireSession(self.id, session.local_index))

    def _settle(self, now: Now) -> None:
        """Tell the data plane and the operator what has changed since the last time."""
        session = self.sessions.sealing()
        index = None if session is None else session.local_index
        if session is not None and index != self._sealing:
            self._context.tell(UseSession(self.id, session.local_index))
            rekey = session.rekey_at() + self._context.jitter(REKEY_TIMEOUT)
            self._context.timers.set(self.id, "rekey", rekey)
        self._sealing = index
        self._settle_paths(now)
        self._settle_up(session, now)

    def _settle_paths(self, now: Now) -> None:
        active = self.paths.choose()
        proven = self.paths.proven()
        if proven != self._told_proven:
            self._told_proven = proven
            self._context.tell(ProvePaths(self.id, proven))
        if active is None:
            self.quality = None
        elif self.quality is None or self.quality.path != active:
            self.quality = PathQuality(active, self._context.config.tun_mtu, self._context.entropy, now.boot)
            self._context.timers.set(self.id, "quality", now.boot)
            self._offer_ports(active, now)
        use = UsePath(self.id, None) if self.quality is None else self._use(self.quality)
        if use != self._told and (self._told is not None or active is not None):
            self._told = use
            self._context.tell(use)

    def _use(self, quality: PathQuality) -> UsePath:
        return UsePath(self.id, quality.path, quality.mtu, quality.ecn, codel_interval(self.rtt))

    def _offer_ports(self, active: Path, now: Now) -> None:
        """The same address from our other ports, where the operator says that no NAT is in between."""
        if active.kind is PathKind.UDP and active.local == 0 and ":" not in active.remote.host:
            for local in range(1, self._context.config.ports):
                self.paths.offer(active._replace(local=local), Origin.CONFIGURED, now.boot)

    def _probe_quality(self, now: Now) -> None:
        quality = self.quality
        if quality is None or self.sessions.sealing() is None:
            return
        for payload, ecn in quality.probes(now.boot):
            self._context.tell(SendFrames(self.id, payload, quality.path, ecn=ecn))
        self._settle_paths(now)
        self._schedule_quality(now)

    def _schedule_quality(self, now: Now) -> None:
        wakeup = None if self.quality is None else self.quality.next_wakeup()
        if wakeup is not None:
            self._context.timers.set(self.id, "quality", max(wakeup, now.boot + 1))

    def _settle_up(self, session: Session | None, now: Now) -> None:
        up = session is not None and self.paths.active is not None
        if up == self.up:
            return
        self.up = up
        self.since = now.boot
        self._context.turned(self.id, up)
        if up and not self.paths.has_direct:
            self._context.timers.set(self.id, "punch", now.boot)
        if up:
            self.why = ""
            self._context.tell(PeerUp(self.id))
        else:
            self.why = self.why or "no answer on any path"
            self._context.tell(PeerDown(self.id, self.why))

    def _drop_attempt(self) -> None:
        if self._attempt is not None:
            self._context.free_index(self._attempt.exchange.local_index)
            self._attempt = None
        self._context.timers.cancel(self.id, "handshake retry")

    @property
    def relays(self) -> bool:
        """Whether this peer can relay for us now: we reach it directly, and it understands relay frames."""
        session = self.sessions.sealing()
        capable = session is not None and bool(session.keys.capabilities & Capability.RELAY)
        return self.up and capable and self.paths.has_direct

    @property
    def rtt(self) -> Nanos:
        """The round-trip time of the path in use."""
        active = self.paths.find(self.paths.active) if self.paths.active is not None else None
        return PROBE_TIMEOUT if active is None else active.score()

    @property
    def in_flight(self) -> bool:
        return self._attempt is not None

    def endpoints(self) -> Iterable[Path]:
        """Where the peer was reached, best first: what is worth remembering on disk."""
        return [c.path for c in self.paths.candidates() if c.proven and c.path.kind is not PathKind.RELAY]
