"""What goes wrong between this program and the machine, said to a person."""

from __future__ import annotations

import os


class EdgeError(Exception):
    """The machine refused something. `str()` is one line: what is wrong and what to do about it."""


class StoreBusy(EdgeError):
    """Another process holds the lock on this network's state: its node runs."""


class NotRunning(EdgeError):
    """No node answers on the control socket."""


def reason(error: OSError) -> str:
    """What the operating system says, without Python's decoration: `No space left on device`."""
    return os.strerror(error.errno) if error.errno else str(error)
