"""Datagrams in a byte stream: before each its length, two bytes, big-endian (docs/protocol.md, TCP). No I/O."""

from __future__ import annotations

from meshnode.values import BadPacket

PREFIX = 2
LARGEST_FRAME = 65_507
"""What one UDP datagram can carry: nobody who speaks this protocol sends more."""


def frame_prefix(size: int) -> bytes:
    """What goes before a datagram of `size` bytes."""
    return size.to_bytes(PREFIX, "big")


class Deframer:
    """Cuts a stream into datagrams of 1 to `limit` bytes, and never keeps more than one unfinished frame."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._rest = bytearray()
        self._needed = PREFIX

    def feed_untrusted(self, data: bytes) -> list[memoryview]:
        """The datagrams that `data` completes, in order.

        Raises BadPacket at a length that cannot be: nothing that follows can be understood, so close the stream.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return []
            data = bytes(self._rest)
        view, at, frames = memoryview(data), 0, []
        while True:
            body = at + PREFIX
            self._needed = PREFIX
            if body > len(view):
                break
            size = view[at] << 8 | view[at + 1]
            if not 0 < size <= self.limit:
                raise BadPacket("tcp frame length")
            self._needed = PREFIX + size
            if body + size > len(view):
                break
            frames.append(view[body : body + size])
            at = body + size
        self._rest = bytearray(view[at:])
        return frames
