"""Relay frames: other members' sealed datagrams pass through us, and ours through others (docs/protocol.md, frame 7).

The relay sees no plaintext. What it forwards waits in the fq_codel of the next node under the inner flow's tag, is
marked there when it is ECN-capable, and counts against `relay_rate`. Hops are limited, so a circle ends by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from meshnode.dataplane.config import PlaneConfig
from meshnode.dataplane.peer import Peer
from meshnode.dataplane.runs import Run
from meshnode.dataplane.trains import Train
from meshnode.queueing.shaper import TokenBucket
from meshnode.values import BadPacket, Datagram, Ecn, Nanos, Path, PathKind, PeerId
from meshnode.wire.frames import FRAME_HEADER, Relay, parse_relay_untrusted
from meshnode.wire.header import MessageType

if TYPE_CHECKING:
    from meshnode.dataplane.intake import Intake
    from meshnode.dataplane.turns import Turns

MAX_HOPS = 2
"""Relays between two nodes."""

_DATA = int(MessageType.DATA)


class RelayedDatagram(Train):
    """Somebody else's datagram in the queue of the node that it goes to next. `tos` are its ECN bits."""

    __slots__ = ("relay",)

    relayed = True

    def __init__(self, relay: Relay) -> None:
        flow = b"relayed" + relay.source + relay.tag.to_bytes(2, "big")
        super().__init__(relay.datagram, flow, relay.ecn, False)
        self.relay = relay

    def mark(self) -> bool:
        """CoDel signals: our CE is part of what the receiver takes for the outer ECN field."""
        if self.tos == Ecn.NOT_ECT:
            return False
        self.tos = Ecn.CE
        return True

    def body(self) -> bytes:
        """The relay frame's body for the next hop."""
        relay = self.relay
        return Relay(relay.source, relay.destination, relay.hops, self.tos, relay.tag, relay.datagram).pack()


class Relaying:
    """What becomes of a relay frame that a peer has sent us."""

    def __init__(
        self,
        config: PlaneConfig,
        peers: Mapping[PeerId, Peer],
        intake: Intake,
        turns: Turns,
        counters: Counter[str],
        now: Nanos,
    ) -> None:
        self._own = config.own
        self._enabled = config.relay
        self._bucket = TokenBucket(config.relay_rate, now=now) if config.relay_rate else None
        self._peers = peers
        self._intake = intake
        self._turns = turns
        self._counters = counters

    def serve_untrusted(self, run: Run, peer: Peer, body: memoryview, now: Nanos) -> bool:
        """Forward or deliver one frame from `peer`. True: it is a handshake for us, which the core has to see."""
        relay = parse_relay_untrusted(body)
        if relay.hops == MAX_HOPS and relay.source != peer.id:
            raise BadPacket("relay source")
        if run.ecn == Ecn.CE and relay.ecn != Ecn.NOT_ECT:
            relay = Relay(relay.source, relay.destination, relay.hops, Ecn.CE, relay.tag, relay.datagram)
        if relay.destination != self._own:
            self._forward_untrusted(relay, peer, now)
            return False
        if relay.datagram[0] != _DATA:
            return True
        path = Path(PathKind.RELAY, via=peer.id, far=relay.source)
        self._intake.datagram(Datagram(bytearray(relay.datagram), path, run.arrived, relay.ecn), now)
        return False

    def _forward_untrusted(self, relay: Relay, sender: Peer, now: Nanos) -> None:
        if not self._enabled:
            raise BadPacket("relay off")
        if relay.hops == 0:
            raise BadPacket("relay hops")
        carrier = self._carrier(relay.destination)
        if carrier is None or carrier is sender:
            raise BadPacket("relay no way")
        size = FRAME_HEADER.size + len(relay.datagram) + 36
        if size > carrier.room:
            raise BadPacket("relay too long")
        if self._bucket is not None:
            if self._bucket.ready_at(now, size) > now:
                raise BadPacket("relay rate")
            self._bucket.spend(now, size)
        onward = Relay(relay.source, relay.destination, relay.hops - 1, relay.ecn, relay.tag, relay.datagram)
        self._counters["relayed"] += 1
        item = RelayedDatagram(onward)
        carrier.queue.enqueue(item.flow, item, size, now, 1)
        self._turns.wake(carrier.seal_lane)

    def _carrier(self, destination: PeerId) -> Peer | None:
        """The peer to whom a datagram for `destination` goes next: itself, or the relay that we reach it by."""
        peer = self._peers.get(destination)
        if peer is None or not peer.is_up or peer.path is None:
            return None
        if peer.path.kind is not PathKind.RELAY:
            return peer
        via = self._peers.get(peer.path.via) if peer.path.via is not None else None
        usable = (
            via is not None and via.is_up and via.path is not None and via.path.kind is not PathKind.RELAY
        )
        return via if usable else None
