"""The same datagrams over TCP, for networks that block UDP (docs/protocol.md, TCP; DESIGN section 6).

Made for the mill's epoll loop: all sockets are non-blocking, and what to watch is told through `register`. It decides
nothing: it dials where it is asked to send, and says no word of its own to whoever has dialled us. Until the core has
proven a path its connection has 5 s to live, whatever comes on it.
"""

from __future__ import annotations

import ipaddress
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from meshnode.dataplane.api import Batch
from meshnode.edge import clock
from meshnode.edge.errors import EdgeError
from meshnode.edge.framing import LARGEST_FRAME
from meshnode.edge.proxy import Proxy, open_dialogue
from meshnode.edge.strangers import Strangers, source_of
from meshnode.edge.tcp_connection import Connection, ConnectionLost, Stage, dial_failure
from meshnode.edge.tcp_listener import Exhausted, TcpListener, reset, set_mark
from meshnode.edge.udp import SendResult
from meshnode.values import SECOND, Datagram, Endpoint, Nanos, Now, Path, PathKind

DIALLED, ACCEPTED = 0, 1
"""`Path.local` of a TCP path: who made the connection. Only for the first kind does `send` dial."""

MAX_PROVEN = 1024
"""Connections of members. With one more, the one that has been silent for longest is closed."""

MAX_DIALS = 64
"""Connections of our own making that are not proven yet."""

HOLD_OFF: Nanos = 1 * SECOND
"""After a dialled connection has ended its endpoint is not dialled again for so long."""

DEAF_TIME: Nanos = 1 * SECOND
"""When the machine has no descriptor left, nobody is let in for so long."""

TURN_BYTES = 4 << 20
"""What one `receive_batch` brings at most, give or take one connection; the rest stays ready."""

_MAX_FAILURES = 1024
_NEVER: Nanos = 1 << 62


