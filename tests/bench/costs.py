"""What a VPN's processes cost the system: CPU time, and system calls."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from meshnode.lab import LabError
from meshnode.lab.command import find_tool
from meshnode.lab.counters import snmp
from meshnode.lab.process import Process
from tests.bench.vpn import End, Tunnel

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_EVENT: Final = "raw_syscalls:sys_enter"


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads: fields 14 and 15 of /proc/PID/stat, proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


class Stopwatch:
    """CPU time of all processes of a tunnel since it was made."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self._start = self._sum()

    def cpu_seconds(self) -> float:
        return self._sum() - self._start

    def _sum(self) -> float:
        return sum(cpu_seconds(pid) for end in self._tunnel.ends for pid in end.pids)


class SyscallCount:
    """System calls of one end's processes during a `with` block, counted by the kernel (perf stat).

    strace would slow them down so much that they find more packets waiting at each turn, and count too few.
    """

    def __init__(self, end: End) -> None:
        self._end = end
        self.calls = 0

    def __enter__(self) -> Self:
        if find_tool("perf") is None:
            raise LabError("perf not found: apt-get install linux-perf")
        pids = ",".join(map(str, self._end.pids))
        argv = ["perf", "stat", "-x", ",", "-e", _EVENT, "-p", pids]
        self._perf = Process(argv, self._end.host.directory / "perf.log")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._perf.signal(signal.SIGINT)
        self._perf.wait(10)
        output = self._perf.output
        self._perf.stop()
        counts = [line.split(",")[0] for line in output.splitlines() if _EVENT in line]
        if counts and counts[0].isdigit():
            self.calls = int(counts[0])
        elif error is None:
            raise LabError("perf counts no system calls here")


def segments_sent(end: End) -> int:
    """TCP segments that the host has sent as they are on the wire, whatever superpackets carried them to it.

    The other host is no witness: its InSegs counts a superpacket once.
    """
    return snmp(end.host)["Tcp"]["OutSegs"]
