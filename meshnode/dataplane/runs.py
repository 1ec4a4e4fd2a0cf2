"""What waits to be opened: sealed datagrams of one session and flow tag that one socket read brought, in
order.

With UDP_GRO one read holds dozens of datagrams. As long as their headers agree in all but the counter they
are one element of the queue, so that the work of queueing is done once for all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from meshnode.dataplane.session import Session
from meshnode.dataplane.sources import Source
from meshnode.values import Datagram, Ecn, Nanos, Path
from meshnode.wire.header import DATA_HEADER, FLAG_ECN, MINIMUM_DATA, MessageType

SAME_HEADER = 8
"""Type, flags, tag and receiver index: the bytes that the headers of a run have in common."""

_DATA = int(MessageType.DATA)


class Run:
    """Datagrams of `step` bytes at `start` up to `end` of `data`; the last may be shorter. `flags` is their
    header's."""

    __slots__ = (
        "arrived",
        "count",
        "data",
        "ecn",
        "end",
        "flags",
        "path",
        "session",
        "size",
        "source",
        "start",
        "step",
    )

    def __init__(
        self, session: Session, datagram: Datagram, start: int, end: int, step: int, flags: int
    ) -> None:
        self.session = session
        self.data = datagram.data
        self.path: Path = datagram.path
        self.arrived: Nanos = datagram.arrived
        self.ecn = datagram.ecn
        self.start = start
        self.end = end
        if (end - start) * 2 < len(datagram.data):
            # What waits must not keep alive a whole read of which the rest was dropped, or the memory cap would lie.
            self.data = bytes(datagram.data[start:end])
            self.start, self.end = 0, end - start
        self.step = step
        self.size = end - start
        self.count = -(-self.size // step)
        self.source: Source | None = None
        self.flags = flags

    def mark(self) -> bool:
        """CoDel signals: if the header says that the inner packets can be marked, act as if the outer one
        were."""
        if not self.flags & FLAG_ECN:
            return False
        self.ecn = int(Ecn.CE)
        return True


def cut_runs(
    datagram: Datagram, sessions: Mapping[int, Session], counters: Counter[str]
) -> Iterator[tuple[Run, int]]:
    """The runs of one socket read and their tags. What cannot be for us is counted and left out.

    Length, type, index and the replay pre-check of the first datagram: no more than a look at the header is
    spent here.
    """
    data, end = datagram.data, len(datagram.data)
    step = datagram.segment_size or end
    runt = end % step if end else 0
    if step < MINIMUM_DATA or 0 < runt < MINIMUM_DATA:
        counters["in length"] += 1
        end = end - runt if step >= MINIMUM_DATA else 0
    at = 0
    while at < end:
        start, at = at, at + step
        kind, flags, tag, index, counter = DATA_HEADER.unpack_from(data, start)
        session = sessions.get(index)
        if kind != _DATA or session is None:
            counters["in type" if kind != _DATA else "in index"] += 1
        elif not session.window.check(counter):
            counters["in replay"] += 1
        else:
            head = data[start : start + SAME_HEADER]
            while at < end and data[at : at + SAME_HEADER] == head:
                at += step
            yield Run(session, datagram, start, min(at, end), step, flags), tag
