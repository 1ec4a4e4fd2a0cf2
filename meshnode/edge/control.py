"""The control socket: the commands of the CLI to a running node. One JSON line asks, one JSON line answers."""

from __future__ import annotations

import pathlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

Handler = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
"""(command, args) -> result, any JSON value. EdgeError becomes the error line of the answer."""


class Listener:
    """The bound socket `path`; `close` removes it."""

    path: pathlib.Path

    def close(self) -> None:
        raise NotImplementedError


def socket_path(runtime_dir: pathlib.Path, net: str) -> pathlib.Path:
    return runtime_dir / f"{net}.sock"


def listen(runtime_dir: pathlib.Path, net: str) -> Listener:
    """Make the directory (0700) and the socket (0600). Raises EdgeError."""
    raise NotImplementedError


async def serve(
    listener: Listener, handler: Handler, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer until cancelled."""
    raise NotImplementedError


def call(
    path: pathlib.Path, command: str, args: Mapping[str, Any] | None = None, timeout: float = 10.0
) -> Any:
    """Ask the node and return its result. Raises NotRunning, or EdgeError with the node's error line."""
    raise NotImplementedError
