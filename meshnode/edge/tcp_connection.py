"""One TCP connection that carries datagrams: connecting, maybe through a proxy, then framing in both directions.

Some milliseconds of data at most wait unsent below us. They are measured before each send (SIOCOUTQNSD), since the
kernel's own limit (TCP_NOTSENT_LOWAT) lets a superpacket pass, and is only good for telling when there is room again.
The size of the send buffer is left to the kernel: it also holds what is in flight, so a small one would be a window.
"""

from __future__ import annotations

import errno
import fcntl
import select
import socket
import struct
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from itertools import accumulate

from meshnode.edge.errors import reason
from meshnode.edge.framing import LARGEST_FRAME, PREFIX, Deframer, frame_prefix
from meshnode.edge.proxy import ProxyDialogue, ProxyRefused
from meshnode.edge.tcp_listener import reset
from meshnode.values import MILLISECOND, SECOND, BadPacket, Nanos, Path
from meshnode.wire.header import message_type_untrusted

STRANGER_TIME: Nanos = 5 * SECOND
"""What a connection gets to be proven in; a dialled one gets as much before that to be there at all."""

SILENCE_TIME: Nanos = 180 * SECOND
"""A proven connection that brings nothing for so long is closed: one in use is probed every 60 s."""

STALL_TIME: Nanos = 1 * SECOND
"""A connection that has had no room for so long loses what it is given: others must not wait for it."""

STRANGER_FRAME = 2048
"""Bytes. Handshakes and first datagrams are smaller; the first two bytes of HTTP, TLS or SSH make a larger number."""

EARLY_DATAGRAMS = 4
"""Kept while a connection is made, the newest: among them is the handshake or the probe that it is made for."""

QUEUE_TIME: Nanos = 10 * MILLISECOND
FIRST_QUEUE, LEAST_QUEUE, LARGEST_QUEUE = 16 << 10, 4 << 10, 256 << 10
"""Bytes that may wait unsent: before the rate is known, and at the slowest and the fastest."""

_SIZING_INTERVAL: Nanos = 250 * MILLISECOND
_USER_TIMEOUT_MS = 10_000
_STRANGER_READ = 4096
_READ_SIZE, _READS = 64 << 10, 4

# linux/tcp.h and linux/sockios.h, where Python has no name for it
_TCP_INFO_SIZE = 168
_DELIVERY_RATE = struct.Struct("@160xQ")
_SIOCOUTQNSD = 0x894B
_INT = struct.Struct("@i")


