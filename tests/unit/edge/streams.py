"""What a TCP transport needs round it in a test: an epoll loop, a clock that is told the time, plain streams."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable

from meshnode.edge.proxy import Proxy
from meshnode.edge.tcp import TcpTransport
from meshnode.values import SECOND, Datagram, Endpoint, Nanos, Now, Path, PathKind

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
DATA = 4


class Mill:
    """What the mill is to a transport: an epoll descriptor, and a clock that moves when it is told to."""

    def __init__(self, listen: bool = True, proxy: Proxy | None = None, mark: int | None = None) -> None:
        self.boot: Nanos = 1000 * SECOND
        self.epoll = select.epoll()
        self.watched: dict[int, bool] = {}
        self.inbox: list[Datagram] = []
        self.registered = 0
        self.tcp = TcpTransport(
            0, listen, mark, proxy, self.register, self.unregister, lambda: Now(self.boot, 0)
        )
        self.counters = self.tcp.counters

    def register(self, fd: int, want_write: bool) -> None:
        events = select.EPOLLIN | (select.EPOLLOUT if want_write else 0)
        if fd in self.watched:
            self.epoll.modify(fd, events)
        else:
            self.epoll.register(fd, events)
            self.registered += 1
        self.watched[fd] = want_write

    def unregister(self, fd: int) -> None:
        self.epoll.unregister(fd)  # fails on a descriptor that is closed already
        del self.watched[fd]

    def met(self) -> int:
        """How many connections it has had, those that it refused included."""
        return self.registered + sum(
            self.counters[f"tcp_accept_{why}"] for why in ("source_limit", "duplicate")
        )

    def turn(self) -> None:
        self.inbox += self.tcp.receive_batch([fd for fd, _ in self.epoll.poll(0.002)])

    def after(self, seconds: float) -> None:
        """One turn, so much later."""
        self.boot += int(seconds * SECOND)
        self.turn()

    def path(self, family: socket.AddressFamily = socket.AF_INET) -> Path:
        """The path on which others dial us."""
        return Path(PathKind.TCP, Endpoint(LOOPBACK[family], self.tcp.port))

    def close(self) -> None:
        self.tcp.close()
        assert self.watched == {}
        self.epoll.close()


def turn_until(done: Callable[[], object], *mills: Mill) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline, "it does not come to pass"
        for each in mills:
            each.turn()


def datagram(number: int, size: int = 1200) -> bytes:
    """One that could be sealed data."""
    return (bytes([DATA]) + number.to_bytes(4, "big")).ljust(size, b"x")


def framed(*datagrams: bytes) -> bytes:
    return b"".join(struct.pack(">H", len(each)) + each for each in datagrams)


def ended(stream: socket.socket) -> bytes:
    """All that still comes on a plain socket until the other side closes or resets it."""
    received = b""
    try:
        while piece := stream.recv(4096):
            received += piece
    except ConnectionResetError:
        pass
    return received
