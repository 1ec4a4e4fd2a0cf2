"""What the data plane holds of one peer: its sessions, its path, and a queue in front of each crypto step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum

from meshnode.dataplane.flow_tags import FlowTags
from meshnode.dataplane.fragments import Reassembly, ReassemblyLimits
from meshnode.dataplane.runs import Run
from meshnode.dataplane.session import Session
from meshnode.dataplane.source_check import SourceCheck
from meshnode.dataplane.sources import Sources
from meshnode.dataplane.trains import Train
from meshnode.queueing.fifo import Fifo
from meshnode.queueing.fq_codel import FqCodel
from meshnode.queueing.scheduler import Lane
from meshnode.queueing.shaper import TokenBucket
from meshnode.values import Nanos, Path, PathKind, PeerId, SendFrames
from meshnode.wire.header import DATA_HEADER_SIZE, TAG_SIZE, TRANSMIT_TIME_SIZE

SEAL_OVERHEAD = DATA_HEADER_SIZE + TRANSMIT_TIME_SIZE + TAG_SIZE
"""Bytes of a datagram that are not frames."""

SEGMENT_OVERHEAD = 8
"""Frame header, index and size of a segment: what is told to TCP leaves room for them, so that its trains
fit."""

IPV4_UDP, IPV6_UDP = 28, 48
_IPV6_TCP = 74
"""IPv6, TCP with timestamps, the length prefix."""
_RELAY = IPV6_UDP + SEAL_OVERHEAD + 4 + 36
"""The relay frame and the datagram that carries it (docs/protocol.md, frame 7)."""


def path_overhead(path: Path) -> int:
    """Bytes of headers below a datagram on `path`, IP included."""
    if path.kind is PathKind.UDP:
        return IPV6_UDP if ":" in path.remote.host else IPV4_UDP
    return _IPV6_TCP if path.kind is PathKind.TCP else _RELAY


class Direction(Enum):
    """The two lines of the mill."""

    OUT = "out"
    IN = "in"


class Peer:
    """One peer. Changed by `Plane.apply` and by the two directions of the mill, each in its own fields."""

    __slots__ = (
        "admitted",
        "bucket",
        "check",
        "control",
        "ecn",
        "held_since",
        "id",
        "inner_mtu",
        "interval",
        "next_fragment",
        "open_lane",
        "path",
        "ports",
        "proven",
        "queue",
        "queue_in",
        "reassembly",
        "received_bytes",
        "received_packets",
        "room",
        "seal_lane",
        "sealed_at",
        "sent_bytes",
        "sent_packets",
        "session",
        "sessions",
        "sources",
        "tags",
        "unsendable_at",
    )

    def __init__(
        self,
        id: PeerId,
        lanes: Callable[[Peer, Direction], Lane],
        check: SourceCheck,
        queue: FqCodel[Train] | Fifo[Train],
        queue_in: FqCodel[Run] | Fifo[Run],
        tags: FlowTags,
        reassembly: ReassemblyLimits,
    ) -> None:
        self.id = id
        self.check = check
        self.admitted = False  # a member, not merely somebody with a session
        self.sessions: dict[int, Session] = {}
        self.session: Session | None = None  # the one that seals
        self.path: Path | None = None
        self.room = 0  # bytes of frames in one datagram
        self.inner_mtu = 0  # the packet size that we tell others to use
        self.ecn = True
        self.interval: Nanos = 0
        self.proven: tuple[Path, ...] = ()
        self.ports: tuple[
            Path, ...
        ] = ()  # the path in use from each of our ports, where flows are spread over them
        self.sources = Sources()
        self.sealed_at: Nanos = 0
        self.queue = queue
        self.queue_in = queue_in
        self.seal_lane = lanes(self, Direction.OUT)
        self.open_lane = lanes(self, Direction.IN)
        self.bucket: TokenBucket | None = None
        self.control: deque[SendFrames] = deque()
        self.tags = tags
        self.reassembly = Reassembly(reassembly)
        self.next_fragment = 0
        self.held_since: Nanos | None = None
        self.unsendable_at: Nanos | None = None
        self.sent_packets = self.sent_bytes = 0
        self.received_packets = self.received_bytes = 0

    @property
    def is_up(self) -> bool:
        """Whether user traffic can leave now."""
        return self.session is not None and self.path is not None

    @property
    def largest_datagram(self) -> int:
        """Bytes of the largest datagram that the path takes."""
        return self.room + SEAL_OVERHEAD

    def use_path(self, path: Path | None, mtu: int, tun_mtu: int) -> None:
        """Send over `path` from now on, in IP packets of at most `mtu` bytes."""
        self.path = path
        overhead = IPV6_UDP if path is None else path_overhead(path)
        self.room = 0 if path is None else mtu - overhead - SEAL_OVERHEAD
        self.inner_mtu = max(0, min(tun_mtu, self.room - SEGMENT_OVERHEAD))
        if self.bucket is not None:
            self.bucket.overhead = overhead

    def spread_ports(self) -> None:
        """Flows may leave from every port of ours that was proven to reach the address in use."""
        path = self.path
        same = [
            p for p in self.proven if path is not None and p.remote == path.remote and p.kind is path.kind
        ]
        self.ports = tuple(sorted(same, key=lambda p: p.local)) if len(same) > 1 else ()

    def limit_rate(self, bits_per_second: int | None, now: Nanos) -> None:
        """Shape what leaves for this peer, from now on."""
        if bits_per_second is None:
            self.bucket = None
        elif self.bucket is None:
            overhead = IPV6_UDP if self.path is None else path_overhead(self.path)
            self.bucket = TokenBucket(bits_per_second, now=now, overhead=overhead)
        else:
            self.bucket.set_rate(bits_per_second, now)