class ConnectionLost(Exception):
    """The connection has ended. `reason` is the name of its counter, `str()` a few words for people."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Stage(Enum):
    """How far a connection is. Each may also end."""

    CONNECTING = auto()  # -> ASKING with a proxy, OPEN without
    ASKING = auto()  # -> OPEN
    OPEN = auto()


class Connection:
    """A non-blocking socket with its framing. Where a method raises ConnectionLost, nothing is left to do but `close`.

    `proven` says whether the core knows who is there, `deadline` when it is to be closed, `early_lost` how many
    datagrams found no place while it was made.
    """

    def __init__(
        self, stream: socket.socket, path: Path, stage: Stage, dialogue: ProxyDialogue | None, now: Nanos
    ) -> None:
        self.path = path
        self.stage = stage
        self.proven = False
        self.deadline = now + STRANGER_TIME
        self.early_lost = 0
        self._socket = stream
        self._dialogue = dialogue
        self._deframer = Deframer(STRANGER_FRAME)
        self._early: deque[bytes] = deque()
        self._unsent = b""
        self._full_since: Nanos | None = None
        self._queue = FIRST_QUEUE
        self._sized_at = now
        for option, value in (
            (socket.TCP_NODELAY, 1),
            (socket.TCP_NOTSENT_LOWAT, FIRST_QUEUE),
            (socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS),
        ):
            self._try_option(option, value)

    def fileno(self) -> int:
        """The descriptor, for polling."""
        return self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether it waits for the socket to take something."""
        return self.stage is Stage.CONNECTING or self._full_since is not None

    def receive_untrusted(self, now: Nanos) -> list[memoryview]:
        """Go on with whatever the socket is ready for; the datagrams that came. Raises ConnectionLost.

        Before it is proven it may bring 4 KB a call, small frames only, and nothing but plausible messages.
        """
        if self.stage is Stage.CONNECTING and not self._connected(now):
            return []
        if self._full_since is not None and self._writable() and self._flush():
            self._full_since = None
        frames: list[memoryview] = []
        size, reads = (_READ_SIZE, _READS) if self.proven else (_STRANGER_READ, 1)
        for _ in range(reads):
            data = self._read(size)
            frames += self._deframe(data if self.stage is Stage.OPEN else self._ask(data, now))
            if len(data) < size:
                break
        if frames and self.proven:
            self.deadline = now + SILENCE_TIME
        return frames

    def send(self, datagrams: Sequence[bytes | memoryview], now: Nanos) -> int:
        """How many of these are on their way or kept; fewer than there are: it is full. Raises ConnectionLost."""
        if self.stage is not Stage.OPEN:
            self._keep_early(datagrams)
            return len(datagrams)
        self._size_queue(now)
        taken = 0
        while taken < len(datagrams):
            room = self._room()
            begun = self._put_frames(datagrams[taken:], room) if room > 0 else 0
            if not begun:
                self._full_since = now if self._full_since is None else self._full_since
                return taken
            self._full_since = None
            taken += begun
        return taken

    def stalled(self, now: Nanos) -> bool:
        """Whether it has been full for too long to wait for it."""
        return self._full_since is not None and now - self._full_since >= STALL_TIME

    def prove(self, now: Nanos) -> None:
        """The far side is a member: it may stay, and send large frames."""
        self.proven = True
        self._deframer.limit = LARGEST_FRAME
        self.deadline = now + SILENCE_TIME

    def overdue(self) -> ConnectionLost:
        """Why it is closed at its deadline."""
        if self.proven:
            return ConnectionLost("tcp_silent", "silent for 180 s")
        if self.stage is Stage.OPEN:
            return ConnectionLost("tcp_unproven", "no valid handshake within 5 s")
        who = "it" if self.stage is Stage.CONNECTING else "the proxy"
        return ConnectionLost("tcp_dial_timeout", f"{who} did not answer within 5 s")

    def close(self) -> None:
        """Strangers get a reset; to members, what is on its way is still delivered."""
        if self.proven:
            self._socket.close()
        else:
            reset(self._socket)

    # --- becoming open --------------------------------------------------------------------------------------------

    def _connected(self, now: Nanos) -> bool:
        if code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise dial_failure(OSError(code, ""))
        try:
            self._socket.getpeername()
        except OSError:
            return False
        if self._dialogue is None:
            self._open(now)
        else:
            self.stage = Stage.ASKING
            self._say(self._dialogue.greeting)
        return True

    def _ask(self, data: bytes, now: Nanos) -> bytes:
        """Go on with the proxy; what the far end has said behind its last word."""
        assert self._dialogue is not None
        try:
            self._say(self._dialogue.feed_untrusted(data))
        except ProxyRefused as refused:
            raise ConnectionLost("tcp_proxy_refused", f"the proxy: {refused.text}") from None
        if self._dialogue.done:
            self._open(now)
        return self._dialogue.surplus

    def _say(self, words: bytes) -> None:
        if words and self._put(words) < len(words):
            raise ConnectionLost("tcp_proxy_refused", "the proxy does not listen")

    def _open(self, now: Nanos) -> None:
        self.stage = Stage.OPEN
        self.deadline = now + STRANGER_TIME
        early = list(self._early)
        self._early.clear()
        self.early_lost += len(early) - self.send(early, now)

    def _keep_early(self, datagrams: Sequence[bytes | memoryview]) -> None:
        self._early.extend(map(bytes, datagrams))
        while len(self._early) > EARLY_DATAGRAMS:
            self._early.popleft()
            self.early_lost += 1

    # --- receiving ------------------------------------------------------------------------------------------------

    def _read(self, size: int) -> bytes:
        try:
            data = self._socket.recv(size)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise ConnectionLost("tcp_lost", reason(error)) from None
        if not data:
            raise ConnectionLost("tcp_ended", "closed by the far side")
        return data

    def _deframe(self, data: bytes) -> list[memoryview]:
        try:
            frames = self._deframer.feed_untrusted(data)
            if not self.proven:
                for frame in frames:
                    message_type_untrusted(frame)
        except BadPacket as bad:
            raise ConnectionLost("tcp_garbage", f"not a mesh node ({bad.reason})") from None
        return frames

    # --- sending --------------------------------------------------------------------------------------------------

    def _room(self) -> int:
        """Bytes that may follow now, so that what waits below us stays short."""
        if not self._flush():
            return 0
        (waiting,) = _INT.unpack(fcntl.ioctl(self._socket, _SIOCOUTQNSD, bytes(_INT.size)))
        return self._queue - int(waiting)

    def _flush(self) -> bool:
        """Send what is left of a frame; whether nothing is left."""
        if self._unsent:
            self._unsent = self._unsent[self._put(self._unsent) :]
        return not self._unsent

    def _put_frames(self, datagrams: Sequence[bytes | memoryview], room: int) -> int:
        """Send frames until `room` is used up; how many have left, the last maybe in part."""
        ends = list(accumulate(PREFIX + len(each) for each in datagrams))
        count = min(bisect_left(ends, room) + 1, len(datagrams))
        stream = b"".join(part for each in datagrams[:count] for part in (frame_prefix(len(each)), each))
        sent = self._put(stream)
        begun = bisect_left(ends, sent) + 1 if sent else 0
        self._unsent = stream[sent : ends[begun - 1]] if begun else b""
        return begun

    def _put(self, data: bytes) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ConnectionLost("tcp_lost", reason(error)) from None

    def _writable(self) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        return bool(poll.poll(0))

    def _size_queue(self, now: Nanos) -> None:
        """Follow the rate at which the far side receives."""
        if now - self._sized_at < _SIZING_INTERVAL:
            return
        self._sized_at = now
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
        if len(info) < _TCP_INFO_SIZE:
            return  # Linux before 4.9
        (rate,) = _DELIVERY_RATE.unpack_from(info)
        wanted = min(max(rate * QUEUE_TIME // SECOND, LEAST_QUEUE), LARGEST_QUEUE)
        if rate and not self._queue // 2 < wanted < self._queue * 2:
            self._queue = wanted
            self._try_option(socket.TCP_NOTSENT_LOWAT, wanted)

    def _try_option(self, option: int, value: int) -> None:
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, option, value)
        except OSError:
            pass  # not every kernel that claims to be Linux has it; all of them only make things smoother


_DIAL_FAILURES = {
    errno.ECONNREFUSED: "refused",
    errno.ETIMEDOUT: "timeout",
    errno.EPERM: "denied",
    errno.EACCES: "denied",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.EADDRNOTAVAIL: "unreachable",
}


def dial_failure(error: OSError) -> ConnectionLost:
    """Why a connection could not be made."""
    kind = _DIAL_FAILURES.get(error.errno or 0, "failed")
    return ConnectionLost(f"tcp_dial_{kind}", reason(error).lower())
