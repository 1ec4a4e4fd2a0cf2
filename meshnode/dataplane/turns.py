"""Behind the queues: who gets the CPU. One deficit scheduler over both directions of all peers, charged in time.

A lane is one direction of one peer; all datagrams from unproven paths share one lane of little weight. A lane that is
shaped, or whose socket is full, is blocked and holds up nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from meshnode.dataplane.config import PlaneConfig
from meshnode.dataplane.opening import Opener
from meshnode.dataplane.outbox import Outbox
from meshnode.dataplane.peer import Direction, Peer
from meshnode.dataplane.runs import Run
from meshnode.dataplane.sealing import Sealer, Way
from meshnode.dataplane.template import Template
from meshnode.dataplane.uplink import Uplink
from meshnode.queueing.fifo import Fifo
from meshnode.queueing.fq_codel import FqCodel
from meshnode.queueing.scheduler import FULL_WEIGHT, Lane, Scheduler
from meshnode.values import MICROSECOND, MILLISECOND, SECOND, Nanos, PeerId, SendFrames

UNPROVEN_WEIGHT = FULL_WEIGHT // 16
"""All that comes from where nobody has answered yet shares a sixteenth of a peer's share."""

TRAIN_TIME: Nanos = 1 * MILLISECOND
"""A train is cut so that it takes no longer than this at its peer's rate."""

MAX_CONTROL = 64
"""Control datagrams that wait for one peer; more are dropped."""

ELEMENTS = 8
ENOUGH_BYTES = 16_000
"""What a lane does in one turn: so many elements of its queue, or so many bytes."""

COST_PER_DATAGRAM: Nanos = 3 * MICROSECOND
"""The cost model where there is no clock: this much for a datagram, and a nanosecond for a byte."""


LaneName = tuple[Direction, Peer | None]
"""No peer: the lane of the unproven queue."""


