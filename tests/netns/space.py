"""A network namespace that a test enters itself, so that it can hold TUN devices and sockets from inside."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x4000_0000
_LIBC = ctypes.CDLL(None, use_errno=True)


class Space:
    """One namespace. What is opened within `entered()` stays there, and may be used from outside."""

    def __init__(self, name: str) -> None:
        self.name = name
        subprocess.run(["ip", "netns", "add", name], check=True)
        self.ip("link set lo up")

    def ip(self, arguments: str) -> str:
        """Run `ip` inside and return what it prints."""
        command = ["ip", "-n", self.name, *arguments.split()]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def run(self, line: str) -> None:
        """Run a program inside."""
        subprocess.run(self.command(*line.split()), check=True)

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs a program inside."""
        return ["ip", "netns", "exec", self.name, *arguments]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is inside: new sockets and devices, and what it reads in /proc/thread-self and /proc/sys."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            with open(f"/run/netns/{self.name}") as there:
                _set_namespace(there.fileno())
            try:
                yield
            finally:
                _set_namespace(home)
        finally:
            os.close(home)

    def checksum_errors(self) -> int:
        """Packets that a protocol of this namespace threw away for a wrong checksum."""
        with self.entered():
            v4 = Path("/proc/thread-self/net/snmp").read_text().splitlines()
            v6 = Path("/proc/thread-self/net/snmp6").read_text().splitlines()
        counts = [line.split()[1] for line in v6 if "InCsumErrors" in line.split()[0]]
        for names, values in zip(v4[::2], v4[1::2], strict=True):
            counts += [
                value
                for name, value in zip(names.split(), values.split(), strict=True)
                if name == "InCsumErrors"
            ]
        assert counts
        return sum(map(int, counts))

    def close(self) -> None:
        """Remove the namespace and what is in it."""
        subprocess.run(["ip", "netns", "del", self.name], check=True)


def _set_namespace(descriptor: int) -> None:
    if _LIBC.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def spaces(count: int, label: str) -> Iterator[list[Space]]:
    """`count` fresh namespaces, removed at the end whatever happens."""
    made: list[Space] = []
    try:
        for number in range(count):
            made.append(Space(f"mn-{label}-{os.getpid()}-{number}"))
        yield made
    finally:
        for space in made:
            space.close()
