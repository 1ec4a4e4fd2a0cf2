"""ICMP echo: the kernel answers and stamps, so what is measured is the path and not a program."""

import re
from dataclasses import dataclass
from typing import Final

from meshnode.lab.command import LabError
from meshnode.lab.deadline import wait_until
from meshnode.lab.interface import Address
from meshnode.lab.namespace import Namespace
from meshnode.lab.process import Process

_REPLY: Final = re.compile(r"^\d+ bytes from .*?seq=(\d+) .*?time=([\d.]+) ms( \(DUP!\))?", re.MULTILINE)
_SUMMARY: Final = re.compile(r"^(\d+) packets transmitted, (\d+) (?:packets )?received", re.MULTILINE)

_NO_ROUTE: Final = "connect: Network is unreachable"  # our own kernel knows already; nothing is sent


@dataclass(frozen=True, slots=True)
class PingResult:
    """Round trip times in milliseconds, in the order of their arrival."""

    sent: int
    received: int
    rtts_ms: tuple[float, ...]
    duplicates: int = 0

    @property
    def loss(self) -> float:
        """The share of requests without a reply, 0 to 1."""
        return 1 - self.received / self.sent if self.sent else 0.0


def parse_ping(text: str) -> PingResult:
    """From the output of iputils' or BusyBox' ping; LabError when it never came to send."""
    summary = _SUMMARY.search(text)
    if summary is None:
        raise LabError(f"ping sent nothing: {text.strip().splitlines()[-1] if text.strip() else 'no output'}")
    replies = _REPLY.findall(text)
    rtts = tuple(float(rtt) for _, rtt, duplicate in replies if not duplicate)
    return PingResult(int(summary[1]), int(summary[2]), rtts, sum(bool(each[2]) for each in replies))


def ping(
    namespace: Namespace,
    address: Address | str,
    *,
    count: int = 5,
    interval: float = 0.05,
    size: int = 56,
    patience: float = 2.0,
) -> PingResult:
    """Send `count` requests of `size` bytes, `interval` seconds apart; loss is a result and not an error.

    Replies are waited for `patience` seconds after the last request, or two round trips if there were some.
    "fe80::1%eth0" names a link-local address.
    """
    argv = _argv(address, count, interval, size, patience)
    done = namespace.run(argv, check=False, timeout=count * interval + patience + 20)
    if _NO_ROUTE in done.stderr:
        return PingResult(count, 0, ())
    return parse_ping(done.stdout + done.stderr)


def reaches(namespace: Namespace, address: Address | str) -> bool:
    """Whether one request gets its reply within a second."""
    return ping(namespace, address, count=1, patience=1.0).received > 0


def wait_until_reachable(namespace: Namespace, address: Address | str, timeout: float = 10.0) -> None:
    """Ping until there is a reply; LabError after about `timeout` seconds."""
    what = f"{namespace.label} to reach {address}"
    wait_until(lambda: reaches(namespace, address), what, timeout=timeout)


class PingRun:
    """A ping in the background, beside the load under which it measures."""

    def __init__(
        self, namespace: Namespace, address: Address | str, *, seconds: float, interval: float = 0.05
    ) -> None:
        count = max(1, round(seconds / interval))
        self._seconds = seconds
        self._process: Process = namespace.popen(_argv(address, count, interval, 56, 5.0))

    def result(self) -> PingResult:
        """Wait for the end."""
        self._process.wait(self._seconds + 20)
        return parse_ping(self._process.output)


def _argv(address: Address | str, count: int, interval: float, size: int, patience: float) -> list[str]:
    # Not -w: with it, iputils sends on until `count` replies came. -W is in whole seconds in BusyBox.
    wait = str(max(1, round(patience)))
    options = ["-n", "-c", str(count), "-i", f"{interval:g}", "-s", str(size), "-W", wait]
    return ["ping", *options, str(address)]
