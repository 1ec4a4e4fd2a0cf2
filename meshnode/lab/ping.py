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
    deadline: float = 10.0,
) -> PingResult:
    """Send `count` requests of `size` bytes, `interval` seconds apart; losses are a result, not an error.

    `deadline` ends it all, in seconds. "fe80::1%eth0" names a link-local address.
    """
    done = namespace.run(_argv(address, count, interval, size, deadline), check=False, timeout=deadline + 10)
    return parse_ping(done.stdout + done.stderr)


def reaches(namespace: Namespace, address: Address | str) -> bool:
    """Whether one request gets its reply within a second."""
    return ping(namespace, address, count=1, deadline=1.0).received > 0


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
        self._process: Process = namespace.popen(_argv(address, count, interval, 56, seconds + 5))

    def result(self) -> PingResult:
        """Wait for the end."""
        self._process.wait(self._seconds + 20)
        return parse_ping(self._process.output)


def _argv(address: Address | str, count: int, interval: float, size: int, deadline: float) -> list[str]:
    # -W is whole seconds in BusyBox; -w ends everything.
    options = [
        "-n",
        "-c",
        str(count),
        "-i",
        f"{interval:g}",
        "-s",
        str(size),
        "-w",
        str(max(1, round(deadline))),
    ]
    return ["ping", *options, str(address)]
