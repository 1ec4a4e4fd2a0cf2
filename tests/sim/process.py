"""One run of the program on one host: a core (`Node`, or `Joiner` before it), a data plane, and what carries
values between them. It does in virtual time what the edge's runner does in real time, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from meshnode.dataplane.api import Batch, TunPacket
from meshnode.dataplane.plane import Plane
from meshnode.values import (
    MILLISECOND,
    AdmitPeer,
    Command,
    Datagram,
    InstallSession,
    LimitRate,
    Nanos,
    Now,
    Opened,
    Output,
    Path,
    ProvePaths,
    RemovePeer,
    RetireSession,
    SendFrames,
    TrafficNote,
    Transmit,
    Unsendable,
    UsePath,
    UseSession,
)
from tests.sim.invariants import Broken

COMMANDS = (
    AdmitPeer,
    InstallSession,
    LimitRate,
    ProvePaths,
    RemovePeer,
    RetireSession,
    UsePath,
    UseSession,
)
"""The members of `values.DataPlaneCommand`."""

DATA = 4
"""The first byte of a sealed datagram: those go to the data plane, all others to the core."""

WORK_BUDGET: Nanos = 1 * MILLISECOND
ROUNDS = 1000


class Core(Protocol):
    """The verbs of `Node` and `Joiner`."""

    def handle_datagram(self, data: bytes, path: Path, now: Now) -> None: ...
    def handle_frames(self, opened: Opened, now: Now) -> None: ...
    def handle_traffic(self, notes: Sequence[TrafficNote | Unsendable], now: Now) -> None: ...
    def handle_command(self, command: Command, now: Now) -> None: ...
    def handle_timeout(self, now: Now) -> None: ...
    def poll_timeout(self) -> tuple[Nanos, str] | None: ...
    def poll_transmit(self) -> Transmit | None: ...
    def poll_event(self) -> Output | None: ...


class Process:
    """A running node. `send_batch` and `send` put datagrams on the network, `deliver` gives packets to the
    TUN.

    `told` gets what is meant for the edge and the operator.
    """

    def __init__(
        self,
        name: str,
        core: Core,
        plane: Plane,
        clock: Callable[[], Now],
        send: Callable[[Path, bytes, int], None],
        deliver: Callable[[bytes], None],
        told: Callable[[Output], None],
    ) -> None:
        self.name = name
        self.core = core
        self.plane = plane
        self.wakeups = 0
        self._clock = clock
        self._send = send
        self._deliver = deliver
        self._told = told

    def receive(self, data: bytes, path: Path, ecn: int) -> None:
        """A datagram has come."""
        now = self._clock()
        if data[:1] == bytes((DATA,)):
            self.plane.push_datagrams([Datagram(bytearray(data), path, now.boot, ecn)], now)
        else:
            self.core.handle_datagram(data, path, now)
        self.settle()

    def write_tun(self, packet: bytes) -> None:
        """An application has sent an inner packet."""
        self.plane.push_packets([TunPacket(b"", packet)], self._clock())
        self.settle()

    def command(self, command: Command) -> None:
        """The operator or the machine says something."""
        self.core.handle_command(command, self._clock())
        self.settle()

    def wake(self) -> None:
        """A deadline has come. After it the next one must be ahead: a node that wakes for nothing would spin."""
        self.wakeups += 1
        now = self._clock()
        due = self.core.poll_timeout()
        if due is not None and due[0] <= now.boot:
            self.core.handle_timeout(now)
            again = self.core.poll_timeout()
            if again is not None and again[0] <= now.boot:
                raise Broken(f"{self.name} is due again at once: {again[1]}")
        self.settle()

    def deadline(self) -> Nanos | None:
        """The earliest time, by boot time, at which `wake` has to be called."""
        due = self.core.poll_timeout()
        times = [due[0]] if due is not None else []
        plane_due = self.plane.poll_timeout()
        if plane_due is not None:
            times.append(plane_due)
        return min(times, default=None)

    def settle(self) -> None:
        """Carry values back and forth until nothing moves any more. That takes no time at all here."""
        for _ in range(ROUNDS):
            moved = self._drain_core()
            if not self._drain_plane() and not moved:
                return
        raise Broken(f"{self.name} does not come to rest")

    def _drain_core(self) -> bool:
        moved = False
        while (transmit := self.core.poll_transmit()) is not None:
            moved = True
            self._send(transmit.path, bytes(transmit.data), 0)
        while (output := self.core.poll_event()) is not None:
            moved = True
            if isinstance(output, SendFrames):
                self.plane.send_frames(output, self._clock())
            elif isinstance(output, COMMANDS):
                self.plane.apply(output, self._clock())
            else:
                self._told(output)
        return moved

    def _drain_plane(self) -> bool:
        now = self._clock()
        busy = self.plane.work(now, WORK_BUDGET)
        batches = self.plane.take_datagrams()
        packets = self.plane.take_packets()
        opened = self.plane.take_opened()
        notes = self.plane.take_notes()
        for batch in batches:
            self._send_batch(batch)
        for packet in packets:
            self._deliver(_joined(packet))
        for each in opened:
            self.core.handle_frames(each, now)
        if notes:
            self.core.handle_traffic(notes, now)
        return bool(busy or batches or packets or opened or notes)

    def _send_batch(self, batch: Batch) -> None:
        for datagram in batch.datagrams():
            self._send(batch.path, bytes(datagram), batch.dscp_ecn & 3)


def _joined(packet: TunPacket) -> bytes:
    return b"".join(packet.data) if isinstance(packet.data, list) else bytes(packet.data)
