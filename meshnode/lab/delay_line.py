"""A delay line: two interfaces in a namespace of their own, and a program that carries frames between them.

The program is delay.c, compiled on first use and kept by the hash of its source, or slow_delay.py where there
is no compiler. The namespace has no addresses: in the core's own, the kernel would answer ARP on the wrong
side of the line.
"""

import hashlib
import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meshnode.lab.command import LabError, find_tool, run
from meshnode.lab.deadline import wait_until
from meshnode.lab.namespace import Namespace

LEFT: Final = "left"
RIGHT: Final = "right"
_SOURCE: Final = Path(__file__).with_name("delay.c")
_SLOW_SOURCE: Final = Path(__file__).with_name("slow_delay.py")
_COMPILE_TIMEOUT: Final = 120.0  # a loaded machine


@dataclass(frozen=True, slots=True)
class Wire:
    """What a delay line does to each frame, in both directions alike.

    Loss and duplication are probabilities of a *frame*, and a superpacket is one frame: forbid them where single
    packets shall be lost (Interface.set_superpackets). Jitter adds from 0 to `jitter_ms` and never reorders.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    limit_bytes: int = 128 << 20
    seed: int = 1
    native: bool | None = None
    """True insists on the compiled program, False forbids it, None takes it where there is a compiler."""

    def __post_init__(self) -> None:
        if self.delay_ms < 0 or self.jitter_ms < 0 or not 0 <= self.loss <= 1 or not 0 <= self.duplicate <= 1:
            raise LabError(
                "a wire's delay and jitter are not negative, its loss and duplicate between 0 and 1"
            )

    def line(self) -> str:
        """The line that tells the program (see delay.c)."""
        delay, jitter = round(self.delay_ms * 1000), round(self.jitter_ms * 1000)
        return f"{delay} {jitter} {round(self.loss * 1e6)} {round(self.duplicate * 1e6)} {self.limit_bytes}"


@dataclass(frozen=True, slots=True)
class WireCounters:
    """Frames of both directions since the line was made."""

    forwarded: int
    lost: int
    duplicated: int
    overflowed: int
    errors: int


class DelayLine:
    """A running delay line in `namespace`, whose interfaces "left" and "right" are up."""

    def __init__(self, namespace: Namespace, wire: Wire) -> None:
        self.namespace = namespace
        self._process = namespace.popen(
            [*_program(wire.native, namespace.directory), LEFT, RIGHT, str(wire.seed)], stdin=True
        )
        self._asked = 0
        self.change(wire)

    def change(self, wire: Wire) -> None:
        """Treat the frames that come in from now on as `wire` says (its seed apart)."""
        self._ask(wire.line())

    def counters(self) -> WireCounters:
        return WireCounters(*map(int, self._ask("").split()))

    def _ask(self, line: str) -> str:
        self._process.write(line)
        self._asked += 1

        def answered() -> bool:
            if self._process.output.count("\n") >= self._asked:
                return True
            if self._process.status is not None:
                raise LabError(
                    f"the delay line is gone: {self._process.output.strip() or 'it wrote nothing'}"
                )
            return False

        wait_until(answered, "the delay line to answer", interval=0.002)
        return self._process.output.splitlines()[self._asked - 1]


def build(spare: Path) -> Path:
    """The compiled delay.c: from the cache, or made now; in the directory `spare` when there can be no cache.

    LabError when it cannot be compiled.
    """
    source = _SOURCE.read_bytes()
    name = f"delay-{hashlib.sha256(source + platform.machine().encode()).hexdigest()[:16]}"
    cache = _cache_directory() or spare
    program = cache / name
    # Somebody else's file is not run, even with the right name: the lab is root.
    if program.is_file() and program.stat().st_uid == os.geteuid():
        return program
    descriptor, scratch = tempfile.mkstemp(prefix=name, dir=cache)
    os.close(descriptor)
    try:
        run(["cc", "-O2", "-o", scratch, str(_SOURCE)], timeout=_COMPILE_TIMEOUT)
        Path(scratch).chmod(0o755)
        os.replace(scratch, program)  # whole or not at all, when two labs begin at once
    finally:
        Path(scratch).unlink(missing_ok=True)
    return program


def _program(native: bool | None, spare: Path) -> list[str]:
    if native or (native is None and find_tool("cc") is not None):
        return [str(build(spare))]
    return [sys.executable, "-I", str(_SLOW_SOURCE)]


def _cache_directory() -> Path | None:
    """$XDG_CACHE_HOME/meshnode, or None when that cannot be written."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    cache = Path(base, "meshnode")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK | os.X_OK):
            return cache
    except OSError:
        pass  # no home, or a read-only one
    return None
