"""The packet mill: two straight lines, each with a queue in front of its crypto step (DESIGN section 7).

    out: push_packets: next hop -> fq_codel | work: dequeue -> counters -> seal | take_datagrams in:
    push_datagrams: length, index, replay -> fq_codel | work: dequeue -> open -> replay -> checks |
    take_packets

`push_*` is cheap and only queues, so that packets wait where an AQM sees them. `work` spends the crypto time,
shared between all peers and both directions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import cast

from meshnode.crypto import suites
from meshnode.dataplane import icmp
from meshnode.dataplane.api import Batch, PeerStatus, QueueStatus, TunPacket
from meshnode.dataplane.config import PlaneConfig
from meshnode.dataplane.flow_tags import FlowTags
from meshnode.dataplane.mss import carries_mss, clamp_mss
from meshnode.dataplane.next_hops import OURSELVES, NextHops
from meshnode.dataplane.opening import Opener
from meshnode.dataplane.outbox import Outbox
from meshnode.dataplane.peer import Direction, Peer
from meshnode.dataplane.queues import QueueFactory
from meshnode.dataplane.runs import Run, cut_runs
from meshnode.dataplane.sealing import Sealer
from meshnode.dataplane.session import AeadFactory, Ledger, Session
from meshnode.dataplane.source_check import SourceCheck
from meshnode.dataplane.trains import Train, read_train_untrusted
from meshnode.dataplane.tun_writer import TunWriter
from meshnode.queueing.packet_queue import PacketQueue
from meshnode.queueing.scheduler import Lane, Scheduler
from meshnode.queueing.shaper import TokenBucket
from meshnode.values import (
    MICROSECOND,
    MILLISECOND,
    SECOND,
    AdmitPeer,
    BadPacket,
    Datagram,
    DataPlaneCommand,
    Entropy,
    InstallSession,
    LimitRate,
    Nanos,
    Now,
    Opened,
    PeerId,
    Prefix,
    ProvePaths,
    RemovePeer,
    RetireSession,
    SendFrames,
    TrafficNote,
    Unsendable,
    UsePath,
    UseSession,
)
from meshnode.wire.ip import Packet

MAX_CONTROL = 64
"""Control datagrams that wait for one peer; more are dropped."""

MAX_HELD = 128
"""Packets that wait for a peer without session or path (WireGuard stages as many)."""

STALE: Nanos = 5 * SECOND
"""What has been held for longer than this is thrown away: who sent it has sent it again."""

UNSENDABLE_EVERY: Nanos = 1 * SECOND

UNPROVEN_WEIGHT = 16
"""A sixteenth of a peer's share of the CPU for all that comes from where nobody has answered yet."""

ICMP_RATE_BURST = 50
ICMP_INTERVAL: Nanos = 10 * MILLISECOND
"""At most 100 ICMP messages a second, 50 at once."""

TAG_KEY_SIZE = 16
TAG_KEY_IDLE: Nanos = 60 * SECOND

COST_PER_PACKET: Nanos = 5 * MICROSECOND
"""The cost model where there is no clock: this much for an element, and a nanosecond for a byte."""


LaneName = tuple[Direction, Peer | None]
"""None: the lane of the unproven queue."""


