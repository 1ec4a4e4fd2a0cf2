"""In front of the queues: which peer is it for, and where does it wait. Cheap, for whatever comes is read eagerly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from meshnode.dataplane.config import PlaneConfig
from meshnode.dataplane.flow_tags import KEY_SIZE
from meshnode.dataplane.mss import carries_mss, clamp_mss
from meshnode.dataplane.next_hops import NextHops
from meshnode.dataplane.peer import Peer
from meshnode.dataplane.runs import cut_runs
from meshnode.dataplane.session import Session
from meshnode.dataplane.trains import Train, read_train_untrusted
from meshnode.dataplane.turns import Turns
from meshnode.values import SECOND, BadPacket, Datagram, Entropy, Nanos, PeerId
from meshnode.wire.ip import Packet

MAX_HELD = 128
"""Packets that wait for a peer without session or path (WireGuard stages as many)."""

STALE: Nanos = 5 * SECOND
"""What has been held for longer than this is thrown away: who sent it has sent it again."""

UNSENDABLE_EVERY: Nanos = 1 * SECOND
"""How often the core is told that packets wait for a peer."""

TAG_KEY_IDLE: Nanos = 60 * SECOND
"""After so long without a packet the flows of a peer get new tags: nobody can link old ones with new ones."""


class Intake:
    """Puts packets and datagrams into the queues of `peers`, and wakes their lanes."""

    def __init__(
        self,
        config: PlaneConfig,
        entropy: Entropy,
        next_hops: NextHops,
        turns: Turns,
        peers: Mapping[PeerId, Peer],
        sessions: Mapping[int, Session],
        counters: Counter[str],
    ) -> None:
        self._multicast = frozenset(config.multicast)
        self._entropy = entropy
        self._next_hops = next_hops
        self._turns = turns
        self._peers = peers
        self._sessions = sessions
        self._counters = counters
        self.unsendable: dict[PeerId, None] = {}

    def packet_untrusted(self, header: bytes, packet: Packet, now: Nanos) -> None:
        """A packet or superpacket from the TUN. Raises BadPacket if it goes nowhere."""
        train = read_train_untrusted(header, packet)
        to = bytes(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40])
        if to[0] >= 224 if len(to) == 4 else to[0] == 0xFF:
            self._copy_to_all_untrusted(train, to, now)
            return
        id_ = self._next_hops.lookup(to)
        peer = None if id_ is None else self._peers.get(id_)
        if peer is None:
            raise BadPacket("no route")
        if train.template is None and carries_mss(packet):
            train.packet = clamp_mss(packet, peer.inner_mtu, train.partial)
        self._enqueue_untrusted(peer, train, now)

    def datagram(self, datagram: Datagram, now: Nanos) -> None:
        """What one socket read brought: sealed datagrams that can be what their header says."""
        path = datagram.path
        stamp = min(datagram.arrived, now)
        for run, tag in cut_runs(datagram, self._sessions, self._counters):
            peer = run.session.peer
            source = peer.sources.get(path)
            if source is not None and source.demoted_until <= now:
                run.source = source
                peer.queue_in.enqueue(tag, run, run.size, now, run.count, stamp)
                self._turns.wake(peer.open_lane)
            else:
                # By source, so that one flood is one flow; by tag, too, where an honest peer may be behind it.
                key = path if source is None else (path, tag)
                self._turns.unproven.enqueue(key, run, run.size, now, run.count, stamp)
                self._turns.wake(self._turns.unproven_lane)

    def release(self, peer: Peer, now: Nanos) -> None:
        """The peer's session or path changed: let what was held go, unless it is too old by now."""
        if not peer.is_up or not peer.queue:
            return
        if peer.held_since is not None and now - peer.held_since > STALE:
            peer.queue.clear()
        peer.held_since = None
        self._turns.wake(peer.seal_lane)

    def _copy_to_all_untrusted(self, train: Train, group: bytes, now: Nanos) -> None:
        """Link-local groups that routing needs go to every peer that is up, each copy through its own queue."""
        if group not in self._multicast:
            raise BadPacket("multicast")
        for peer in self._peers.values():
            if peer.is_up:
                self._enqueue_untrusted(peer, train.copy(), now)

    def _enqueue_untrusted(self, peer: Peer, train: Train, now: Nanos) -> None:
        if not peer.is_up:
            self._hold_untrusted(peer, now)
        elif now - peer.sealed_at > TAG_KEY_IDLE and not peer.queue:
            peer.tags.rekey(self._entropy.token(KEY_SIZE))
        queue = peer.queue
        most = train.end if train.template is None else self._turns.segments_at_once(peer, train.template)
        if train.end <= most:
            queue.enqueue(train.flow, train, train.size, now, train.end)
        else:
            for piece in train.pieces(most):
                queue.enqueue(piece.flow, piece, piece.size, now, piece.end - piece.first)
        if peer.is_up:
            self._turns.wake(peer.seal_lane)

    def _hold_untrusted(self, peer: Peer, now: Nanos) -> None:
        """A packet is to wait for a session or a path. Raises BadPacket if too many do."""
        if peer.unsendable_at is None or now - peer.unsendable_at >= UNSENDABLE_EVERY:
            peer.unsendable_at = now
            self.unsendable[peer.id] = None
        if len(peer.queue) >= MAX_HELD:
            if peer.held_since is not None and now - peer.held_since <= STALE:
                raise BadPacket("no session")
            peer.queue.clear()
        if not peer.queue or peer.held_since is None:
            peer.held_since = now
