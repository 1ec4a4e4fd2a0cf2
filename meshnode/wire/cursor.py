"""A cursor over received bytes: the one place that notices a layout running past its end."""

from __future__ import annotations

from meshnode.values import BadPacket


class Cursor:
    """Reads big-endian fields from the front of `data`; BadPacket("truncated") where bytes are missing."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data
        self._position = 0

    @property
    def remaining(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._position

    def take(self, size: int) -> bytes:
        """The next `size` bytes, copied."""
        end = self._position + size
        if end > len(self._data):
            raise BadPacket("truncated")
        piece = bytes(self._data[self._position : end])
        self._position = end
        return piece

    def integer(self, size: int) -> int:
        """The next `size` bytes as an unsigned integer."""
        return int.from_bytes(self.take(size), "big")

    def short(self) -> bytes:
        """A length of one byte, then that many bytes."""
        return self.take(self.integer(1))

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.remaining)
