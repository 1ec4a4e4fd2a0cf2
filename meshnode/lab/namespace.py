"""A network namespace: a machine of its own as far as the network goes; files and processes are shared."""

import ctypes
import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Final, TypeVar

from meshnode.lab.command import DEFAULT_TIMEOUT, LabError, find_tool, missing_tools, run
from meshnode.lab.process import Process

T = TypeVar("T")

NAMESPACE_DIRECTORY: Final = Path("/run/netns")  # where `ip netns` pins them
_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h; os.setns came with Python 3.12 only

# Addresses work at once (no duplicate detection, nothing learnt from advertisements), ICMP errors are not
# rationed, and one measurement leaves no TCP metrics behind for the next.
_SYSCTLS: Final = {
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/dad_transmits": "0",
    "net/ipv6/conf/all/accept_ra": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/default/router_solicitations": "0",
    "net/ipv6/icmp/ratelimit": "0",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/icmp_ratelimit": "0",
    "net/ipv4/tcp_no_metrics_save": "1",
}
_FORWARDING: Final = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}


class Namespace:
    """A namespace called `name` in the system and `label` by people.

    `directory` belongs to it alone: logs of its processes, and state of the programs that run in it.
    """

    def __init__(self, label: str, name: str, directory: Path) -> None:
        self.label = label
        self.name = name
        self.directory = directory
        self.processes: list[Process] = []
        self._logs = itertools.count(1)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label}>"

    @property
    def path(self) -> Path:
        return NAMESPACE_DIRECTORY / self.name

    def create(self, *, forwarding: bool = False) -> None:
        """Make the namespace, with its loopback up; it routes for others when `forwarding`."""
        run(["ip", "netns", "add", self.name])
        self.directory.mkdir(parents=True)
        self.write_sysctls({**_SYSCTLS, **(_FORWARDING if forwarding else {})})
        self.ip(["link set lo up"])

    def delete(self) -> None:
        """Stop the processes, then remove the namespace and with it its interfaces."""
        self.stop_processes()
        if self.path.exists():
            run(["ip", "netns", "delete", self.name])

    def stop_processes(self) -> None:
        while self.processes:
            self.processes.pop().stop()

    def ip(self, commands: Iterable[str]) -> None:
        """Run lines such as "link set eth0 up" through one `ip -batch`; LabError at the first that fails."""
        run(["ip", "-n", self.name, "-batch", "-"], stdin="".join(f"{line}\n" for line in commands))

    def nft(self, script: str) -> None:
        """Apply an nftables script, all of it or nothing."""
        run(["ip", "netns", "exec", self.name, _installed("nft"), "-f", "-"], stdin=script)

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float = DEFAULT_TIMEOUT,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
    ) -> CompletedProcess[str]:
        """Run a command in here to its end; LabError when it fails (with `check`) or takes too long."""
        return run(
            [*self._enter, _installed(argv[0]), *argv[1:]], stdin=stdin, check=check, timeout=timeout, env=env
        )

    def popen(
        self, argv: Sequence[str], *, stdin: bool = False, env: Mapping[str, str] | None = None
    ) -> Process:
        """Start a command in here. It writes to a log in `directory` and ends at the latest with the lab."""
        log = self.directory / f"{Path(argv[0]).name}-{next(self._logs)}.log"
        process = Process([*self._enter, _installed(argv[0]), *argv[1:]], log, stdin=stdin, env=env)
        self.processes.append(process)
        return process

    def call(self, function: Callable[[], T]) -> T:
        """Call a Python function in here: on a thread of its own that enters the namespace and then ends.

        A socket made in such a call stays in the namespace wherever it is used later. /proc/net follows the
        main thread: read /proc/thread-self/net. The function must return soon.
        """
        results: list[T] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                _set_network_namespace(self.path)
                results.append(function())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=enter, name=f"in {self.name}", daemon=True)
        thread.start()
        thread.join(DEFAULT_TIMEOUT)
        if errors:
            raise errors[0]
        if not results:
            raise LabError(f"a call in {self.label} did not return within {DEFAULT_TIMEOUT:g} s")
        return results[0]

    def socket(
        self, family: socket.AddressFamily = socket.AF_INET, kind: socket.SocketKind = socket.SOCK_DGRAM
    ) -> socket.socket:
        """A socket that lives in here, to be used and closed by the caller."""
        return self.call(lambda: socket.socket(family, kind))

    def read(self, path: str) -> str:
        """The text of a file below /proc/net, as this namespace sees it: "snmp", "tcp6", "dev"."""
        return self.call(Path("/proc/thread-self/net", path).read_text)

    def write_sysctls(self, values: Mapping[str, str]) -> None:
        """Set sysctls of this namespace; keys are paths below /proc/sys, such as "net/ipv4/ip_forward"."""

        def write() -> None:
            for key, value in values.items():
                try:
                    Path("/proc/sys", key).write_text(value)
                except OSError as error:
                    raise LabError(f"cannot set the sysctl {key}: {error.strerror}") from None

        self.call(write)

    def drop(self, name: str, match: str) -> None:
        """Throw away what the nftables expression `match` selects, forwarded or own, until undrop(name)."""
        self.nft(drop_rules(name, match))

    def undrop(self, name: str) -> None:
        """End what drop(name) began; nothing happens when it is not there."""
        self.nft(f"add table inet drop_{name}\ndelete table inet drop_{name}\n")

    @property
    def _enter(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)


def drop_rules(name: str, match: str) -> str:
    """The nftables script of Namespace.drop(): a table of its own, ahead of NAT and of every other filter."""
    table = f"inet drop_{name}"
    chains = "".join(
        f"  chain on_{hook} {{\n    type filter hook {hook} priority raw + 10\n    {match} drop\n  }}\n"
        for hook in ("input", "forward", "output")
    )
    return f"add table {table}\ndelete table {table}\ntable {table} {{\n{chains}}}\n"


def _installed(tool: str) -> str:
    """The tool as it was asked for, once it is known to be there: `ip netns exec` would not say it well."""
    if find_tool(tool) is None:
        raise LabError(missing_tools(tool))
    return tool


def _set_network_namespace(path: Path) -> None:
    """Move the calling thread into the namespace pinned at `path` (setns(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise LabError(f"cannot enter {path}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)
