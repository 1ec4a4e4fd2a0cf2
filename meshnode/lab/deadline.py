"""Wait for a state by looking at it again and again until a deadline, never by a fixed sleep."""

import time
from collections.abc import Callable

from meshnode.lab.command import LabError


def wait_until(
    condition: Callable[[], bool], what: str, *, timeout: float = 10.0, interval: float = 0.02
) -> None:
    """Return as soon as `condition()` holds; LabError naming `what` when `timeout` seconds have passed."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            raise LabError(f"waited {timeout:g} s in vain: {what}")
        time.sleep(interval)
