"""Fragmentation inside the tunnel, for packets that may neither be refused nor fit (docs/protocol.md, frame
8).

Whoever sends fragments can make us keep what never completes, so everything is bounded: packets in progress,
bytes, pieces and time. A piece that overlaps another spoils its packet (as RFC 5722 has it): there is no
honest reason for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from meshnode.values import SECOND, BadPacket, Ecn, Nanos
from meshnode.wire.frames import FRAME_HEADER, Fragment, FrameType

FRAGMENT_OVERHEAD = FRAME_HEADER.size + 9
"""Bytes of frame header and fragment header before the piece."""

FRAGMENT = int(FrameType.FRAGMENT)


@dataclass(frozen=True, slots=True)
class ReassemblyLimits:
    """What one peer may make us keep: unfinished packets, their bytes, pieces of one packet, and for how
    long."""

    packets: int = 32
    size: int = 256 * 1024
    pieces: int = 256
    lifetime: Nanos = 5 * SECOND


def fragment_frames(
    packet: bytes | bytearray | memoryview, id: int, room: int, flags: int
) -> Iterator[bytes]:
    """The fragment frames of `packet`, each of at most `room` bytes, which must exceed FRAGMENT_OVERHEAD."""
    size = room - FRAGMENT_OVERHEAD
    if size <= 0:
        raise ValueError(f"a fragment does not fit into {room} bytes")
    total = len(packet)
    for offset in range(0, total, size):
        body = Fragment(id, offset, total, flags, bytes(packet[offset : offset + size])).pack()
        yield FRAME_HEADER.pack(FRAGMENT, 0, len(body)) + body


class Reassembled:
    """A packet that is whole again: its bytes, the flags of its fragments and the worst outer ECN any of them
    had."""

    __slots__ = ("ecn", "flags", "packet")

    def __init__(self, packet: bytes, flags: int, ecn: int) -> None:
        self.packet = packet
        self.flags = flags
        self.ecn = ecn


class _Puzzle:
    """One unfinished packet."""

    __slots__ = ("ecn", "expires", "flags", "pieces", "size", "total")

    def __init__(self, total: int, flags: int, expires: Nanos) -> None:
        self.total = total
        self.flags = flags
        self.expires = expires
        self.pieces: dict[int, bytes] = {}
        self.size = 0
        self.ecn = int(Ecn.NOT_ECT)

    def overlaps(self, offset: int, end: int) -> bool:
        return any(offset < start + len(data) and start < end for start, data in self.pieces.items())


class Reassembly:
    """Puts the fragments of one peer together again. `size` is the memory in use."""

    __slots__ = ("_limits", "_puzzles", "size")

    def __init__(self, limits: ReassemblyLimits) -> None:
        self._limits = limits
        self._puzzles: dict[int, _Puzzle] = {}  # in the order of their first fragment, so of their expiry
        self.size = 0

    def __len__(self) -> int:
        """Packets that are not complete."""
        return len(self._puzzles)

    def add_untrusted(self, fragment: Fragment, ecn: int, now: Nanos) -> Reassembled | None:
        """One more piece, whose datagram had the outer bits `ecn`; the packet, if this completes it.

        Raises BadPacket for a piece that contradicts others of its packet, which is then forgotten.
        """
        self.expire(now)
        puzzle = self._puzzles.get(fragment.id)
        if puzzle is None:
            self._make_room()
            puzzle = _Puzzle(fragment.total, fragment.flags, now + self._limits.lifetime)
            self._puzzles[fragment.id] = puzzle
        if puzzle.pieces.get(fragment.offset) == fragment.data:
            return None  # the network may duplicate datagrams, but the replay window stops those: harmless anyway
        end = fragment.offset + len(fragment.data)
        if (
            fragment.total != puzzle.total
            or fragment.flags != puzzle.flags
            or len(puzzle.pieces) >= self._limits.pieces
            or puzzle.overlaps(fragment.offset, end)
        ):
            self._forget(fragment.id)
            raise BadPacket("fragment overlap")
        puzzle.pieces[fragment.offset] = fragment.data
        puzzle.size += len(fragment.data)
        puzzle.ecn = max(puzzle.ecn, ecn)
        self.size += len(fragment.data)
        if puzzle.size == puzzle.total:
            self._forget(fragment.id)
            packet = b"".join(data for _, data in sorted(puzzle.pieces.items()))
            return Reassembled(packet, puzzle.flags, puzzle.ecn)
        while self.size > self._limits.size:
            self._forget(next(iter(self._puzzles)))
        return None

    def expire(self, now: Nanos) -> int:
        """Forget what is too old; how many packets that were."""
        expired = 0
        while self._puzzles:
            id_, puzzle = next(iter(self._puzzles.items()))
            if puzzle.expires > now:
                break
            self._forget(id_)
            expired += 1
        return expired

    def poll_timeout(self) -> Nanos | None:
        """When the oldest unfinished packet expires."""
        return next(iter(self._puzzles.values())).expires if self._puzzles else None

    def _make_room(self) -> None:
        while len(self._puzzles) >= self._limits.packets:
            self._forget(next(iter(self._puzzles)))

    def _forget(self, id: int) -> None:
        self.size -= self._puzzles.pop(id).size
