"""The TCP listeners: one per family on one port number. They accept, and say nothing."""

from __future__ import annotations

import errno
import socket
import struct
from collections import Counter
from typing import Any

from meshnode.edge.errors import EdgeError, reason
from meshnode.edge.udp import has_ipv6
from meshnode.values import Endpoint

_ACCEPTS = 16
_BACKLOG = 128
_PORT_ATTEMPTS = 16
_NO_LINGER = struct.pack("@ii", 1, 0)
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Exhausted(Exception):
    """No descriptor or no memory is left for one more connection: try later."""


class TcpListener:
    """Listening sockets of both families, non-blocking."""

    def __init__(self, port: int, mark: int | None = None) -> None:
        """Bind to `port` (0: any that both families can have) of every address. Raises EdgeError."""
        self._sockets = {each.fileno(): each for each in _listen(port)}
        for each in self._sockets.values():
            set_mark(each, mark)  # what it accepts inherits it, and the answer to a SYN has no other
        self.port: int = next(each.getsockname()[1] for each in self._sockets.values())

    def filenos(self) -> list[int]:
        """The descriptors, for polling."""
        return list(self._sockets)

    def accept(self, fd: int, counters: Counter[str]) -> list[tuple[socket.socket, Endpoint]]:
        """Some of the connections that wait at this descriptor, each with its far end. Raises Exhausted."""
        accepted: list[tuple[socket.socket, Endpoint]] = []
        for _ in range(_ACCEPTS):
            try:
                stream, address = self._sockets[fd].accept()
            except BlockingIOError:
                break
            except OSError as error:
                counters["tcp_accept_failed"] += 1
                if error.errno not in _EXHAUSTED:
                    continue
                if not accepted:
                    raise Exhausted from None
                break
            stream.setblocking(False)
            accepted.append((stream, _endpoint(address)))
        return accepted

    def close(self) -> None:
        """Stop listening."""
        for each in self._sockets.values():
            each.close()


def set_mark(stream: socket.socket, mark: int | None) -> None:
    """Set SO_MARK, where that is allowed: without CAP_NET_ADMIN there is no tunnel to keep out of either."""
    if mark is not None:
        try:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        except OSError:
            pass


def reset(stream: socket.socket) -> None:
    """Close without a word more than a reset, so that no state stays with us."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    stream.close()


def _endpoint(address: tuple[Any, ...]) -> Endpoint:
    scope = f"%{address[3]}" if len(address) == 4 and address[3] else ""
    return Endpoint(f"{address[0]}{scope}", address[1])


def _listen(port: int) -> list[socket.socket]:
    attempts = 1 if port else _PORT_ATTEMPTS
    while True:
        attempts -= 1
        v4 = _listener(socket.AF_INET, port)
        if not has_ipv6():
            return [v4]
        try:
            return [v4, _listener(socket.AF_INET6, v4.getsockname()[1])]
        except EdgeError:
            v4.close()
            if not attempts:
                raise


def _listener(family: socket.AddressFamily, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # What is left of earlier connections must not keep us from listening; for TCP it does not share the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            fix = f"stop what uses it (`ss -tlnp sport = :{port}`), choose another with --port, or do without TCP"
            raise EdgeError(f"TCP port {port} is taken: {fix}") from error
        raise EdgeError(f"cannot listen on TCP port {port}: {reason(error)}") from error
    return listener
