"""The delay line where there is no C compiler: `python -m meshnode.lab.slow_delay LEFT RIGHT SEED`.

Same arguments, same lines on standard input and output as delay.c, which explains them. It takes
about twice the CPU.
"""

import os
import random
import select
import socket
import sys
import time
from collections import deque
from typing import Final

_SOL_PACKET: Final = 263  # linux/socket.h, linux/if_packet.h: the socket module has no names for these
_PACKET_VNET_HDR: Final = 15
_PACKET_IGNORE_OUTGOING: Final = 23
_ETH_P_ALL: Final = 3
_LARGEST_FRAME: Final = 1 << 18
_FRAMES_PER_TURN: Final = 64


class Wire:
    """What both directions share: delay and jitter in nanoseconds, the dice, and the counters."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.delay = self.jitter = 0
        self.loss = self.duplicate = 0.0
        self.limit = 0
        self.forwarded = self.lost = self.duplicated = self.overflowed = self.errors = 0

    def obey(self, line: str) -> str:
        """Set the wire as a line of delay.c's protocol says, if it is not empty; answer with counters."""
        words = line.split()
        if len(words) == 5:
            delay_us, jitter_us, loss_ppm, duplicate_ppm, self.limit = map(int, words)
            self.delay, self.jitter = delay_us * 1000, jitter_us * 1000
            self.loss, self.duplicate = loss_ppm / 1e6, duplicate_ppm / 1e6
        return f"{self.forwarded} {self.lost} {self.duplicated} {self.overflowed} {self.errors}"


class Direction:
    """The FIFO of one direction: frames with the time when each is due. Pure: the time is an argument."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._frames: deque[tuple[int, bytes]] = deque()
        self._held = 0
        self._last_due = 0

    def push(self, frame: bytes, now: int) -> None:
        """Take a frame in at `now` (ns), unless it is lost; twice, if it is duplicated."""
        wire = self._wire
        if wire.loss and wire.random.random() < wire.loss:
            wire.lost += 1
            return
        jitter = wire.random.randrange(wire.jitter) if wire.jitter else 0
        self._last_due = max(self._last_due, now + wire.delay + jitter)
        self._append(frame)
        if wire.duplicate and wire.random.random() < wire.duplicate:
            wire.duplicated += 1
            self._append(frame)

    def pop(self, now: int) -> bytes | None:
        """The next frame that is due at `now`, or None."""
        if not self._frames or self._frames[0][0] > now:
            return None
        frame = self._frames.popleft()[1]
        self._held -= len(frame)
        return frame

    def next_due(self) -> int | None:
        return self._frames[0][0] if self._frames else None

    def _append(self, frame: bytes) -> None:
        if self._held + len(frame) > self._wire.limit:
            self._wire.overflowed += 1
            return
        self._frames.append((self._last_due, frame))
        self._held += len(frame)


def open_port(name: str) -> socket.socket:
    """A packet socket that carries superpackets whole and does not see what we send."""
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    port.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    port.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    port.bind((name, _ETH_P_ALL))
    return port


def absorb(port: socket.socket, direction: Direction, wire: Wire) -> None:
    for _ in range(_FRAMES_PER_TURN):
        try:
            frame = port.recv(_LARGEST_FRAME, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            wire.errors += 1  # ENETDOWN tells once that the interface went down
            return
        direction.push(frame, time.monotonic_ns())


def release(direction: Direction, port: socket.socket, wire: Wire) -> None:
    for _ in range(_FRAMES_PER_TURN):
        frame = direction.pop(time.monotonic_ns())
        if frame is None:
            return
        try:
            port.send(frame)
            wire.forwarded += 1
        except OSError:
            wire.errors += 1  # a wire loses the frame and goes on


def main(left_name: str, right_name: str, seed: str) -> None:
    left, right = open_port(left_name), open_port(right_name)
    wire = Wire(int(seed))
    there, back = Direction(wire), Direction(wire)
    commands = sys.stdin.fileno()
    wait: float | None = None
    while True:
        readable = select.select([left, right, commands], [], [], wait)[0]
        if left in readable:
            absorb(left, there, wire)
        if right in readable:
            absorb(right, back, wire)
        if commands in readable:
            line = os.read(commands, 256)
            if not line:
                return
            print(wire.obey(line.decode()), flush=True)
        release(there, right, wire)
        release(back, left, wire)
        due = [each for each in (there.next_due(), back.next_due()) if each is not None]
        wait = max(0.0, (min(due) - time.monotonic_ns()) / 1e9) if due else None


if __name__ == "__main__":
    main(*sys.argv[1:])
