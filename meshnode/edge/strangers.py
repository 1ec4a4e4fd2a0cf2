"""Who may hold a connection to us without having said who it is: few from one place, and not many in all. No I/O.

When the table is full the oldest has to go instead of the newest being turned away: a flood then shortens the time in
which a member has to prove itself, but never shuts it out.
"""

from __future__ import annotations

import socket
from collections import Counter

STRANGERS = 256
STRANGERS_PER_SOURCE = 8


def source_of(host: str) -> bytes:
    """What counts as one source: an IPv4 address, the /64 of an IPv6 address."""
    if ":" in host:
        return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8]
    return socket.inet_pton(socket.AF_INET, host)


class Strangers:
    """Numbers (descriptors) of connections by age, with their sources."""

    def __init__(self) -> None:
        self._sources: dict[int, bytes] = {}
        self._counts: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._sources)

    def admits(self, source: bytes) -> bool:
        """Whether one more of this source is let in."""
        return self._counts[source] < STRANGERS_PER_SOURCE

    def add(self, number: int, source: bytes) -> None:
        """Let in a connection that `admits` has allowed."""
        self._sources[number] = source
        self._counts[source] += 1

    def surplus(self) -> int | None:
        """The oldest connection when there are too many: close it."""
        return next(iter(self._sources)) if len(self._sources) > STRANGERS else None

    def remove(self, number: int) -> None:
        """It is closed, or no stranger any more. Unknown numbers are ignored."""
        source = self._sources.pop(number, None)
        if source is not None:
            self._counts[source] -= 1
            if not self._counts[source]:
                del self._counts[source]
