"""What the benchmark asks of a VPN: start on a hub and its spokes, say which addresses are inside, stop."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from meshnode.lab import Host, LabError
from meshnode.lab.command import find_tool, run
from meshnode.lab.ping import reaches
from meshnode.lab.process import Process

INNER = "10.91.0.0/16"
_READY_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class End:
    """One machine of a VPN: its inner IPv4 address, and the VPN's own processes on it."""

    host: Host
    address: str
    processes: tuple[Process, ...] = ()

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(process.pid for process in self.processes)


@dataclass(slots=True)
class Tunnel:
    """A VPN that runs: every spoke reaches the hub. A pair of hosts is a star with one spoke."""

    hub: End
    spokes: tuple[End, ...]
    idle_ms: dict[str, float] = field(default_factory=dict)
    """Idle round trip time by what measured it, once somebody has: loaded times are told relative to it."""

    @property
    def ends(self) -> tuple[End, ...]:
        return (self.hub, *self.spokes)

    @property
    def spoke(self) -> End:
        """The only spoke of a pair."""
        (spoke,) = self.spokes
        return spoke

    def check(self) -> None:
        """LabError when one of the processes has ended."""
        for end in self.ends:
            for process in end.processes:
                if process.status is not None:
                    last = process.output.strip().splitlines()[-1:] or ["it wrote nothing"]
                    raise LabError(f"{process.log.stem} on {end.host.label} has ended: {last[0]}")

    def stop(self) -> None:
        for end in self.ends:
            for process in end.processes:
                process.stop()


class Vpn(ABC):
    """One VPN with its defaults, as Debian ships it."""

    name: str
    tools: tuple[str, ...] = ()
    """The programs it needs; where one is missing the VPN is left out and the report says so."""

    @abstractmethod
    def version(self) -> str:
        """As its own program tells."""

    @abstractmethod
    def start(self, hub: Host, spokes: Sequence[Host]) -> Tunnel:
        """Configure and start it; the tunnel need not carry anything yet (see connect)."""

    def settle(self, tunnel: Tunnel) -> None:  # noqa: B027  # most have nothing to wait for
        """Wait for what the VPN still has to find out when packets pass already."""

    def missing(self) -> list[str]:
        return [tool for tool in self.tools if find_tool(tool) is None]

    def connect(self, hub: Host, spokes: Sequence[Host]) -> Tunnel:
        """Start it and wait until every spoke reaches the hub and back. LabError when it does not."""
        tunnel = self.start(hub, spokes)
        try:
            deadline = time.monotonic() + _READY_TIMEOUT + 2 * len(spokes)
            for spoke in tunnel.spokes:
                while not (
                    reaches(spoke.host, tunnel.hub.address) and reaches(tunnel.hub.host, spoke.address)
                ):
                    tunnel.check()
                    if time.monotonic() > deadline:
                        raise LabError(f"{self.name}: {spoke.host.label} does not reach the hub")
            self.settle(tunnel)
        except BaseException:
            tunnel.stop()
            raise
        return tunnel


def inner_address(index: int) -> str:
    """Of the hub (0) and its spokes (1...)."""
    return f"10.91.0.{index + 1}"


def first_line(argv: Iterable[str], *, stream: str = "stdout") -> str:
    """The first line that a program prints about itself."""
    done = run(list(argv), check=False)
    text = str(getattr(done, stream)).strip() or (done.stdout + done.stderr).strip()
    return text.splitlines()[0] if text else "unknown"
