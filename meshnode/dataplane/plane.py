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

from meshnode.crypto import suites
from meshnode.dataplane.api import Batch, PeerStatus, QueueStatus, TunPacket
from meshnode.dataplane.config import PlaneConfig
from meshnode.dataplane.flow_tags import KEY_SIZE, FlowTags
from meshnode.dataplane.intake import Intake
from meshnode.dataplane.next_hops import OURSELVES, NextHops
from meshnode.dataplane.opening import Opener
from meshnode.dataplane.outbox import Outbox
from meshnode.dataplane.peer import Peer
from meshnode.dataplane.queues import QueueFactory
from meshnode.dataplane.refusals import Refusals
from meshnode.dataplane.relaying import Relaying
from meshnode.dataplane.runs import Run
from meshnode.dataplane.sealing import Sealer
from meshnode.dataplane.session import AeadFactory, Ledger, Session
from meshnode.dataplane.source_check import SourceCheck
from meshnode.dataplane.trains import Train
from meshnode.dataplane.tun_writer import TunWriter
from meshnode.dataplane.turns import Turns
from meshnode.dataplane.vnet import Offload
from meshnode.queueing.packet_queue import PacketQueue
from meshnode.values import (
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
        self._now = now.boot
        self._peers: dict[PeerId, Peer] = {}
        self._sessions: dict[int, Session] = {}
        self._ledger = Ledger()
        self._outbox = Outbox()
        self._writer = TunWriter(config.offload)
        self._refusals = Refusals(self._writer, self.counters, now.boot)
        self._queues = QueueFactory(config, entropy, self.counters)
        self._opener = Opener(config, self.next_hops, self._writer, self._ledger, self.counters)
        self._turns = Turns(
            config,
            Sealer(config, self._peers, self._outbox, self._ledger, self.counters, self._refusals),
            self._opener,
            self._outbox,
            self._queues.unproven(),
            now.boot,
        )
        self._intake = Intake(
            config, entropy, self.next_hops, self._turns, self._peers, self._sessions, self.counters
        )
        self._opener.relaying = Relaying(
            config, self._peers, self._intake, self._turns, self.counters, now.boot
        )
        self.set_local(config.addresses, config.link_local, config.prefixes)

    # --- commands ---------------------------------------------------------------------------------------------------

    def set_local(
        self, addresses: tuple[bytes, ...], link_local: bytes, prefixes: tuple[Prefix, ...] = ()
    ) -> None:
        """Our own addresses (packed) and granted prefixes, from now on."""
        own = (*addresses, link_local) if link_local else addresses
        self.next_hops.set_owner(OURSELVES, own, prefixes)
        self._forget_good_sources()

    def set_offload(self, offload: Offload) -> None:
        """What the TUN takes from now on: an offload that the kernel refused is switched off here, too."""
        self._writer.offload = offload

    def apply(self, command: DataPlaneCommand, now: Now) -> None:
        """Carry out one command of the core. What names an unknown peer or session has been overtaken by
        events."""
        if isinstance(command, AdmitPeer):
            self._admit(command, now)
        elif isinstance(command, RemovePeer):
            self._remove(command.peer)
        elif isinstance(command, InstallSession):
            peer = self._peer(command.peer, now)
            self._retire(peer, command.keys.local_index)
            session = Session(peer, command.keys, self._aead)
            self._sessions[session.local_index] = peer.sessions[session.local_index] = session
        elif command.peer in self._peers:
            self._change(self._peers[command.peer], command, now)

    def _change(self, peer: Peer, command: DataPlaneCommand, now: Now) -> None:
        if isinstance(command, UseSession):
            peer.session = peer.sessions.get(command.local_index, peer.session)
        elif isinstance(command, RetireSession):
            self._retire(peer, command.local_index)
            if not peer.admitted and not peer.sessions:
                self._remove(peer.id)  # a joiner that did not become a member: nobody will ask to remove it
                return
        elif isinstance(command, UsePath):
            if command.path is not None and command.path != peer.path:
                peer.tags.rekey(self._entropy.token(KEY_SIZE))
            peer.use_path(command.path, command.mtu, self._config.tun_mtu)
            peer.ecn = command.ecn
            peer.interval = command.interval
            self._tune(peer)
        elif isinstance(command, ProvePaths):
            peer.sources.prove(command.paths)
            peer.proven = command.paths
            self._tune(peer)
        elif isinstance(command, LimitRate):
            peer.limit_rate(command.bits_per_second, now.boot)
            self._tune(peer)
            self._turns.rate_changed(peer)
        self._intake.release(peer, now.boot)

    def _tune(self, peer: Peer) -> None:
        """Fit queues and ports to the path and the rate of `peer`."""
        rate = None if peer.bucket is None else peer.bucket.rate_bps
        self._queues.tune(peer.queue, rate, peer.interval)
        self._queues.follow(peer.queue_in, peer.interval)
        if self._config.entropy == "ports":
            peer.spread_ports()

    def _peer(self, id: PeerId, now: Now) -> Peer:
        """The state of a peer; one that is no member yet (a joiner) may have sessions, but no inner source."""
        peer = self._peers.get(id)
        if peer is None:
            peer = self._peers[id] = Peer(
                id,
                self._turns.lane,
                SourceCheck(id, b"", False, self.next_hops),
                self._queues.out(),
                self._queues.incoming(),
                FlowTags(self._entropy.token(KEY_SIZE)),
                self._config.reassembly,
            )
        return peer

    def _admit(self, command: AdmitPeer, now: Now) -> None:
        peer = self._peer(command.peer, now)
        peer.admitted = True
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
        self._turns.remove(peer)
        self._opener.forget(peer)
        self._intake.unsendable.pop(id, None)
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

    def _forget_good_sources(self) -> None:
        for peer in self._peers.values():
            peer.check.good.clear()

    # --- in front of the queues ---------------------------------------------------------------------------------

    def send_frames(self, frames: SendFrames, now: Now) -> None:
        """Queue control frames: they are sealed before any user traffic in the next `work`."""
        peer = self._peers.get(frames.peer)
        if peer is None:
            self.counters["control unsendable"] += 1
        elif not self._turns.send_control(peer, frames):
            self.counters["control overflow"] += 1

    def push_packets(self, packets: Sequence[TunPacket], now: Now) -> None:
        """Queue what was read from the TUN for the peers that it belongs to."""
        for header, data in packets:
            packet = b"".join(data) if isinstance(data, list) else data
            try:
                self._intake.packet_untrusted(header, packet, now.boot)
            except BadPacket as bad:
                self.counters[f"out {bad.reason}"] += 1

    def push_datagrams(self, datagrams: Sequence[Datagram], now: Now) -> None:
        """Queue what was read from the sockets for the peers whose sessions it names."""
        for datagram in datagrams:
            self._intake.datagram(datagram, now.boot)

    # --- behind the queues ------------------------------------------------------------------------------------------

    def work(self, now: Now, budget: Nanos, clock: Callable[[], Nanos] | None = None) -> bool:
        """Seal and open for about `budget` nanoseconds by `clock` (None: by a cost model). Whether there is more."""
        self._now = now.boot
        return self._turns.work(now.boot, budget, clock)

    def hold_back(self, full: bool) -> None:
        """The sockets are full (or no longer): seal no user traffic, so that it waits where an AQM sees it."""
        self._turns.hold_back(full)

    def poll_timeout(self) -> Nanos | None:
        """When `work` has something to do again if nothing is pushed before; None: only then."""
        return self._turns.poll_timeout()

    # --- what came out ---------------------------------------------------------------------------

    def take_datagrams(self) -> list[Batch]:
        return self._outbox.take()

    def take_packets(self) -> list[TunPacket]:
        return self._writer.take()

    def take_opened(self) -> list[Opened]:
        opened, self._opener.opened = self._opener.opened, []
        return opened

    def take_notes(self) -> list[TrafficNote | Unsendable]:
        unsendable = [Unsendable(peer) for peer in self._intake.unsendable]
        self._intake.unsendable.clear()
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
