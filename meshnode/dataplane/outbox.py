"""Sealed datagrams on their way to the sockets: equal-sized runs for one path become one batch (UDP_SEGMENT)."""

from __future__ import annotations

from meshnode.dataplane.api import Batch
from meshnode.values import Path, PeerId

MAX_SEGMENTS = 64
"""Datagrams in one send: UDP_MAX_SEGMENTS before Linux 6.9."""

MAX_BATCH_BYTES = 65_000
"""A UDP superpacket is an IP packet to the kernel: 65,535 bytes with its headers."""


class _Run:
    """A batch that may still grow: datagrams of one size, up to a shorter one that ends it."""

    __slots__ = ("bytes", "closed", "datagrams", "dscp_ecn", "label", "path", "peer", "segment_size")

    def __init__(self, peer: PeerId, path: Path, datagram: bytearray, dscp_ecn: int, label: int) -> None:
        self.peer = peer
        self.path = path
        self.dscp_ecn = dscp_ecn
        self.label = label
        self.datagrams = [datagram]
        self.segment_size = self.bytes = len(datagram)
        self.closed = False

    def batch(self) -> Batch:
        data = self.datagrams[0] if len(self.datagrams) == 1 else b"".join(self.datagrams)
        return Batch(self.peer, self.path, data, self.segment_size, self.dscp_ecn, self.label)


class Outbox:
    """Collects what was sealed since the last `take`, in order. `bytes` and `datagrams` count all that ever came."""

    __slots__ = ("_batches", "_last", "bytes", "datagrams")

    def __init__(self) -> None:
        self._batches: list[Batch | _Run] = []
        self._last: _Run | None = None
        self.bytes = self.datagrams = 0

    def add(
        self, peer: PeerId, path: Path, datagram: bytearray, dscp_ecn: int, label: int, alone: bool = False
    ) -> None:
        """One datagram; it joins the one before if one send can carry both.

        `alone`: it stays by itself. A router drops a whole superpacket of the kernel's when one segment is too long for
        the next link, so a probe of the path MTU must take nothing else with it.
        """
        size = len(datagram)
        self.bytes += size
        self.datagrams += 1
        run = self._last
        if alone:
            self._last = None
            self._batches.append(_Run(peer, path, datagram, dscp_ecn, label))
            return
        if (
            run is not None
            and not run.closed
            and size <= run.segment_size
            and run.path is path
            and run.peer == peer
            and run.dscp_ecn == dscp_ecn
            and run.label == label
            and len(run.datagrams) < MAX_SEGMENTS
            and run.bytes + size <= MAX_BATCH_BYTES
        ):
            run.datagrams.append(datagram)
            run.bytes += size
            run.closed = size < run.segment_size
            return
        self._last = run = _Run(peer, path, datagram, dscp_ecn, label)
        self._batches.append(run)

    def add_batch(self, batch: Batch) -> None:
        """A whole train."""
        self._last = None
        self.bytes += len(batch.data)
        self.datagrams += batch.datagram_count
        self._batches.append(batch)

    def take(self) -> list[Batch]:
        """Everything, in order."""
        batches = [item if isinstance(item, Batch) else item.batch() for item in self._batches]
        self._batches.clear()
        self._last = None
        return batches
