"""The disk of one host: it outlives the process, may be full, and takes its time."""

from __future__ import annotations

from meshnode.values import MILLISECOND, Nanos


class DiskFull(OSError):
    """No space left."""


class Disk:
    """Whole files, replaced at once, as rename and fsync do. `delay` passes between a write and its being
    durable."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.full = False
        self.delay: Nanos = MILLISECOND
        self.writes = 0

    def write(self, name: str, data: bytes) -> None:
        """Replace the file `name`; DiskFull leaves the old one as it was."""
        if self.full:
            raise DiskFull("No space left on device")
        self.files[name] = data
        self.writes += 1

    def read(self, name: str) -> bytes | None:
        """The file, or None where there is none."""
        return self.files.get(name)

    def wipe(self) -> None:
        """A new disk in the same machine."""
        self.files.clear()
