"""What the edge and the simulator may ask of a data plane. Batch-shaped and small, so that a native mill can
stand in.

A data plane does no I/O and reads no clock. It owns the transport keys, the counters and the queues; it
decides nothing about peers, sessions or paths, but carries out `DataPlaneCommand`s and tells back what it
saw. One turn of its owner:

    plane.push_packets(read from the TUN); plane.push_datagrams(read from the sockets)
    plane.work(now, budget)                    # seal and open for about `budget` nanoseconds
    for batch in plane.take_datagrams(): ...   # to the sockets
    for packet in plane.take_packets(): ...    # to the TUN
    node.handle_frames(...) for each of plane.take_opened(); node.handle_traffic(plane.take_notes(), now)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from meshnode.values import (
    Datagram,
    DataPlaneCommand,
    Nanos,
    Now,
    Opened,
    Path,
    PeerId,
    SendFrames,
    TrafficNote,
    Unsendable,
)


class Batch(NamedTuple):
    """Sealed datagrams for one path, in order, back to back in one buffer that now belongs to the taker.

    Each has `segment_size` bytes, but the last may be shorter: the shape that UDP_SEGMENT sends with one call
    (at most 64 datagrams and 65,000 bytes). `dscp_ecn` is the outer TOS/traffic class byte, `label` the
    20-bit IPv6 flow label (0: none).
    """

    peer: PeerId
    path: Path
    data: bytes | bytearray | memoryview
    segment_size: int
    dscp_ecn: int
    label: int

    @property
    def datagram_count(self) -> int:
        """How many datagrams these are."""
        return -(-len(self.data) // self.segment_size)

    def datagrams(self) -> list[memoryview]:
        """The datagrams one by one: for a path or a kernel without UDP_SEGMENT."""
        view = memoryview(self.data)
        return [view[at : at + self.segment_size] for at in range(0, len(view), self.segment_size)]


class TunPacket(NamedTuple):
    """What one TUN read gave or one TUN write takes: `header` is the virtio-net header (empty without
    offload).

    `data` is one buffer or a list of buffers for one `writev` (a joined superpacket). The data plane keeps
    what it is given until it is sealed, so every read needs a buffer of its own; it never writes into it.
    """

    header: bytes
    data: bytes | bytearray | memoryview | list[bytes | bytearray | memoryview]


class QueueStatus(NamedTuple):
    """The state of one fq_codel instance; sojourn percentiles in nanoseconds."""

    backlog_packets: int
    backlog_bytes: int
    flows: int
    drops: int
    marks: int
    sojourn_p50: Nanos
    sojourn_p95: Nanos
    sojourn_p99: Nanos


class PeerStatus(NamedTuple):
    """What the plane knows of one peer, for `status`."""

    queue: QueueStatus
    queue_in: QueueStatus
    sent_packets: int
    sent_bytes: int
    received_packets: int
    received_bytes: int


class NextHop(Protocol):
    """Answers which peer an inner destination belongs to, from memory (`dataplane/next_hops.py`)."""

    def lookup(self, destination: bytes) -> PeerId | None: ...


class DataPlane(Protocol):
    """See the module docstring. Methods never raise on what a peer or a local program sent."""

    counters: Counter[str]

    def apply(self, command: DataPlaneCommand, now: Now) -> None: ...
    def send_frames(self, frames: SendFrames, now: Now) -> None: ...
    def push_packets(self, packets: Sequence[TunPacket], now: Now) -> None: ...
    def push_datagrams(self, datagrams: Sequence[Datagram], now: Now) -> None: ...
    def work(self, now: Now, budget: Nanos, clock: Callable[[], Nanos] | None = None) -> bool: ...
    def poll_timeout(self) -> Nanos | None: ...
    def hold_back(self, full: bool) -> None: ...
    def take_datagrams(self) -> list[Batch]: ...
    def take_packets(self) -> list[TunPacket]: ...
    def take_opened(self) -> list[Opened]: ...
    def take_notes(self) -> list[TrafficNote | Unsendable]: ...
    def status(self, peer: PeerId) -> PeerStatus | None: ...