class Plane:
    """The data plane of one node: see `api.DataPlane` for what its methods promise."""

    def __init__(
        self, config: PlaneConfig, entropy: Entropy, now: Now, aead: AeadFactory = suites.aead
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.next_hops = NextHops()
        self._config = config
        self._entropy = entropy
        self._aead = aead
        self._multicast = frozenset(config.multicast)
        self._peers: dict[PeerId, Peer] = {}
        self._sessions: dict[int, Session] = {}
        self._control: dict[PeerId, Peer] = {}
        self._unsendable: dict[PeerId, None] = {}
        self._ledger = Ledger()
        self._outbox = Outbox()
        self._writer = TunWriter(config.offload)
        self._sealer = Sealer(config, self._outbox, self._ledger, self.counters, self._refuse_size)
        self._opener = Opener(config, self.next_hops, self._writer, self._ledger, self.counters)
        self._queues = QueueFactory(config, entropy, self.counters)
        self._scheduler = Scheduler()
        self._unproven = self._queues.unproven()
        self._unproven_lane = self._scheduler.add((Direction.IN, None), UNPROVEN_WEIGHT)
        self._uplink = TokenBucket(config.uplink_rate, now=now.boot) if config.uplink_rate else None
        self._ours_v4 = self._ours_v6 = b""
        self._icmp_tokens = ICMP_RATE_BURST
        self._icmp_settled = now.boot
        self._now = now.boot
        self.set_local(config.addresses, config.link_local, config.prefixes)

    # --- commands --------------------------------------------------------------------------------

    def set_local(
        self, addresses: tuple[bytes, ...], link_local: bytes, prefixes: tuple[Prefix, ...] = ()
    ) -> None:
        """Our own addresses (packed) and granted prefixes, from now on."""
        own = (*addresses, link_local) if link_local else addresses
        self.next_hops.set_owner(OURSELVES, own, prefixes)
        self._ours_v4 = next((address for address in addresses if len(address) == 4), b"")
        self._ours_v6 = next((address for address in own if len(address) == 16), b"")
        self._forget_good_sources()

    def apply(self, command: DataPlaneCommand, now: Now) -> None:
        """Carry out one command of the core. What names an unknown peer or session has been overtaken by
        events."""
        if isinstance(command, AdmitPeer):
            self._admit(command, now)
        elif isinstance(command, RemovePeer):
            self._remove(command.peer)
        elif isinstance(command, InstallSession):
            peer = self._peer(command.peer, now)
            session = Session(peer, command.keys, self._aead)
            self._sessions[session.local_index] = peer.sessions[session.local_index] = session
        elif command.peer in self._peers:
            self._change(self._peers[command.peer], command, now)

    def _change(self, peer: Peer, command: DataPlaneCommand, now: Now) -> None:
        if isinstance(command, UseSession):
            peer.session = peer.sessions.get(command.local_index, peer.session)
        elif isinstance(command, RetireSession):
            self._retire(peer, command.local_index)
        elif isinstance(command, UsePath):
            if command.path is not None and command.path != peer.path:
                peer.tags.rekey(self._entropy.token(TAG_KEY_SIZE))
            peer.use_path(command.path, command.mtu, self._config.tun_mtu)
            peer.ecn = command.ecn
        elif isinstance(command, ProvePaths):
            peer.proven = dict.fromkeys(command.paths)
        elif isinstance(command, LimitRate):
            peer.limit_rate(command.bits_per_second, now.boot)
            self._scheduler.unblock(peer.seal_lane)
        self._resume(peer, now)

    def _peer(self, id: PeerId, now: Now) -> Peer:
        """The state of a peer; one that is no member yet (a joiner) may have sessions, but no inner source."""
        peer = self._peers.get(id)
        if peer is None:
            peer = self._peers[id] = Peer(
                id,
                self._lane,
                SourceCheck(id, b"", False, self.next_hops),
                self._queues.out(),
                self._queues.incoming(),
                FlowTags(self._entropy.token(TAG_KEY_SIZE)),
                self._config.reassembly,
            )
        return peer

    def _lane(self, peer: Peer, direction: Direction) -> Lane:
        return self._scheduler.add((direction, peer))

    def _admit(self, command: AdmitPeer, now: Now) -> None:
        peer = self._peer(command.peer, now)
        peer.check = SourceCheck(peer.id, command.link_local, command.router, self.next_hops)
        self.next_hops.set_owner(peer.id, (*command.addresses, command.link_local), command.prefixes)
        self._forget_good_sources()

    def _remove(self, id: PeerId) -> None:
        peer = self._peers.pop(id, None)
        if peer is None:
            return
        for index in list(peer.sessions):
            self._retire(peer, index)
        peer.queue.close()
        peer.queue_in.close()
        self._scheduler.remove(peer.seal_lane)
        self._scheduler.remove(peer.open_lane)
        self._control.pop(id, None)
        self._unsendable.pop(id, None)
        self.next_hops.remove(id)
        self._forget_good_sources()

    def _retire(self, peer: Peer, local_index: int) -> None:
        session = peer.sessions.pop(local_index, None)
        if session is None:
            return
        session.retired = True
        del self._sessions[local_index]
        if peer.session is session:
            peer.session = None

    def _resume(self, peer: Peer, now: Now) -> None:
        """After a change: let what was held go, unless it is too old by now."""
        if not peer.is_up or not peer.queue:
            return
        if peer.held_since is not None and now.boot - peer.held_since > STALE:
            peer.queue.clear()
        peer.held_since = None
        self._scheduler.wake(peer.seal_lane)

    def _forget_good_sources(self) -> None:
        for peer in self._peers.values():
            peer.check.good.clear()

    # --- in front of the queues ------------------------------------------------------------------

    def send_frames(self, frames: SendFrames, now: Now) -> None:
        """Queue control frames: they are sealed before any user traffic in the next `work`."""
        peer = self._peers.get(frames.peer)
        if peer is None:
            self.counters["control unsendable"] += 1
        elif len(peer.control) >= MAX_CONTROL:
            self.counters["control overflow"] += 1
        else:
            peer.control.append(frames)
            self._control[peer.id] = peer

    def push_packets(self, packets: Sequence[TunPacket], now: Now) -> None:
        """Queue what was read from the TUN for the peers that it belongs to."""
        for header, data in packets:
            try:
                self._route_untrusted(read_train_untrusted(header, _one_buffer(data)), now.boot)
            except BadPacket as bad:
                self.counters[f"out {bad.reason}"] += 1

    def _route_untrusted(self, train: Train, now: Nanos) -> None:
        packet = train.packet
        to = bytes(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40])
        if to[0] >= 224 if len(to) == 4 else to[0] == 0xFF:
            self._multicast_untrusted(train, to, now)
            return
        id_ = self.next_hops.lookup(to)
        peer = None if id_ is None else self._peers.get(id_)
        if peer is None:
            raise BadPacket("no route")
        if train.template is None and carries_mss(packet):
            train.packet = clamp_mss(packet, peer.inner_mtu, train.partial)
        self._enqueue(peer, train, now)

    def _multicast_untrusted(self, train: Train, group: bytes, now: Nanos) -> None:
        """Link-local groups that routing needs go to every peer that is up, each copy through its own queue."""
        if group not in self._multicast:
            raise BadPacket("multicast")
        for peer in self._peers.values():
            if peer.is_up:
                self._enqueue(peer, train.copy(), now)

    def _enqueue(self, peer: Peer, train: Train, now: Nanos) -> None:
        if not peer.is_up:
            self._hold(peer, now)
        peer.queue.enqueue(train.flow, train, train.size, now, train.end - train.first)
        if peer.is_up:
            self._scheduler.wake(peer.seal_lane)

    def _hold(self, peer: Peer, now: Nanos) -> None:
        """A packet is to wait for a session or a path. Raises BadPacket if too many do."""
        if peer.unsendable_at is None or now - peer.unsendable_at >= UNSENDABLE_EVERY:
            peer.unsendable_at = now
            self._unsendable[peer.id] = None
        if len(peer.queue) >= MAX_HELD:
            if peer.held_since is not None and now - peer.held_since <= STALE:
                raise BadPacket("no session")
            peer.queue.clear()
        peer.held_since = now if not peer.queue or peer.held_since is None else peer.held_since

    def push_datagrams(self, datagrams: Sequence[Datagram], now: Now) -> None:
        """Queue sealed datagrams that can be what their header says: nothing of it is proven yet."""
        sessions, counters, scheduler = self._sessions, self.counters, self._scheduler
        for datagram in datagrams:
            for run, tag in cut_runs(datagram, sessions, counters):
                peer = run.session.peer
                size, count = run.end - run.start, run.count
                stamp = min(datagram.arrived, now.boot)
                if datagram.path in peer.proven:
                    peer.queue_in.enqueue(tag, run, size, now.boot, count, stamp)
                    scheduler.wake(peer.open_lane)
                else:
                    self._unproven.enqueue(tag, run, size, now.boot, count, stamp)
                    scheduler.wake(self._unproven_lane)

    # --- behind the queues -----------------------------------------------------------------------

    def work(self, now: Now, budget: Nanos, clock: Callable[[], Nanos] | None = None) -> bool:
        """Seal and open for about `budget` nanoseconds by `clock` (None: by a cost model). Whether there is
        more to do."""
        self._now = now.boot
        self._sealer.set_time(now.boot)
        self._seal_control()
        scheduler = self._scheduler
        spent = 0
        before = clock() if clock else 0
        while spent < budget:
            lane = scheduler.next(now.boot)
            if lane is None:
                return False
            cost = self._turn(lane, now.boot)
            if clock:
                after = clock()
                cost, before = after - before, after
            spent += cost
            scheduler.charge(lane, cost)
        return scheduler.next(now.boot) is not None

    def _seal_control(self) -> None:
        for peer in self._control.values():
            while peer.control:
                self._sealer.seal_frames(peer, peer.control.popleft())
        self._control.clear()

    def _turn(self, lane: Lane, now: Nanos) -> Nanos:
        """One element of one lane. What it may have cost."""
        direction, peer = cast("LaneName", lane.name)
        if peer is not None and direction is Direction.OUT:
            return self._seal_turn(peer, now)
        queue = self._unproven if peer is None else peer.queue_in
        run = queue.dequeue(now)
        if run is None:
            self._scheduler.rest(lane)
            return 0
        self._opener.open_run(run, now)
        return COST_PER_PACKET + run.end - run.start

    def _seal_turn(self, peer: Peer, now: Nanos) -> Nanos:
        session, path = peer.session, peer.path
        if session is None or path is None or not peer.queue:
            self._scheduler.rest(peer.seal_lane)
            return 0
        ready = self._rate_allows_at(peer, now)
        if ready > now:
            self._scheduler.block(peer.seal_lane, ready)
            return 0
        size = self._sealer.seal_next(peer, session, path, now)
        if size is None:
            self._scheduler.rest(peer.seal_lane)
            return 0
        for bucket in (peer.bucket, self._uplink):
            if bucket is not None:
                bucket.spend(now, size)
        return COST_PER_PACKET + size

    def _rate_allows_at(self, peer: Peer, now: Nanos) -> Nanos:
        """When the next datagram may leave by the rates of the peer and of the uplink."""
        ready = now
        for bucket in (peer.bucket, self._uplink):
            if bucket is not None:
                ready = max(ready, bucket.ready_at(now, peer.room))
        return ready

    def poll_timeout(self) -> Nanos | None:
        """When `work` has something to do again if nothing is pushed before; None: when something is pushed."""
        return self._scheduler.poll_timeout()

    # --- what came out ---------------------------------------------------------------------------

    def take_datagrams(self) -> list[Batch]:
        return self._outbox.take()

    def take_packets(self) -> list[TunPacket]:
        return self._writer.take()

    def take_opened(self) -> list[Opened]:
        opened, self._opener.opened = self._opener.opened, []
        return opened

    def take_notes(self) -> list[TrafficNote | Unsendable]:
        unsendable = [Unsendable(peer) for peer in self._unsendable]
        self._unsendable.clear()
        return [*self._ledger.take(), *unsendable]

    def status(self, peer: PeerId) -> PeerStatus | None:
        state = self._peers.get(peer)
        if state is None:
            return None
        return PeerStatus(
            _queue_status(state.queue, self._now),
            _queue_status(state.queue_in, self._now),
            state.sent_packets,
            state.sent_bytes,
            state.received_packets,
            state.received_bytes,
        )

    def _refuse_size(self, packet: Packet, mtu: int) -> None:
        """Answer a packet that is too long by ICMP, within the rate limit."""
        self._icmp_tokens += (self._now - self._icmp_settled) // ICMP_INTERVAL
        self._icmp_settled += (self._now - self._icmp_settled) // ICMP_INTERVAL * ICMP_INTERVAL
        self._icmp_tokens = min(self._icmp_tokens, ICMP_RATE_BURST)
        ours = self._ours_v4 if packet[0] >> 4 == 4 else self._ours_v6
        answer = icmp.too_big(packet, mtu, ours) if ours else None
        if answer is None:
            return
        if self._icmp_tokens <= 0:
            self.counters["icmp rate"] += 1
            return
        self._icmp_tokens -= 1
        self._writer.write_untrusted(bytearray(answer), False)


def _one_buffer(data: Packet | list[bytes | bytearray | memoryview]) -> Packet:
    return b"".join(data) if isinstance(data, list) else data


def _queue_status(queue: PacketQueue[Train] | PacketQueue[Run], now: Nanos) -> QueueStatus:
    stats = queue.stats(now)
    return QueueStatus(
        stats.backlog_packets,
        stats.backlog_bytes,
        stats.flows,
        stats.dropped,
        stats.marks,
        stats.sojourn_p50,
        stats.sojourn_p95,
        stats.sojourn_p99,
    )
