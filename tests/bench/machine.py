"""The machine and the time of a run, as far as they matter for the figures."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def description() -> list[str]:
    """Lines for people."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return [
        f"{len(os.sched_getaffinity(0))} cores of {cpu_model()}, {memory:.0f} GiB of memory",
        f"Linux {platform.release()}, Python {platform.python_version()}",
        f"begun {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    ]


def load_average() -> str:
    """Of the last minute and the last five."""
    one, five, _ = os.getloadavg()
    return f"{one:.1f} and {five:.1f}"


def stolen_share(before: tuple[int, int]) -> float:
    """The share of CPU time that the hypervisor gave to others since `before` (see cpu_times)."""
    stolen, total = cpu_times()
    return (stolen - before[0]) / max(1, total - before[1])


def cpu_times() -> tuple[int, int]:
    """Stolen and total CPU time since boot, in ticks: the first line of /proc/stat, proc(5)."""
    fields = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]))
    return fields[7], sum(fields)
