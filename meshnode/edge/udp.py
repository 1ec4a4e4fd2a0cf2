"""One UDP socket: trains out with UDP_SEGMENT, trains in with UDP_GRO, ECN bits, flow labels and arrival times."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from meshnode.dataplane.api import Batch
from meshnode.values import Datagram, Nanos, Now, Path


class SendResult(NamedTuple):
    """What became of a batch: its first `done` datagrams are dealt with. Fewer than it has: the socket is full.

    `error` names the counter of those that were refused (`too_big`, `unreachable`, `denied`, `no_buffers`, `refused`,
    `failed`), None if all of `done` left.
    """

    done: int
    error: str | None


class UdpSocket:
    """Attributes: `family`, `port`, `local` (the number in `Path.local`), `offloads`, `counters`."""

    family: socket.AddressFamily
    port: int
    local: int
    offloads: dict[str, bool]
    counters: Counter[str]

    def __init__(
        self,
        family: socket.AddressFamily,
        port: int,
        local: int = 0,
        mark: int | None = None,
        offload: bool = True,
        read_clock: Callable[[], Now] | None = None,
    ) -> None:
        """Bind (port 0: any). Raises EdgeError."""

    def fileno(self) -> int:
        raise NotImplementedError

    def receive_batch(self, limit: int = 64) -> list[Datagram]:
        """Up to `limit` reads of what waits; never blocks."""
        raise NotImplementedError

    def send(self, batch: Batch, start: int = 0) -> SendResult:
        """Send a batch from its datagram `start` on; never blocks, never raises."""
        raise NotImplementedError

    def send_one(self, path: Path, data: bytes, dscp_ecn: int = 0, label: int = 0) -> SendResult:
        """Send one datagram (a handshake)."""
        raise NotImplementedError

    def set_send_buffer(self, size: int) -> None:
        """How many bytes may wait below us: about 2 ms of the socket's rate."""
        raise NotImplementedError

    def unsent(self) -> int:
        """Bytes that wait below us, in the kernel's way of counting (SIOCOUTQ)."""
        raise NotImplementedError

    def set_offload(self, enabled: bool) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def open_sockets(port: int, mark: int | None = None, offload: bool = True) -> list[UdpSocket]:
    """The main sockets, IPv4 and (where the kernel has it) IPv6, on one port. Raises EdgeError."""
    raise NotImplementedError


__all__ = ["Nanos", "SendResult", "UdpSocket", "open_sockets"]
