"""The mill task: one loop that reads all descriptors, lets core and data plane work, and writes what they give.

It owns the core, so nothing needs a lock. One turn drains the descriptors (bounded), spends about a millisecond on
crypto, and makes one checkpoint; a turn that found nothing to do parks on one epoll descriptor that stands for all.
A Trio call per packet would cost more than the packet (docs/decisions/0003-mill.md).
"""

from __future__ import annotations

import os
import select
import socket
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

import trio

from meshnode.dataplane.api import Batch, TunPacket
from meshnode.dataplane.plane import Plane
from meshnode.dataplane.trains import split_superpacket
from meshnode.dataplane.vnet import Offload
from meshnode.edge import clock
from meshnode.edge.errors import EdgeError
from meshnode.edge.tun import OffloadRefused, Tun
from meshnode.edge.udp import UdpSocket
from meshnode.proto.path_quality import IPV4_UDP, IPV6_UDP
from meshnode.values import (
    MILLISECOND,
    SECOND,
    AdmitPeer,
    Command,
    Datagram,
    DataPlaneCommand,
    Event,
    InstallSession,
    LimitRate,
    LinkChanged,
    Nanos,
    Now,
    Opened,
    Output,
    Path,
    PathKind,
    ProvePaths,
    RemovePeer,
    RetireSession,
    SendFrames,
    TooBig,
    TrafficNote,
    Transmit,
    Unsendable,
    UsePath,
    UseSession,
)
from meshnode.wire.header import MessageType

TURN: Nanos = MILLISECOND
"""What one turn may spend on sealing and opening."""

READS = 64
"""Socket and TUN reads a turn."""

SEND_TIME: Nanos = 2 * MILLISECOND
SIZING_INTERVAL: Nanos = 250 * MILLISECOND
KERNEL_OVERHEAD = 2
"""The kernel counts a datagram of 1,400 bytes as 2,304 (truesize)."""
LEAST_SEND_BUFFER = 18 * 1024
"""At a slow local link this is what stands below us; the kernel lets one train pass whatever it is."""

NOTES_EVERY: Nanos = 5 * MILLISECOND
"""The core hears of traffic this often while there is some: its timers are a thousand times longer."""

PENDING_BATCHES = 64
"""Sealed batches kept for a full socket; more are given up, for what is older than that is not worth sending."""

_COMMANDS = (
    InstallSession,
    UseSession,
    RetireSession,
    UsePath,
    ProvePaths,
    AdmitPeer,
    RemovePeer,
    LimitRate,
)


class Core(Protocol):
    """What `Node` and `Joiner` have in common."""

    def handle_datagram(self, data: bytes, path: Path, now: Now) -> None: ...
    def handle_frames(self, opened: Opened, now: Now) -> None: ...
    def handle_traffic(self, notes: list[TrafficNote | Unsendable], now: Now) -> None: ...
    def handle_command(self, command: Command, now: Now) -> None: ...
    def handle_timeout(self, now: Now) -> None: ...
    def poll_timeout(self) -> tuple[Nanos, str] | None: ...
    def poll_transmit(self) -> Transmit | None: ...
    def poll_event(self) -> Output | None: ...


