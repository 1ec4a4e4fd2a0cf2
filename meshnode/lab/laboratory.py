"""The lab itself: a context manager that builds networks and leaves nothing behind."""

import atexit
import itertools
import os
import signal
import threading
from collections.abc import Iterable
from ipaddress import IPv4Network
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self

from meshnode.lab.inventory import Inventory, sweep
from meshnode.lab.namespace import Namespace
from meshnode.lab.node import BOTH, Core, Host, Switch

_numbers: Final = itertools.count(1)


class Lab:
    """Networks for the time of a `with` block.

        with Lab() as lab:
            core = lab.core()
            home = core.router("home", nat=Nat.CONE, wire=Wire(delay_ms=20))
            home.uplink.shape(up_mbit=10, down_mbit=50)
            a = home.host("a")
            b = core.host("b")
            a.run(["ping", "-c1", str(b.address4)])

    Whatever ends the block (an exception, Ctrl-C, SIGTERM, the interpreter's exit) ends all processes in the
    lab and removes its namespaces. After SIGKILL the next lab does it: each begins by sweeping up after dead
    processes.
    """

    def __init__(self) -> None:
        self._inventory: Inventory | None = None
        self._pid = os.getpid()
        self._old_handler: signal.Handlers | None = None

    def __enter__(self) -> Self:
        sweep()
        self._inventory = Inventory(next(_numbers))
        atexit.register(self.close)
        # SIGTERM would end Python without unwinding. Somebody else's handler is left alone.
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._old_handler = signal.SIG_DFL
            signal.signal(signal.SIGTERM, _interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything now. Harmless when repeated, and in a forked child."""
        if self._inventory is None or os.getpid() != self._pid:
            return
        self._inventory.close()
        self._inventory = None
        atexit.unregister(self.close)
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)

    @property
    def directory(self) -> Path:
        """The lab's own directory; each node has one in it, called as the node is."""
        return self._things.directory

    @property
    def namespaces(self) -> dict[str, Namespace]:
        """All namespaces by label, those of delay lines included."""
        return dict(self._things.namespaces)

    def core(self, label: str = "core") -> Core:
        """An internet: hang routers and hosts with public addresses on it."""
        return Core(self._things, label)

    def switch(
        self, label: str = "switch", *, lan: IPv4Network | None = None, versions: Iterable[int] = BOTH
    ) -> Switch:
        """A LAN without a router."""
        return Switch(self._things, label, lan, versions)

    def host(self, label: str) -> Host:
        """A host that hangs on nothing yet: see Upstream.attach()."""
        return Host(self._things, label)

    @property
    def _things(self) -> Inventory:
        assert self._inventory is not None, "use `with Lab() as lab:`"
        return self._inventory


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
