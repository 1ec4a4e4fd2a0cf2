"""Processes that the lab starts: each leads a group of its own, writes to a log, is killed by its pid."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from meshnode.lab.command import LabError, environment, find_tool, missing_tools
from meshnode.lab.deadline import wait_until


class Process:
    """A running command, its standard output and error together in `log`.

    The command leads a new session, hence a process group, so that stop() reaches what it forked, too.
    """

    niceness: ClassVar[int] = 0
    """Of what is started from now on; below 0 the whole lab goes before the rest of a shared machine."""

    def __init__(
        self, argv: Sequence[str], log: Path, *, stdin: bool = False, env: Mapping[str, str] | None = None
    ) -> None:
        if find_tool(argv[0]) is None:
            raise LabError(missing_tools(argv[0]))
        self.argv = tuple(argv)
        self.log = log
        with log.open("wb") as sink:
            self._popen = subprocess.Popen(
                self.argv,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=environment(env),
                start_new_session=True,
                bufsize=0,  # a line is one write, and nothing is left to flush when the reader is gone
            )
        if self.niceness:
            self._set_autogroup_niceness()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def status(self) -> int | None:
        """None while the command runs, then its exit status (minus the signal, if one killed it)."""
        if self._popen.returncode is not None:
            return self._popen.returncode
        # Looked at, not reaped: the zombie keeps its number from a stranger until stop() has used it.
        end = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if end is None:
            return None
        return end.si_status if end.si_code == os.CLD_EXITED else -end.si_status

    @property
    def output(self) -> str:
        """All that the command has written until now."""
        return self.log.read_text(errors="replace")

    def write(self, line: str) -> None:
        """Send one line to the standard input of a command that was started with `stdin=True`."""
        assert self._popen.stdin is not None, "started without stdin=True"
        try:
            self._popen.stdin.write(line.encode() + b"\n")
            self._popen.stdin.flush()
        except BrokenPipeError:
            raise LabError(f"{self._name} is gone: {self._tail()}") from None

    def wait(self, timeout: float) -> int:
        """Wait for the end and return the exit status; LabError after `timeout` seconds."""
        wait_until(lambda: self.status is not None, f"{self._name} to end", timeout=timeout)
        status = self.status
        assert status is not None
        return status

    def wait_for_output(self, text: str, timeout: float = 10.0) -> None:
        """Return once `text` was written; LabError when the command ends, or the time, before that."""

        def said() -> bool:
            ended = self.status is not None  # asked first: what it wrote before its end counts
            if text in self.output:
                return True
            if ended:
                raise LabError(f"{self._name} ended with status {self.status}: {self._tail()}")
            return False

        wait_until(said, f"{self._name} to say {text!r}", timeout=timeout)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command's whole group; nothing happens when it is gone."""
        if self._popen.returncode is not None:
            return  # reaped: the number may belong to somebody else by now
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass  # it ended in this moment

    def stop(self, grace: float = 2.0) -> None:
        """End the command and its group: SIGTERM, `grace` seconds, then SIGKILL. Harmless when repeated."""
        if self._popen.returncode is not None:
            return
        self.signal(signal.SIGTERM)
        try:
            self.wait(grace)
        except LabError:
            pass  # it gets SIGKILL now, as do children that outlived it
        self.signal(signal.SIGKILL)
        self._popen.wait()
        if self._popen.stdin is not None:
            self._popen.stdin.close()

    def _set_autogroup_niceness(self) -> None:
        """Of our session: between sessions, a process's own niceness counts for nothing (sched(7))."""
        try:
            Path(f"/proc/{self.pid}/autogroup").write_text(str(self.niceness))
        except OSError:
            pass  # it has ended, or the kernel has no autogroups

    @property
    def _name(self) -> str:
        return f"`{' '.join(self.argv[:8])}`"

    def _tail(self) -> str:
        lines = self.output.strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"


def lives(pid: int) -> bool:
    """Whether a process runs; a zombie, which has no command line any more, does not."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except (FileNotFoundError, ProcessLookupError):
        return False