class Mill:
    """Runs one core over one data plane, the UDP sockets and (for a node) the TUN. `on_event` gets the core's events.

    `lost` is set when the TUN was taken away from us.
    """

    def __init__(
        self,
        core: Core,
        plane: Plane,
        sockets: list[UdpSocket],
        tun: Tun | None,
        on_event: Callable[[Event], None],
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.turns = 0
        self.lost: EdgeError | None = None
        self._core = core
        self._plane = plane
        self._sockets = sockets
        self._by_path = {(s.family, s.local): s for s in sockets}
        self._tun = tun
        self._on_event = on_event
        self._commands: deque[Command] = deque()
        self._unsent: dict[UdpSocket, deque[tuple[Batch, int]]] = {s: deque() for s in sockets}
        self._watch = clock.ClockWatch(clock.now())
        self._noted: Nanos = 0
        self._told = 0
        self._sent_bytes = 0
        self._sized_at: Nanos = clock.boot()
        self._send_buffer = LEAST_SEND_BUFFER
        for udp in sockets:
            udp.set_send_buffer(LEAST_SEND_BUFFER)
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        for descriptor in (self._wakeup, *(s.fileno() for s in sockets)):
            self._epoll.register(descriptor, select.EPOLLIN)
        if tun is not None:
            self._epoll.register(tun.fileno(), select.EPOLLIN)

    def command(self, command: Command) -> None:
        """Hand a command to the core in its next turn."""
        self._commands.append(command)
        self.wake()

    def wake(self) -> None:
        """Let the loop look around: its core was changed, or a command waits."""
        os.eventfd_write(self._wakeup, 1)

    async def run(self) -> None:
        """Until cancelled, or until the TUN is gone."""
        while self.lost is None:
            busy = self.turn()
            if busy:
                await trio.lowlevel.checkpoint()
            else:
                await self.park()

    def turn(self) -> bool:
        """One turn without waiting; whether there may be more to do at once."""
        self.turns += 1
        now = clock.now()
        busy = self._read(now)
        self._serve_core(now)
        busy |= self._plane.work(now, TURN, clock.boot)
        busy |= self._follow_plane(clock.now(), notes=not busy)
        self._size_send_buffers(now)
        return busy or bool(self._commands)

    def flush(self) -> None:
        """Send what the core has to say now (a goodbye), as far as the sockets take it."""
        now = clock.now()
        self._drain_core(now)
        self._plane.work(now, 10 * TURN, clock.boot)
        self._follow_plane(now, notes=True)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._wakeup)

    # --- reading --------------------------------------------------------------------------------------------------

    def _read(self, now: Now) -> bool:
        """Drain sockets and TUN into the queues. Whether one may have more: a batch that is not full was all."""
        busy = False
        for udp in self._sockets:
            datagrams = udp.receive_batch(READS)
            if datagrams:
                busy |= len(datagrams) == READS
                self._sort(datagrams, now)
        if self._tun is not None:
            try:
                packets = self._tun.read_batch(READS)
            except EdgeError as error:
                self.lost = error
                return False
            if packets:
                busy |= len(packets) == READS
                self._plane.push_packets(packets, now)
        return busy

    def _sort(self, datagrams: list[Datagram], now: Now) -> None:
        """Data to the plane, handshakes to the core. One GRO buffer may hold both: sizes decide there, not types."""
        data = []
        for datagram in datagrams:
            if len(datagram.data) and datagram.data[0] == MessageType.DATA:
                data.append(datagram)
                continue
            whole = memoryview(datagram.data)
            size = datagram.segment_size or max(len(whole), 1)
            for at in range(0, len(whole), size):
                self._core.handle_datagram(bytes(whole[at : at + size]), datagram.path, now)
        if data:
            self._plane.push_datagrams(data, now)

    # --- the core -------------------------------------------------------------------------------------------------

    def _serve_core(self, now: Now) -> None:
        while self._commands:
            self._core.handle_command(self._commands.popleft(), now)
        for event in self._watch.observe(now):
            if isinstance(event, clock.Suspended):
                self._core.handle_command(LinkChanged(), now)
        deadline = self._core.poll_timeout()
        if deadline is not None and deadline[0] <= now.boot:
            self._core.handle_timeout(now)
        self._drain_core(now)

    def _drain_core(self, now: Now) -> bool:
        """Carry out everything that the core has decided. Whether that gives the data plane something to do."""
        before = self._told
        while (transmit := self._core.poll_transmit()) is not None:
            self._send_handshake(transmit)
        while (output := self._core.poll_event()) is not None:
            if isinstance(output, SendFrames):
                self._told += 1
                self._plane.send_frames(output, now)
            elif isinstance(output, _COMMANDS):
                self._told += 1
                command: DataPlaneCommand = output
                self._plane.apply(command, now)
            else:
                self._on_event(output)
        return self._told != before

    def _follow_plane(self, now: Now, notes: bool) -> bool:
        """Hand on what the plane has made: datagrams, packets, frames for the core; notes now and then.

        Whether the core has answered with something for the plane: then the next turn must not wait.
        """
        self._write(self._plane.take_datagrams(), self._plane.take_packets())
        for opened in self._plane.take_opened():
            self._core.handle_frames(opened, now)
        if notes or now.boot - self._noted >= NOTES_EVERY:
            self._noted = now.boot
            taken = self._plane.take_notes()
            if taken:
                self._core.handle_traffic(taken, now)
        return self._drain_core(now)

    # --- writing --------------------------------------------------------------------------------------------------

    def _send_handshake(self, transmit: Transmit) -> None:
        udp = self._socket(transmit.path)
        if udp is None or not udp.send_one(transmit.path, transmit.data).done:
            self.counters["handshake unsent"] += 1

    def _write(self, batches: list[Batch], packets: list[TunPacket]) -> None:
        for udp, waiting in self._unsent.items():
            if waiting:
                self._retry(udp, waiting)
        for batch in batches:
            out = self._socket(batch.path)
            if out is None:
                self.counters["no socket"] += 1
                continue
            waiting = self._unsent[out]
            done, error = (0, None) if waiting else out.send(batch)
            if error == "too_big":
                outer = batch.segment_size + (IPV6_UDP if out.family == socket.AF_INET6 else IPV4_UDP)
                self._commands.append(TooBig(batch.peer, batch.path, outer))
            if done < batch.datagram_count:
                self._keep(out, waiting, batch, done)
            self._sent_bytes += len(batch.data)
        if self._tun is not None:
            for packet in packets:
                self._write_packet(self._tun, packet)

    def _keep(self, udp: UdpSocket, waiting: deque[tuple[Batch, int]], batch: Batch, done: int) -> None:
        """The socket is full: nothing more is sealed until it has room, so that packets wait where an AQM is."""
        if len(waiting) >= PENDING_BATCHES:
            self.counters["socket full"] += batch.datagram_count
            return
        if not waiting:
            self._epoll.modify(udp.fileno(), select.EPOLLIN | select.EPOLLOUT)
            self._plane.hold_back(True)
            self.counters["socket busy"] += 1
        waiting.append((batch, done))

    def _retry(self, udp: UdpSocket, waiting: deque[tuple[Batch, int]]) -> None:
        while waiting:
            batch, start = waiting[0]
            done = udp.send(batch, start).done
            if done < batch.datagram_count:
                waiting[0] = (batch, done)
                return
            waiting.popleft()
        self._epoll.modify(udp.fileno(), select.EPOLLIN)
        if not any(self._unsent.values()):
            self._plane.hold_back(False)

    def _size_send_buffers(self, now: Now) -> None:
        """What may wait below us is 2 ms at the rate of the last second, so that the queue stays ours."""
        elapsed = now.boot - self._sized_at
        if elapsed < SIZING_INTERVAL:
            return
        rate = self._sent_bytes * SECOND // elapsed
        self._sent_bytes, self._sized_at = 0, now.boot
        wanted = max(LEAST_SEND_BUFFER, KERNEL_OVERHEAD * rate * SEND_TIME // SECOND)
        if not self._send_buffer // 2 < wanted < self._send_buffer * 2:
            self._send_buffer = wanted
            for udp in self._sockets:
                udp.set_send_buffer(wanted)

    def _write_packet(self, tun: Tun, packet: TunPacket) -> None:
        try:
            tun.write(packet)
        except OffloadRefused:
            self._do_without_offload(tun, packet)
        except EdgeError as error:
            self.lost = error

    def _do_without_offload(self, tun: Tun, packet: TunPacket) -> None:
        """The kernel refuses a superpacket: write its pieces, and no superpackets from now on."""
        self.counters["tun offload refused"] += 1
        tun.set_offload(False)
        self._plane.set_offload(Offload(headers=True))
        for piece in split_superpacket(packet):
            try:
                tun.write(piece)
            except OffloadRefused:
                self.counters["tun refused"] += 1

    def _socket(self, path: Path) -> UdpSocket | None:
        if path.kind is not PathKind.UDP:
            return None
        family = socket.AF_INET6 if ":" in path.remote.host else socket.AF_INET
        return self._by_path.get((family, path.local))

    # --- waiting --------------------------------------------------------------------------------------------------

    async def park(self) -> None:
        """Wait for a descriptor or a deadline, at most a second: only clocks tell of a suspend."""
        deadlines = [self._plane.poll_timeout()]
        core = self._core.poll_timeout()
        deadlines.append(core[0] if core is not None else None)
        due = min((d for d in deadlines if d is not None), default=None)
        with trio.move_on_at(clock.trio_deadline(due, clock.boot())):
            await trio.lowlevel.wait_readable(self._epoll.fileno())
        try:
            os.eventfd_read(self._wakeup)
        except BlockingIOError:
            pass  # something else woke us
