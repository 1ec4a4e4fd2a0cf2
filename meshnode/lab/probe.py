"""A UDP echo at 100 Hz in processes of its own: how long a sparse flow waits, as a phone call feels it.

    python probe.py serve PORT
    python probe.py send HOST PORT RATE SECONDS SIZE TOS

`send` prints JSON: how many it sent, and the round trip times in microseconds by sequence number. Only the
standard library is imported, so that it starts quickly. Times of arrival are the kernel's, and an echo says
how long it was held: what our own two processes wait for the CPU is not the network's delay.
"""

import json
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from meshnode.lab.interface import Address
    from meshnode.lab.namespace import Namespace

# Magic, sequence number, CLOCK_REALTIME at sending, time between arrival and echo; both in nanoseconds.
_HEADER: Final = struct.Struct("!4sIQQ")
_MAGIC: Final = b"mnpb"
_SO_TIMESTAMPNS: Final = 35  # asm-generic/socket.h
_TIMESPEC: Final = struct.Struct("@qq")
_LONGEST_TAIL: Final = 3.0  # seconds that late replies are waited for
_SHORTEST_TAIL: Final = 0.5
SMALLEST: Final = _HEADER.size


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Round trip times in milliseconds, by sequence number; a probe without a reply is not in it."""

    sent: int
    rtts_ms: dict[int, float]

    @property
    def loss(self) -> float:
        """The share of probes without a reply, 0 to 1."""
        return 1 - len(self.rtts_ms) / self.sent if self.sent else 0.0


class Probe(NamedTuple):
    """What a datagram says: when it was sent (nanoseconds), and how long the echo was held (0: it is none)."""

    number: int
    sent_at: int
    held: int = 0


def pack_probe(probe: Probe, size: int) -> bytes:
    """A datagram of `size` bytes, at least SMALLEST."""
    return _HEADER.pack(_MAGIC, *probe).ljust(size, b"\0")


def unpack_probe(data: bytes) -> Probe | None:
    """None when it is not one of ours."""
    if len(data) < SMALLEST or data[:4] != _MAGIC:
        return None
    _, *values = _HEADER.unpack_from(data)
    return Probe(*values)


def parse_probe(text: str) -> ProbeResult:
    """From what `send` printed; ValueError when that was cut short."""
    report = json.loads(text)
    return ProbeResult(report["sent"], {int(key): value / 1000 for key, value in report["rtts_us"].items()})


class ProbeRun:
    """Probes from one namespace to another in the background, beside the load under which they measure."""

    def __init__(
        self,
        client: "Namespace",
        server: "Namespace",
        address: "Address | str",
        *,
        seconds: float,
        rate: float = 100.0,
        size: int = 64,
        tos: int = 0,
        port: int = 7007,
    ) -> None:
        """`address` is the server's as the client sees it; `rate` in probes a second, `size` in bytes."""
        script = [sys.executable, "-I", __file__]
        self._server = server.popen([*script, "serve", str(port)])
        self._server.wait_for_output("ready")
        numbers = map(str, (port, rate, seconds, size, tos))
        self._client = client.popen([*script, "send", str(address), *numbers])
        self._seconds = seconds

    def result(self) -> ProbeResult:
        """Wait for the end."""
        try:
            self._client.wait(self._seconds + _LONGEST_TAIL + 30)
            return parse_probe(self._client.output)
        finally:
            self._client.stop()
            self._server.stop()


def serve(port: int) -> None:
    """Echo every datagram to its sender, for ever, IPv4 and IPv6 alike."""
    echo = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    echo.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    echo.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    echo.bind(("::", port))
    print("ready", flush=True)
    while True:
        data, ancillary, _, sender = echo.recvmsg(65535, 64)
        probe = unpack_probe(data)
        if probe is not None:
            held = max(0, time.time_ns() - _arrival(ancillary))
            data = pack_probe(probe._replace(held=held), len(data))
        try:
            echo.sendto(data, sender)
        except OSError:
            pass  # no route, a full queue: to the client it is a loss


def send(host: str, port: int, rate: float, seconds: float, size: int, tos: int) -> dict[str, object]:
    """Send on schedule whatever comes back when, and return the report."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
        else:
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        probe.setblocking(False)
        count, start = round(rate * seconds), time.monotonic()
        rtts: dict[int, float] = {}
        for number in range(count):
            _collect(probe, rtts, until=start + number / rate)
            try:
                probe.sendto(pack_probe(Probe(number, time.time_ns()), size), address)
            except OSError:
                pass  # no route, a full queue: it is a loss
        end = time.monotonic() + _tail(rtts)
        while len(rtts) < count and time.monotonic() < end:
            _collect(probe, rtts, until=min(end, time.monotonic() + 0.1))
    return {"sent": count, "rtts_us": rtts}


def _tail(rtts: dict[int, float]) -> float:
    """Seconds to wait for late replies: what comes in 10 ms or not at all need not be waited for long."""
    if not rtts:
        return _LONGEST_TAIL
    return min(_LONGEST_TAIL, _SHORTEST_TAIL + 4 * max(rtts.values()) / 1e6)


def _collect(probe: socket.socket, rtts: dict[int, float], *, until: float) -> None:
    """Take replies in until the time has come."""
    while True:
        wait = until - time.monotonic()
        if not select.select([probe], [], [], max(0.0, wait))[0]:
            return
        try:
            data, ancillary, _, _ = probe.recvmsg(65535, 64)
        except OSError:
            continue  # an ICMP error about an earlier probe
        reply = unpack_probe(data)
        if reply is not None:
            rtts.setdefault(reply.number, (_arrival(ancillary) - reply.sent_at - reply.held) / 1000)


def _arrival(ancillary: list[tuple[int, int, bytes]]) -> int:
    """When the kernel got the datagram, in nanoseconds of CLOCK_REALTIME; now, if it did not say."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(data) >= _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack_from(data)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return time.time_ns()


def main(argv: list[str]) -> None:
    if argv[:1] == ["serve"] and len(argv) == 2:
        serve(int(argv[1]))
    elif argv[:1] == ["send"] and len(argv) == 7:
        host, port, rate, seconds, size, tos = argv[1:]
        print(json.dumps(send(host, int(port), float(rate), float(seconds), int(size), int(tos))))
    else:
        sys.exit("usage: probe serve PORT | probe send HOST PORT RATE SECONDS SIZE TOS")


if __name__ == "__main__":
    main(sys.argv[1:])
