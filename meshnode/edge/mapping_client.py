"""One gateway, asked for mappings of one port: which request when, what to believe, when to ask again. No I/O.

A round asks for one thing after the other: UDP, then TCP on the same external port (with NAT-PMP the external address
comes first). PCP is spoken until the gateway proves to be older (RFC 6887, 9) or does not answer at all.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import NamedTuple

from meshnode.crypto.primitives import equal, keyed_hash
from meshnode.edge.pcp import (
    NONCE_SIZE,
    UNSUPPORTED_VERSION,
    Mapping,
    Refusal,
    Transport,
    Version,
    pack_pcp_map,
    pack_pmp_address,
    pack_pmp_map,
    parse_answer_untrusted,
)
from meshnode.proto.paths import usable_endpoint
from meshnode.values import MILLISECOND, SECOND, BadPacket, Endpoint, Entropy, Nanos

LIFETIME_S = 7200
"""Asked for; RFC 6886 (3.3) recommends it."""
LONGEST_LIFETIME_S = 86_400
"""Whatever a gateway grants is taken for at most this, so that a wrong word of it does not last for ever."""

PCP_FIRST_WAIT: Nanos = 3 * SECOND
"""IRT of RFC 6887 (8.1.1): doubled after each attempt, with a tenth of randomness."""
PCP_ATTEMPTS = 3

PMP_FIRST_WAIT: Nanos = 250 * MILLISECOND
"""RFC 6886 (3.1): doubled after each attempt, of which there are nine."""
PMP_ATTEMPTS = 9

RETRY_TIME: Nanos = 30 * 60 * SECOND
"""A gateway that does not answer, or refuses, is asked again after so long; sooner when the network changes."""
SOONEST_ROUND: Nanos = 60 * SECOND
"""However short its lifetimes are, a gateway is not asked more often than this."""

_EPOCH_SLACK_S = 2


class Step(Enum):
    """What is asked for."""

    ADDRESS = auto()
    UDP = auto()
    TCP = auto()


STEPS = {
    Version.PCP: (Step.UDP, Step.TCP),
    Version.NAT_PMP: (Step.ADDRESS, Step.UDP, Step.TCP),
}
_TRANSPORTS = {Step.UDP: Transport.UDP, Step.TCP: Transport.TCP}
_STEPS = {transport: step for step, transport in _TRANSPORTS.items()}


class _Held(NamedTuple):
    """A mapping that is ours until `expires`."""

    port: int
    renew: Nanos
    expires: Nanos


class MappingClient:
    """The conversation with one gateway, in rounds. Feed it and send what `poll_transmit` gives.

    `client` is our address as the gateway sees it. Nonces follow from `nonce_key` (32 bytes, secret and lasting): with
    the same one a node that was killed can renew what it had (RFC 6887, 11.3). `finding` says for people what became
    of the last round.
    """

    def __init__(
        self, client: str, port: int, with_tcp: bool, nonce_key: bytes, entropy: Entropy, now: Nanos
    ) -> None:
        self.finding = "not asked yet"
        self._client = client
        self._port = port
        self._with_tcp = with_tcp
        self._nonce_key = nonce_key
        self._entropy = entropy
        self._version = Version.PCP
        self._steps: deque[Step] = deque()
        self._attempt = 0
        self._resend_at: Nanos = 0
        self._round_at = now
        self._repeated = False
        self._address = ""
        self._held: dict[Transport, _Held] = {}
        self._epoch: tuple[int, Nanos] | None = None
        self._outbox: deque[bytes] = deque()

    def endpoint(self, now: Nanos) -> Endpoint | None:
        """Where the gateway passes UDP on to us from, while it does."""
        held = self._held.get(Transport.UDP)
        usable = held is not None and now < held.expires and self._address
        return Endpoint(self._address, held.port) if held is not None and usable else None

    def refresh(self, now: Nanos) -> None:
        """The network has changed: ask at once, whether or not something is held."""
        self._steps.clear()
        self._round_at = now

    def handle_answer_untrusted(self, data: bytes, now: Nanos) -> None:
        """What came from the gateway's address and port. Raises BadPacket for what answers nothing."""
        answer = parse_answer_untrusted(data)
        if not self._steps:
            raise BadPacket("mapping unasked")
        if isinstance(answer, Refusal):
            self._handle_refusal_untrusted(answer, now)
            return
        if isinstance(answer, Mapping):
            self._accept_untrusted(answer, now)
        elif self._steps[0] is not Step.ADDRESS or not usable_endpoint(answer.address, self._port):
            raise BadPacket("mapping unasked")
        else:
            self._address = answer.address
        self._steps.popleft()
        if self._restarted(answer.epoch, now) and not self._repeated:
            self._repeated = True
            self._begin_round(now)  # what it gave us before, it has forgotten
        elif self._steps:
            self._ask(now)
        else:
            self._finish(f"{self._version.name.replace('_', '-')} maps {self.endpoint(now)}", now)

    def handle_refused(self, now: Nanos) -> None:
        """Nobody listens there (ICMP port unreachable), or nothing can be sent."""
        if self._steps:
            self._finish("it maps no ports", now)

    def handle_timeout(self, now: Nanos) -> None:
        """Whatever is due."""
        self._held = {transport: held for transport, held in self._held.items() if now < held.expires}
        if not self._steps and now >= self._round_at:
            self._repeated = False
            self._begin_round(now)
        elif self._steps and now >= self._resend_at:
            self._attempt += 1
            attempts = PCP_ATTEMPTS if self._version is Version.PCP else PMP_ATTEMPTS
            if self._attempt < attempts:
                self._send(now)
            elif self._version is Version.PCP and not self._held:
                self._speak(Version.NAT_PMP, now)
            else:
                self._version = Version.PCP
                self._finish("it does not answer", now)

    def poll_timeout(self) -> Nanos:
        """When `handle_timeout` should be called next; also the instant at which a mapping expires."""
        due = self._resend_at if self._steps else self._round_at
        return min([due, *(held.expires for held in self._held.values())])

    def poll_transmit(self) -> bytes | None:
        """A datagram for the gateway, or None."""
        return self._outbox.popleft() if self._outbox else None

    def release(self) -> list[bytes]:
        """The datagrams that delete what we hold; nothing is held afterwards."""
        held, self._held = self._held, {}
        self._steps.clear()
        return [self._pack(transport, 0) for transport in held]

    # --- a round --------------------------------------------------------------------------------------------------

    def _begin_round(self, now: Nanos) -> None:
        wanted = STEPS[self._version] if self._with_tcp else STEPS[self._version][:-1]
        self._steps = deque(wanted)
        self._ask(now)

    def _ask(self, now: Nanos) -> None:
        self._attempt = 0
        self._send(now)

    def _send(self, now: Nanos) -> None:
        step = self._steps[0]
        if step is Step.ADDRESS:
            self._outbox.append(pack_pmp_address())
        else:
            self._outbox.append(self._pack(_TRANSPORTS[step], LIFETIME_S))
        first = PCP_FIRST_WAIT if self._version is Version.PCP else PMP_FIRST_WAIT
        wait = first << self._attempt
        if self._version is Version.PCP:
            wait += wait * (self._entropy.token(1)[0] - 128) // 1280
        self._resend_at = now + wait

    def _speak(self, version: Version, now: Nanos) -> None:
        self._version = version
        self._epoch = None
        self._begin_round(now)

    def _finish(self, finding: str, now: Nanos) -> None:
        self.finding = finding
        self._steps.clear()
        due = min((held.renew for held in self._held.values()), default=now + RETRY_TIME)
        if due <= now:  # it could not be renewed: half of what is left, again and again
            due = now + (min(held.expires for held in self._held.values()) - now) // 2
        self._round_at = max(due, now + SOONEST_ROUND)

    # --- answers --------------------------------------------------------------------------------------------------

    def _accept_untrusted(self, answer: Mapping, now: Nanos) -> None:
        expected = (self._version, _STEPS[answer.transport], self._port)
        if expected != (answer.version, self._steps[0], answer.internal_port):
            raise BadPacket("mapping unasked")
        if answer.version is Version.PCP:
            if not equal(answer.nonce, self._nonce(answer.transport)):
                raise BadPacket("mapping nonce")
            if answer.transport is Transport.UDP:
                self._address = answer.external_address
        if not answer.lifetime or not usable_endpoint(self._address or "0.0.0.0", answer.external_port):
            raise BadPacket("mapping endpoint")
        udp = self._held.get(Transport.UDP)
        if answer.transport is Transport.TCP and udp is not None and answer.external_port != udp.port:
            self._outbox.append(self._pack(Transport.TCP, 0))  # peers look for TCP where UDP is, or nowhere
            return
        lifetime = min(answer.lifetime, LONGEST_LIFETIME_S) * SECOND
        self._held[answer.transport] = _Held(answer.external_port, now + lifetime // 2, now + lifetime)

    def _handle_refusal_untrusted(self, answer: Refusal, now: Nanos) -> None:
        if answer.code == UNSUPPORTED_VERSION and self._version is Version.PCP:
            self._speak(Version.NAT_PMP, now)
            return
        if answer.version is not self._version:
            raise BadPacket("mapping unasked")
        if answer.transport is not _TRANSPORTS.get(self._steps[0]):
            raise BadPacket("mapping unasked")
        if answer.transport and answer.nonce and not equal(answer.nonce, self._nonce(answer.transport)):
            raise BadPacket("mapping nonce")
        if answer.transport is Transport.TCP:
            self._finish(f"UDP only, for TCP {answer}", now)
        else:
            self._finish(str(answer), now)

    def _restarted(self, epoch: int, now: Nanos) -> bool:
        """Whether the gateway has lost its state since its last answer (RFC 6887, 8.5, which is stricter than 6886)."""
        before, self._epoch = self._epoch, (epoch, now)
        if before is None:
            return False
        theirs, ours = epoch - before[0], (now - before[1]) // SECOND
        return (
            theirs < -1
            or ours + _EPOCH_SLACK_S < theirs - theirs // 16
            or theirs + _EPOCH_SLACK_S < ours - ours // 16
        )

    def _pack(self, transport: Transport, lifetime: int) -> bytes:
        held = self._held.get(transport) or self._held.get(Transport.UDP)
        port = held.port if held is not None and lifetime else 0
        if self._version is Version.NAT_PMP:
            return pack_pmp_map(transport, self._port, lifetime, port if lifetime else 0)
        address = self._address if held is not None and lifetime else ""
        return pack_pcp_map(
            self._client, self._nonce(transport), transport, self._port, lifetime, port, address
        )

    def _nonce(self, transport: Transport) -> bytes:
        what = f"{self._client} {self._port} {transport.name}".encode()
        return keyed_hash(self._nonce_key, b"mapping nonce " + what, NONCE_SIZE)
