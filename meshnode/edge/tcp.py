"""The same datagrams over TCP, for networks that block UDP (docs/protocol.md; DESIGN section 6).

Made for the mill's epoll loop: every socket is non-blocking, and what is to be watched is told through `register`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from meshnode.dataplane.api import Batch
from meshnode.edge import clock
from meshnode.edge.proxy import Proxy
from meshnode.edge.udp import SendResult
from meshnode.values import Datagram, Endpoint, Nanos, Now, Path

DIALLED, ACCEPTED = 0, 1
"""`Path.local` of a TCP path: who made the connection. `send` dials for the first kind only."""


class TcpTransport:
    """All TCP connections of a node. A path is one connection: `Path(TCP, remote, None, DIALLED or ACCEPTED)`.

    `register(fd, want_write)` is called for every new socket and again when `want_write` changes (watch it for reading
    always, for writing where asked); `unregister(fd)` before a socket is closed. `counters` counts what was dropped.
    """

    def __init__(
        self,
        port: int,
        listen: bool,
        mark: int | None,
        proxy: Proxy | None,
        register: Callable[[int, bool], None],
        unregister: Callable[[int], None],
        read_clock: Callable[[], Now] = clock.now,
    ) -> None:
        """With `listen` bind to `port` (0: any) of every address of both families. Raises EdgeError."""
        self.port = port
        self.counters: Counter[str] = Counter()
        raise NotImplementedError

    def receive_batch(self, ready: Iterable[int] | None = None) -> list[Datagram]:
        """Serve the descriptors that are ready (None: look at all), and whatever is due; the datagrams that came."""
        raise NotImplementedError

    def send(self, batch: Batch, start: int = 0) -> SendResult:
        """Send `batch` from its datagram number `start` on, dialling if need be; never blocks, never raises.

        Fewer done than it has: the connection is full; call again when its descriptor was ready.
        """
        raise NotImplementedError

    def send_one(self, path: Path, data: bytes) -> SendResult:
        """Send one datagram; `done` is 1, or 0 when the connection is full."""
        raise NotImplementedError

    def validated(self, path: Path) -> None:
        """The core has proven `path`: its connection is a member's and may stay. Repeated calls are cheap."""
        raise NotImplementedError

    def poll_timeout(self) -> Nanos | None:
        """When `receive_batch` should be called at the latest, although no descriptor is ready."""
        raise NotImplementedError

    def failure(self, remote: Endpoint) -> str | None:
        """Why the last attempt to dial `remote` came to nothing, for people; None when none has failed lately."""
        raise NotImplementedError

    def close(self) -> None:
        """Close every connection and stop listening."""
        raise NotImplementedError