class TcpTransport:
    """All TCP connections of a node. One connection is one path: `Path(TCP, remote, None, DIALLED or ACCEPTED)`.

    `register(fd, want_write)` is called for every new socket and again when `want_write` changes (watch it for reading
    always, for writing where asked), `unregister(fd)` before a socket is closed. `port` is 0 without a listener.

    `counters`: connections that were refused (`tcp_accept_...`) or have ended (`tcp_unproven`, `tcp_garbage`,
    `tcp_silent`, `tcp_dial_...`, ...), and datagrams that were not sent (`tcp_send_...`).
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
        """With `listen` bind to `port` (0: any) of every address of both families. Raises EdgeError.

        The host of `proxy` has to be numeric by now: nothing here may wait for a name server.
        """
        if proxy is not None and not _is_numeric(proxy.host):
            raise EdgeError(f"the proxy's name {proxy.host} is not resolved: check this machine's DNS")
        self.counters: Counter[str] = Counter()
        self._mark = mark
        self._proxy = proxy
        self._register = register
        self._unregister = unregister
        self._read_clock = read_clock
        self._listener = TcpListener(port, mark) if listen else None
        self._deaf_until: Nanos | None = None
        self._connections: dict[int, Connection] = {}
        self._by_path: dict[Path, Connection] = {}
        self._wants_write: dict[int, bool] = {}
        self._strangers = Strangers()
        self._failures: dict[Endpoint, tuple[Nanos, str]] = {}
        self._due = _NEVER
        self.port = self._listener.port if self._listener else 0
        self._hear(True)

    def receive_batch(self, ready: Iterable[int] | None = None) -> list[Datagram]:
        """Serve the descriptors that are ready (None: look at all) and whatever is due; the datagrams that came."""
        now = self._read_clock().boot
        if now >= self._due:
            self._close_overdue(now)
        datagrams: list[Datagram] = []
        room = TURN_BYTES
        for fd in (*self._listeners(), *self._connections) if ready is None else ready:
            if fd in self._connections and room > 0:
                received = self._receive(self._connections[fd], now)
                datagrams += received
                room -= sum(len(each.data) for each in received)
            elif fd in self._listeners():
                self._accept(fd, now)
        return datagrams

    def send(self, batch: Batch, start: int = 0) -> SendResult:
        """Send `batch` from its datagram number `start` on, dialling if need be; never blocks, never raises.

        Fewer done than it has: the connection is full; call again when its descriptor was ready. Errors are those of
        UDP, and `stalled`: it has been full for a second, and nobody should wait for it.
        """
        return self._send(batch.path, batch.datagrams(), start)

    def send_one(self, path: Path, data: bytes) -> SendResult:
        """Send one datagram; `done` is 1, or 0 when the connection is full."""
        return self._send(path, [data], 0)

    def validated(self, path: Path) -> None:
        """The core has proven `path`: its connection is a member's and may stay. Repeated calls are cheap."""
        connection = self._by_path.get(path)
        if connection is None or connection.proven:
            return
        now = self._read_clock().boot
        connection.prove(now)
        self._strangers.remove(connection.fileno())
        self._failures.pop(path.remote, None)
        proven = [each for each in self._connections.values() if each.proven]
        if len(proven) > MAX_PROVEN:
            silent = min(proven, key=lambda each: each.deadline)
            self._end(silent, ConnectionLost("tcp_crowded_out", "too many connections"), now)

    def poll_timeout(self) -> Nanos | None:
        """When `receive_batch` should be called at the latest, although no descriptor is ready."""
        return None if self._due == _NEVER else self._due

    def failure(self, remote: Endpoint) -> str | None:
        """Why the last connection that we made to `remote` has ended, in a few words; None: all is well so far."""
        known = self._failures.get(remote)
        return known[1] if known is not None else None

    def close(self) -> None:
        """Close every connection and stop listening."""
        for connection in list(self._connections.values()):
            self._remove(connection)
        if self._listener is not None:
            self._hear(False)
            self._listener.close()
            self._listener = None

    # --- those who dial us ----------------------------------------------------------------------------------------

    def _listeners(self) -> list[int]:
        return self._listener.filenos() if self._listener is not None and self._deaf_until is None else []

    def _hear(self, open_ears: bool) -> None:
        for fd in self._listeners():
            if open_ears:
                self._register(fd, False)
            else:
                self._unregister(fd)

    def _accept(self, fd: int, now: Nanos) -> None:
        assert self._listener is not None
        try:
            accepted = self._listener.accept(fd, self.counters)
        except Exhausted:
            self._hear(False)  # or the waiting connection would wake us again and again
            self._deaf_until = now + DEAF_TIME
            self._due = min(self._due, self._deaf_until)
            return
        for stream, remote in accepted:
            self._admit(stream, remote, now)

    def _admit(self, stream: socket.socket, remote: Endpoint, now: Nanos) -> None:
        source, path = source_of(remote.host), Path(PathKind.TCP, remote, None, ACCEPTED)
        known = path in self._by_path  # it has reached another address of ours from the same port
        if known or not self._strangers.admits(source):
            self.counters["tcp_accept_duplicate" if known else "tcp_accept_source_limit"] += 1
            reset(stream)
            return
        self._strangers.add(stream.fileno(), source)
        self._add(Connection(stream, path, Stage.OPEN, None, now))
        oldest = self._strangers.surplus()
        if oldest is not None:
            self._end(
                self._connections[oldest], ConnectionLost("tcp_accept_evicted", "too many connections"), now
            )

    # --- those whom we dial ---------------------------------------------------------------------------------------

    def _may_dial(self, path: Path, now: Nanos) -> bool:
        if path.local != DIALLED or now < self._failures.get(path.remote, (0, ""))[0]:
            return False
        dials = sum(
            1 for each in self._connections.values() if not each.proven and each.path.local == DIALLED
        )
        return dials < MAX_DIALS

    def _dial(self, path: Path, now: Nanos) -> Connection:
        """A connection in the making. Raises ConnectionLost."""
        hop, dialogue = path.remote, None
        if (
            self._proxy is not None and "%" not in hop.host
        ):  # no proxy could reach a link-local address of ours
            hop, dialogue = Endpoint(self._proxy.host, self._proxy.port), open_dialogue(self._proxy, hop)
        host, _, scope = hop.host.partition("%")
        v6 = ":" in host
        try:
            stream = socket.socket(
                socket.AF_INET6 if v6 else socket.AF_INET,
                socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            )
        except OSError as error:
            raise dial_failure(error) from None
        set_mark(stream, self._mark)
        try:
            stream.connect((host, hop.port, 0, int(scope or 0)) if v6 else (host, hop.port))
        except BlockingIOError:
            pass  # on its way
        except OSError as error:
            stream.close()
            raise dial_failure(error) from None
        connection = Connection(stream, path, Stage.CONNECTING, dialogue, now)
        self._add(connection)
        return connection

    # --- traffic --------------------------------------------------------------------------------------------------

    def _receive(self, connection: Connection, now: Nanos) -> list[Datagram]:
        try:
            frames = connection.receive_untrusted(now)
        except ConnectionLost as lost:
            self._end(connection, lost, now)
            return []
        self._follow(connection)
        return [Datagram(frame, connection.path, now) for frame in frames]

    def _send(self, path: Path, datagrams: Sequence[bytes | memoryview], start: int) -> SendResult:
        now, total = self._read_clock().boot, len(datagrams)
        if any(len(each) > LARGEST_FRAME for each in datagrams):
            return self._unsent(total, total - start, "too_big")
        connection = self._by_path.get(path)
        if connection is None and not self._may_dial(path, now):
            return self._unsent(total, total - start, "unreachable")
        try:
            connection = connection or self._dial(path, now)
            done = start + connection.send(datagrams[start:], now)
        except ConnectionLost as lost:
            if connection is None:
                self._blame(path, lost, now)
            else:
                self._end(connection, lost, now)
            return self._unsent(total, total - start, "unreachable")
        self._follow(connection)
        if done < total and connection.stalled(now):
            return self._unsent(total, total - done, "stalled")
        return SendResult(done)

    def _unsent(self, total: int, lost: int, error: str) -> SendResult:
        self.counters[f"tcp_send_{error}"] += lost
        return SendResult(total, error)

    # --- the table ------------------------------------------------------------------------------------------------

    def _add(self, connection: Connection) -> None:
        self._connections[connection.fileno()] = connection
        self._by_path[connection.path] = connection
        self._due = min(self._due, connection.deadline)
        self._follow(connection)

    def _follow(self, connection: Connection) -> None:
        """Have it watched for what it waits for, and count what it had to give up."""
        fd, wants_write = connection.fileno(), connection.wants_write
        if self._wants_write.get(fd) is not wants_write:
            self._wants_write[fd] = wants_write
            self._register(fd, wants_write)
        if connection.early_lost:
            self.counters["tcp_send_early"] += connection.early_lost
            connection.early_lost = 0

    def _end(self, connection: Connection, lost: ConnectionLost, now: Nanos) -> None:
        self._remove(connection)
        self._blame(connection.path, lost, now)

    def _blame(self, path: Path, lost: ConnectionLost, now: Nanos) -> None:
        self.counters[lost.reason] += 1
        if path.local == DIALLED:
            self._failures.pop(path.remote, None)
            self._failures[path.remote] = (now + HOLD_OFF, str(lost))
            if len(self._failures) > _MAX_FAILURES:
                del self._failures[next(iter(self._failures))]

    def _remove(self, connection: Connection) -> None:
        fd = connection.fileno()
        self._strangers.remove(fd)
        self._unregister(fd)
        del self._connections[fd], self._by_path[connection.path], self._wants_write[fd]
        connection.close()

    def _close_overdue(self, now: Nanos) -> None:
        if self._deaf_until is not None and now >= self._deaf_until:
            self._deaf_until = None
            self._hear(True)
        for connection in list(self._connections.values()):
            if now >= connection.deadline:
                self._end(connection, connection.overdue(), now)
        deadlines = [each.deadline for each in self._connections.values()]
        self._due = min(deadlines, default=_NEVER)
        if self._deaf_until is not None:
            self._due = min(self._due, self._deaf_until)


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
