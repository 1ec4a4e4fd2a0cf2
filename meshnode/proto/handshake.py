"""One exchange of Noise_IKpsk2: what each side writes and reads (docs/protocol.md section 3).

The machines here know bytes and keys; retries, timers and who may talk to whom are the peer's and the node's business.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshnode.crypto import noise
from meshnode.crypto.primitives import Ciphers
from meshnode.crypto.suites import data_key
from meshnode.proto.constants import FAILED_RESPONSES_PER_ATTEMPT
from meshnode.values import BadPacket, Capability, SessionKeys, Suite
from meshnode.wire.handshake import (
    Initiation,
    InitiationPayload,
    Response,
    ResponsePayload,
    parse_initiation_payload_untrusted,
    parse_initiation_untrusted,
    parse_response_payload_untrusted,
    parse_response_untrusted,
)

NO_PSK = bytes(32)
"""The psk between members until the post-quantum ratchet exists; epoch 0."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a node brings into every handshake. Never logged: no field is shown."""

    ciphers: Ciphers
    prologue: bytes
    static: bytes

    def __repr__(self) -> str:
        return "Secrets(…)"


@dataclass(frozen=True, slots=True)
class Completed:
    """A finished handshake: the keys, and the hash that names the whole transcript."""

    keys: SessionKeys
    hash: bytes


class InitiatorExchange:
    """Our initiation in flight. One object per attempt: each retry has a new ephemeral key and a new index."""

    def __init__(self, secrets: Secrets, remote_static: bytes, local_index: int, psk: bytes = NO_PSK) -> None:
        self._secrets = secrets
        self._remote_static = remote_static
        self._psk = psk
        self._failures = 0
        self._offered: tuple[Suite, ...] = ()
        self._capabilities = Capability.NONE
        self._noise: noise.Initiator | None = None
        self.local_index = local_index

    def write(self, payload: InitiationPayload, ephemeral_secret: bytes) -> bytes:
        """The initiation without its macs."""
        self._noise = noise.Initiator(
            self._secrets.ciphers,
            self._secrets.prologue,
            self._secrets.static,
            self._remote_static,
            ephemeral_secret,
        )
        self._offered = payload.suites
        self._capabilities = payload.capabilities
        return Initiation(self.local_index, *self._noise.write_initiation(payload.pack())).pack()

    def read_response_untrusted(self, data: bytes) -> Completed:
        """The session that `data` completes. A forgery raises BadPacket and leaves the exchange as it was."""
        if self._noise is None or self._failures >= FAILED_RESPONSES_PER_ATTEMPT:
            raise BadPacket("response budget")
        response = parse_response_untrusted(data)
        try:
            plain = self._noise.read_response_untrusted(
                response.ephemeral, response.sealed_payload, self._psk
            )
        except BadPacket:
            self._failures += 1
            raise
        payload = parse_response_payload_untrusted(plain)
        if payload.suite not in self._offered:
            raise BadPacket("suite not offered")
        send, receive = self._noise.split()
        transcript = self._noise.hash
        keys = SessionKeys(
            local_index=self.local_index,
            remote_index=response.sender_index,
            suite=payload.suite,
            send_key=data_key(send, payload.suite, transcript),
            receive_key=data_key(receive, payload.suite, transcript),
            initiator=True,
            capabilities=payload.capabilities & self._capabilities,
        )
        return Completed(keys, transcript)


class ResponderExchange:
    """An initiation that came in: read first, judged by the node, then answered."""

    def __init__(self, secrets: Secrets) -> None:
        self._noise = noise.Responder(secrets.ciphers, secrets.prologue, secrets.static)
        self.remote_index = 0
        self.remote_static = b""

    def read_untrusted(self, data: bytes) -> InitiationPayload:
        """The payload; `remote_static` has proven to own its key (the `ss` token), nothing else is proven."""
        initiation = parse_initiation_untrusted(data)
        self.remote_static, plain = self._noise.read_initiation_untrusted(
            initiation.ephemeral, initiation.sealed_static, initiation.sealed_payload
        )
        self.remote_index = initiation.sender_index
        return parse_initiation_payload_untrusted(plain)

    def answer(
        self,
        offer: InitiationPayload,
        suite: Suite,
        capabilities: Capability,
        local_index: int,
        ephemeral_secret: bytes,
        psk: bytes = NO_PSK,
    ) -> tuple[bytes, Completed]:
        """The response without its macs, and the session it makes once the initiator confirms it."""
        payload = ResponsePayload(psk_epoch=0, capabilities=capabilities, suite=suite)
        written = self._noise.write_response(payload.pack(), psk, ephemeral_secret)
        send, receive = self._noise.split()
        transcript = self._noise.hash
        keys = SessionKeys(
            local_index=local_index,
            remote_index=self.remote_index,
            suite=suite,
            send_key=data_key(send, suite, transcript),
            receive_key=data_key(receive, suite, transcript),
            initiator=False,
            capabilities=capabilities & offer.capabilities,
        )
        return Response(local_index, self.remote_index, *written).pack(), Completed(keys, transcript)


def choose_suite(offered: tuple[Suite, ...], ours: tuple[Suite, ...]) -> Suite:
    """The initiator's favourite among those that we have; every node has the mandatory one."""
    for suite in offered:
        if suite in ours:
            return suite
    raise BadPacket("no common suite")
