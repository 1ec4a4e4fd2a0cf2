"""One UDP socket for all peers: trains out with UDP_SEGMENT, trains in with UDP_GRO, ECN, flow labels, arrival times.

A plain non-blocking object. A full socket is back-pressure and is told to the caller; every other refusal of the kernel
concerns one path, is counted, and never stops the node. The Don't Fragment bit is always set and the kernel's own path
MTU is ignored: paths are probed (RFC 8899), and a forged ICMP message must not shrink them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from meshnode.dataplane.api import Batch
from meshnode.edge import clock
from meshnode.edge.errors import EdgeError, reason
from meshnode.values import SECOND, Datagram, Endpoint, Nanos, Now, Path, PathKind

MAX_SEGMENTS = 64
"""UDP_MAX_SEGMENTS before Linux 6.9; later kernels take 128, which gains nothing measurable."""
MAX_TRAIN = 65_000
"""Bytes in one UDP_SEGMENT call: all of it must fit into one IP datagram."""
RECEIVE_BUFFER = 4 << 20
"""Bytes. Only absorbs the time until the next turn: what arrives is drained into the queue before opening at once."""

_MAX_PATHS = 4096
_PORT_ATTEMPTS = 16
_READ_SIZE = 65_535
_ANCILLARY_SIZE = 256
_MSG_TRUNC = int(socket.MSG_TRUNC)  # as a Flag the test costs a third of the system call
_GRO_KERNEL = (5, 12)
"""Older kernels let UDP_GRO lose the traffic class."""

# linux/udp.h, linux/in.h, linux/in6.h, asm-generic/socket.h and sockios.h, where Python has no name for it
_UDP_SEGMENT = 103
_UDP_GRO = 104
_IP_MTU_DISCOVER = 10
_IPV6_MTU_DISCOVER = 23
_PMTUDISC_PROBE = 3
_IPV6_FLOWINFO_SEND = 33
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_SO_RXQ_OVFL = 40
_SIOCOUTQ = 0x5411

_TIMESPEC = struct.Struct("@ll")
_INT = struct.Struct("@i")
_SHORT = struct.Struct("@H")

Ancillary = list[tuple[int, int, bytes]]
Address = tuple[str, int] | tuple[str, int, int, int]

_ERRORS = {
    errno.EMSGSIZE: "too_big",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.EADDRNOTAVAIL: "unreachable",
    errno.EPERM: "denied",
    errno.EACCES: "denied",
    errno.ENOBUFS: "no_buffers",
    errno.ENOMEM: "no_buffers",
    errno.ECONNREFUSED: "refused",
}


class SendResult(NamedTuple):
    """What became of a batch: its first `done` datagrams are dealt with. Fewer than it has: the socket is full.

    `error` says why some of these did not leave (`too_big`, `unreachable`, `denied`, `no_buffers`, `refused`, `failed`;
    the last one counts), None if all did.
    """

    done: int
    error: str | None = None


class UdpSocket:
    """A bound socket of one family. `local` is its number in `Path.local`, `marked` whether SO_MARK was allowed.

    `offloads` says what is in use: `udp4_gso`, `udp4_gro` (or `udp6_...`, and `udp6_flow_label`). `counters` counts
    datagrams: `udp_send_ERROR`, `udp_receive_overflow` (the kernel had no room), `udp_receive_truncated`.
    """

    def __init__(
        self,
        family: socket.AddressFamily,
        port: int,
        local: int = 0,
        mark: int | None = None,
        offload: bool = True,
        read_clock: Callable[[], Now] = clock.now,
    ) -> None:
        """Bind to `port` (0: any free one) of every address of the family. Raises EdgeError."""
        self.family = family
        self.local = local
        self.counters: Counter[str] = Counter()
        self._v6 = family == socket.AF_INET6
        self._gso, self._gro = ("udp6_gso", "udp6_gro") if self._v6 else ("udp4_gso", "udp4_gro")
        self._read_clock = read_clock
        self._empty_at: Nanos = 0
        self._overflow = 0
        self._paths: dict[Address, Path] = {}
        self._addresses: dict[Endpoint, Address] = {}
        self._ancillary: dict[tuple[int, int], Ancillary] = {}
        self._socket = _bound(family, port)
        self.port: int = self._socket.getsockname()[1]
        self.marked = mark is not None and self._try_option(socket.SOL_SOCKET, socket.SO_MARK, mark)
        self.offloads: dict[str, bool] = {}
        self._set_options()
        self.set_offload(offload)

    def fileno(self) -> int:
        """The descriptor, for polling."""
        return self._socket.fileno()

    def receive_batch(self, limit: int = 64) -> list[Datagram]:
        """Up to `limit` reads of what waits, each one datagram or one train; never blocks."""
        batch: list[Datagram] = []
        receive, now = self._socket.recvmsg, self._read_clock()
        for _ in range(limit):
            try:
                data, ancillary, flags, address = receive(_READ_SIZE, _ANCILLARY_SIZE)
            except BlockingIOError:
                # Only a drain that emptied the socket bounds the age of what comes next.
                self._empty_at = now.boot
                break
            except OSError:
                self.counters["udp_receive_failed"] += 1
                continue
            if flags & _MSG_TRUNC:
                self.counters["udp_receive_truncated"] += 1
                continue
            batch.append(self._datagram(data, ancillary, address, now))
        return batch

    def send(self, batch: Batch, start: int = 0) -> SendResult:
        """Send `batch` from its datagram number `start` on; never blocks, never raises."""
        size, data = batch.segment_size, memoryview(batch.data)
        total = -(-len(data) // size)
        longest = max(1, min(MAX_SEGMENTS, MAX_TRAIN // size))
        done, error = start, None
        while done < total:
            run = min(longest, total - done) if self.offloads[self._gso] else 1
            segment_size = size if run > 1 else 0
            piece = data[done * size : (done + run) * size]
            outcome = self._put(batch.path, piece, segment_size, batch.dscp_ecn, batch.label)
            if outcome in (errno.EIO, errno.EINVAL) and (run > 1 or batch.label):
                outcome = self._retreat(batch.path, piece[:size], batch, run)
                run = 1
            if outcome == errno.EAGAIN:
                break
            error = self._count(outcome, run) or error
            done += run
        return SendResult(done, error)

    def send_one(self, path: Path, data: bytes, dscp_ecn: int = 0) -> SendResult:
        """Send one datagram; `done` is 1, or 0 when the socket is full."""
        outcome = self._put(path, data, 0, dscp_ecn, 0)
        return SendResult(0) if outcome == errno.EAGAIN else SendResult(1, self._count(outcome, 1))

    def set_offload(self, enabled: bool) -> None:
        """Use UDP_SEGMENT, UDP_GRO and flow labels as far as the kernel has them, or none of them."""
        gso = enabled and self._has_option(socket.IPPROTO_UDP, _UDP_SEGMENT)
        gro = enabled and kernel() >= _GRO_KERNEL
        gro = self._try_option(socket.IPPROTO_UDP, _UDP_GRO, int(gro)) and gro
        self.offloads = {self._gso: gso, self._gro: gro}
        if self._v6:
            label = enabled and self._try_option(socket.IPPROTO_IPV6, _IPV6_FLOWINFO_SEND, 1)
            self.offloads["udp6_flow_label"] = label

    def set_send_buffer(self, size: int) -> None:
        """How many bytes (as the kernel counts them, 2304 for a datagram of 1400) may wait below us."""
        if not self._try_option(socket.SOL_SOCKET, _SO_SNDBUFFORCE, size):
            self._try_option(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def unsent(self) -> int:
        """Bytes that wait below us now, as the kernel counts them."""
        (waiting,) = _INT.unpack(fcntl.ioctl(self._socket, _SIOCOUTQ, bytes(_INT.size)))
        return int(waiting)

    def close(self) -> None:
        """Give port and descriptor back."""
        self._socket.close()

    def _set_options(self) -> None:
        if self._v6:
            level = socket.IPPROTO_IPV6
            self._try_option(level, socket.IPV6_RECVTCLASS, 1)
            self._try_option(level, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
            self._try_option(level, socket.IPV6_DONTFRAG, 1)
        else:
            self._try_option(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
            self._try_option(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
        self._try_option(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._try_option(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
        if not self._try_option(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER):
            self._try_option(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)

    def _try_option(self, level: int, option: int, value: int) -> bool:
        try:
            self._socket.setsockopt(level, option, value)
        except OSError:
            return False
        return True

    def _has_option(self, level: int, option: int) -> bool:
        try:
            self._socket.getsockopt(level, option)
        except OSError:
            return False
        return True

    def _datagram(self, data: bytes, ancillary: Ancillary, address: Address, now: Now) -> Datagram:
        arrived, ecn, segment_size = now.boot, 0, 0
        for level, kind, value in ancillary:
            if kind == _SO_TIMESTAMPNS and level == socket.SOL_SOCKET:
                seconds, nanos = _TIMESPEC.unpack_from(value)
                arrived = clock.to_boot(seconds * SECOND + nanos, now, self._empty_at)
            elif level in (socket.IPPROTO_IP, socket.IPPROTO_IPV6):
                # One byte (IP_TOS) or an int (IPV6_TCLASS) of which the ECN bits are the lowest of the whole.
                ecn = int.from_bytes(value, sys.byteorder) & 3
            elif kind == _UDP_GRO and level == socket.IPPROTO_UDP:
                (segment_size,) = _INT.unpack_from(value)
            elif kind == _SO_RXQ_OVFL and level == socket.SOL_SOCKET:
                total = int.from_bytes(value, sys.byteorder)
                self.counters["udp_receive_overflow"] += (total - self._overflow) & 0xFFFF_FFFF
                self._overflow = total
        path = self._paths.get(address) or self._learn_path(address)
        return Datagram(data, path, arrived, ecn, segment_size if segment_size < len(data) else 0)

    def _learn_path(self, address: Address) -> Path:
        if len(self._paths) >= _MAX_PATHS:
            self._paths.clear()  # a flood from invented addresses costs look-ups, never memory
        host = f"{address[0]}%{address[3]}" if len(address) == 4 and address[3] else address[0]
        path = Path(PathKind.UDP, Endpoint(host, address[1]), local=self.local)
        self._paths[address] = path
        return path

    def _address(self, remote: Endpoint) -> Address:
        if len(self._addresses) >= _MAX_PATHS:
            self._addresses.clear()
        host, _, scope = remote.host.partition("%")
        address = (host, remote.port, 0, int(scope or 0)) if self._v6 else (host, remote.port)
        self._addresses[remote] = address
        return address

    def _options(self, dscp_ecn: int, segment_size: int) -> Ancillary:
        if len(self._ancillary) >= _MAX_PATHS:
            self._ancillary.clear()
        options: Ancillary = []
        if dscp_ecn and self._v6:
            options.append((socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _INT.pack(dscp_ecn)))
        elif dscp_ecn:
            options.append((socket.IPPROTO_IP, socket.IP_TOS, _INT.pack(dscp_ecn)))
        if segment_size:
            options.append((socket.IPPROTO_UDP, _UDP_SEGMENT, _SHORT.pack(segment_size)))
        self._ancillary[dscp_ecn, segment_size] = options
        return options

    def _put(self, path: Path, data: bytes | memoryview, segment_size: int, dscp_ecn: int, label: int) -> int:
        """One system call; returns 0 or an errno."""
        address = self._addresses.get(path.remote) or self._address(path.remote)
        if label and len(address) == 4 and self.offloads["udp6_flow_label"]:
            address = (address[0], address[1], label, address[3])
        options = self._ancillary.get((dscp_ecn, segment_size))
        if options is None:
            options = self._options(dscp_ecn, segment_size)
        try:
            self._socket.sendmsg((data,), options, 0, address)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def _retreat(self, path: Path, piece: memoryview, batch: Batch, run: int) -> int:
        """After EIO or EINVAL: send one datagram without offloads, and give up the one that proves to be at fault."""
        if run > 1:
            outcome = self._put(path, piece, 0, batch.dscp_ecn, batch.label)
            if not outcome:
                # The device cannot finish checksums, or is a tunnel: every train would be refused.
                self.offloads[self._gso] = False
            if outcome != errno.EINVAL:
                return outcome
        outcome = self._put(path, piece, 0, batch.dscp_ecn, 0)
        if not outcome and batch.label:
            # Some program has a flow label to itself (IPV6_FLOWLABEL_MGR): now every label has to be leased.
            self.offloads["udp6_flow_label"] = False
        return outcome

    def _count(self, outcome: int, datagrams: int) -> str | None:
        if not outcome:
            return None
        error = _ERRORS.get(outcome, "failed")
        self.counters[f"udp_send_{error}"] += datagrams
        return error


def open_sockets(port: int, mark: int | None = None, offload: bool = True) -> list[UdpSocket]:
    """The main sockets on one port: IPv4, then IPv6 where the kernel has it. Port 0: any that both can have.

    Raises EdgeError.
    """
    attempts = 1 if port else _PORT_ATTEMPTS
    while True:
        attempts -= 1
        v4 = UdpSocket(socket.AF_INET, port, mark=mark, offload=offload)
        if not has_ipv6():
            return [v4]
        try:
            return [v4, UdpSocket(socket.AF_INET6, v4.port, mark=mark, offload=offload)]
        except EdgeError:
            v4.close()
            if not attempts:
                raise


def has_ipv6() -> bool:
    """Whether this kernel has IPv6 at all (`ipv6.disable=1` takes it away; sysctls only take its addresses)."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True


def kernel() -> tuple[int, int]:
    """Major and minor version of the running kernel; (0, 0) if it does not say."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _bound(family: socket.AddressFamily, port: int) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # No SO_REUSEADDR: on Linux it would let two programs share the port and steal each other's datagrams.
        bound.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            fix = f"stop what uses it (`ss -ulnp sport = :{port}`) or choose another with --port"
            raise EdgeError(f"UDP port {port} is taken: {fix}") from error
        if error.errno == errno.EACCES:
            raise EdgeError(f"UDP port {port} is only for root: choose one above 1023 with --port") from error
        raise EdgeError(f"cannot listen on UDP port {port}: {reason(error)}") from error
    return bound