class Turns:
    """Seals and opens for as long as it is given."""

    def __init__(
        self,
        config: PlaneConfig,
        sealer: Sealer,
        opener: Opener,
        outbox: Outbox,
        unproven: FqCodel[Run] | Fifo[Run],
        now: Nanos,
    ) -> None:
        self._sealer = sealer
        self._opener = opener
        self._outbox = outbox
        self._scheduler = Scheduler()
        self._uplink = Uplink(config.uplink_rate, now) if config.uplink_rate else None
        self._now = now
        self._control: dict[PeerId, Peer] = {}
        self._sockets_full = False
        self._held_back: list[Lane] = []
        self.unproven = unproven
        self.unproven_lane = self._scheduler.add((Direction.IN, None), UNPROVEN_WEIGHT)

    # --- lanes ------------------------------------------------------------------------------------------------------

    def lane(self, peer: Peer, direction: Direction) -> Lane:
        """A lane for one direction of `peer`."""
        return self._scheduler.add((direction, peer))

    def wake(self, lane: Lane) -> None:
        """There is something in the lane's queue."""
        self._scheduler.wake(lane)

    def rate_changed(self, peer: Peer) -> None:
        """Think again about when `peer` may send."""
        if not self._sockets_full:
            self._scheduler.unblock(peer.seal_lane)

    def remove(self, peer: Peer) -> None:
        """The peer is gone."""
        for lane in (peer.seal_lane, peer.open_lane):
            self._scheduler.remove(lane)
            if lane in self._held_back:
                self._held_back.remove(lane)
        if self._uplink is not None:
            self._uplink.leave(peer)
        self._control.pop(peer.id, None)

    def hold_back(self, full: bool) -> None:
        """The sockets are full (or no longer): seal no user traffic, so that it waits where an AQM sees it."""
        self._sockets_full = full
        if not full:
            for lane in self._held_back:
                self._scheduler.unblock(lane)
            self._held_back.clear()

    def segments_at_once(self, peer: Peer, template: Template) -> int:
        """How many segments of a train may be one element of the queue: as many as leave within TRAIN_TIME."""
        buckets = (peer.bucket, None if self._uplink is None else self._uplink.bucket)
        rates = [bucket.rate_bps for bucket in buckets if bucket is not None and bucket.rate_bps is not None]
        if not rates:
            return template.last + 1
        size = len(template.header) + template.segment_size
        return max(1, min(rates) * TRAIN_TIME // (8 * size * SECOND))

    # --- work -------------------------------------------------------------------------------------------------------

    def send_control(self, peer: Peer, frames: SendFrames) -> bool:
        """Seal `frames` before any user traffic in the next `work`. False if too many wait already."""
        if len(peer.control) >= MAX_CONTROL:
            return False
        peer.control.append(frames)
        self._control[peer.id] = peer
        return True

    def work(self, now: Nanos, budget: Nanos, clock: Callable[[], Nanos] | None) -> bool:
        """Seal and open for about `budget` nanoseconds by `clock` (None: by a cost model). Whether there is more."""
        scheduler = self._scheduler
        spent = 0
        before = clock() if clock else 0
        self._now = now
        self._sealer.set_time(now)
        self._seal_control(now)
        self._opener.expire_fragments(now)
        while spent < budget:
            self._follow_uplink(now)
            lane = scheduler.next(now)
            if lane is None:
                return False
            cost = self._turn(lane, now)
            if clock:
                after = clock()
                cost, before = after - before, after
            spent += cost
            scheduler.charge(lane, cost)
        return scheduler.next(now) is not None

    def poll_timeout(self) -> Nanos | None:
        """When `work` has something to do again if nothing is pushed before; None: only then."""
        times = [self._scheduler.poll_timeout(), self._opener.poll_timeout()]
        if self._uplink is not None and not self._sockets_full:
            times.append(self._uplink.poll_timeout(self._now))
        return min((time for time in times if time is not None), default=None)

    def _turn(self, lane: Lane, now: Nanos) -> Nanos:
        """One turn of a lane. What it may have cost."""
        direction, peer = cast("LaneName", lane.name)
        if peer is None:
            return self._open_turn(lane, self.unproven, now)
        if direction is Direction.IN:
            return self._open_turn(lane, peer.queue_in, now)
        sent, datagrams = self._outbox.bytes, self._outbox.datagrams
        self._seal_turn(peer, now)
        return self._outbox.bytes - sent + COST_PER_DATAGRAM * (self._outbox.datagrams - datagrams)

    def _open_turn(self, lane: Lane, queue: FqCodel[Run] | Fifo[Run], now: Nanos) -> Nanos:
        datagrams = size = 0
        for _ in range(ELEMENTS):
            run = queue.dequeue(now)
            if run is None:
                self._scheduler.rest(lane)
                break
            self._opener.open_run(run, now)
            datagrams += run.count
            size += run.size
            if size >= ENOUGH_BYTES:
                break
        return COST_PER_DATAGRAM * datagrams + size

    def _seal_turn(self, peer: Peer, now: Nanos) -> None:
        outbox, lane = self._outbox, peer.seal_lane
        enough = outbox.bytes + ENOUGH_BYTES
        for _ in range(ELEMENTS):
            session, path = peer.session, peer.path
            if session is None or path is None or not peer.queue:
                self._rest(peer)
                return
            if not self._may_send(peer, lane, now):
                return
            sent, datagrams = outbox.bytes, outbox.datagrams
            if not self._sealer.seal_next(Way(peer, session, path), now):
                self._rest(peer)
                return
            peer.sealed_at = now
            self._pay(peer, now, outbox.bytes - sent, outbox.datagrams - datagrams)
            if outbox.bytes >= enough:
                return

    def _may_send(self, peer: Peer, lane: Lane, now: Nanos) -> bool:
        """Whether sockets, the peer's rate and the uplink's let user traffic go now. If not, the lane is blocked."""
        if self._sockets_full:
            self._scheduler.block(lane)
            self._held_back.append(lane)
            return False
        if peer.bucket is not None:
            ready = peer.bucket.ready_at(now, peer.largest_datagram)
            if ready > now:
                self._leave_uplink(peer)
                self._scheduler.block(lane, ready)
                return False
        if self._uplink is not None and not self._uplink.admits(peer, now):
            self._scheduler.block(lane)
            return False
        return True

    def _rest(self, peer: Peer) -> None:
        self._leave_uplink(peer)
        self._scheduler.rest(peer.seal_lane)

    def _leave_uplink(self, peer: Peer) -> None:
        if self._uplink is not None:
            self._uplink.leave(peer)

    def _follow_uplink(self, now: Nanos) -> None:
        """Let the lane go on that is the first in the uplink's line."""
        lane = None if self._uplink is None or self._sockets_full else self._uplink.first(now)
        if lane is not None:
            self._scheduler.unblock(lane)

    def _seal_control(self, now: Nanos) -> None:
        """Control goes at once, whatever the rate; it is on the bill all the same."""
        for peer in self._control.values():
            sent, datagrams = self._outbox.bytes, self._outbox.datagrams
            while peer.control:
                self._sealer.seal_frames(peer, peer.control.popleft())
            size, datagrams = self._outbox.bytes - sent, self._outbox.datagrams - datagrams
            if peer.bucket is not None:
                peer.bucket.spend(now, size, datagrams)
            if self._uplink is not None:
                self._uplink.bucket.spend(now, size, datagrams)
        self._control.clear()

    def _pay(self, peer: Peer, now: Nanos, size: int, datagrams: int) -> None:
        if peer.bucket is not None:
            peer.bucket.spend(now, size, datagrams)
        if self._uplink is not None:
            self._uplink.spend(peer, now, size, datagrams)
