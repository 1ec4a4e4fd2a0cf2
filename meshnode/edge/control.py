"""The control socket: what the CLI asks of a running node. One JSON line asks, one JSON line answers.

    {"command": "ping", "args": {"peer": "office"}}
    {"ok": true, "result": {"rtt_ms": 1.5}}    or    {"ok": false, "error": "what is wrong and what to do"}

The socket is a file of mode 0600 and every caller's uid is checked again. Whatever a caller does (sends a megabyte,
nothing at all, or never reads) costs a bounded amount of memory and of the node's time.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import pathlib
import socket
import stat
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from meshnode.edge.errors import EdgeError, NotRunning, reason

Handler = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
"""(command, args) -> result, any JSON value. An EdgeError becomes the error line of the answer."""

MAX_LINE = 64 << 10
MAX_CONNECTIONS = 16
REQUEST_TIME = 10.0
"""Seconds, each, to send a request, to be answered, and to read the answer."""

_MAX_REPLY = 64 << 20
_MAX_PATH = 107
_PEER_CREDENTIALS = struct.Struct("3i")

log = logging.getLogger(__name__)


class Listener:
    """The bound socket. `close` takes its file away."""

    def __init__(self, path: pathlib.Path, bound: socket.socket) -> None:
        self.path = path
        self.socket = bound

    def close(self) -> None:
        """Stop listening."""
        if self.socket.fileno() >= 0:
            self.path.unlink(missing_ok=True)
            self.socket.close()


def socket_path(runtime_dir: pathlib.Path, net: str) -> pathlib.Path:
    """Where the node of `net` listens."""
    return runtime_dir / f"{net}.sock"


def listen(runtime_dir: pathlib.Path, net: str) -> Listener:
    """Make the directory (0700) unless it is there, and the socket (0600). Raises EdgeError.

    The caller holds the network's lock, so a socket that is there already was left by a node that was killed.
    """
    path = socket_path(runtime_dir, net)
    if len(os.fsencode(path)) > _MAX_PATH:
        raise EdgeError(
            f"{path} is too long for a socket (at most {_MAX_PATH} bytes): choose a shorter --runtime-dir"
        )
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        _make_directory(runtime_dir)
        _remove_stale(path)
        before = os.umask(0o177)
        try:
            bound.bind(os.fspath(path))
        finally:
            os.umask(before)
        bound.listen(MAX_CONNECTIONS)
    except OSError as error:
        bound.close()
        fix = "run as root, or choose a --runtime-dir that you may write"
        raise EdgeError(f"cannot listen on {path} ({reason(error)}): {fix}") from error
    except BaseException:
        bound.close()
        raise
    return Listener(path, bound)


async def serve(listener: Listener, handler: Handler) -> None:
    """Answer until cancelled, at most MAX_CONNECTIONS callers at a time; more are turned away at once."""
    server = trio.socket.from_stdlib_socket(listener.socket)
    async with trio.open_nursery() as nursery:
        while True:
            try:
                client, _ = await server.accept()
            except OSError:  # no descriptors or no memory: let those that are served finish
                await trio.sleep(0.1)
                continue
            if len(nursery.child_tasks) < MAX_CONNECTIONS and _is_allowed(client):
                nursery.start_soon(_converse, trio.SocketStream(client), handler)
            else:
                client.close()


def call(
    path: pathlib.Path, command: str, args: Mapping[str, Any] | None = None, timeout: float = 10.0
) -> Any:
    """Ask the node and return its result; `timeout` in seconds is for everything together.

    Raises NotRunning when nobody listens, and EdgeError with the node's own line or what went wrong on the way.
    """
    request = json.dumps({"command": command, "args": args or {}}).encode() + b"\n"
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        try:
            connection.settimeout(timeout)
            connection.connect(os.fspath(path))
            connection.sendall(request)
            reply = _read_reply(connection, deadline)
        except TimeoutError as error:
            raise EdgeError(f"the node does not answer on {path} within {timeout:g} s: restart it") from error
        except OSError as error:
            raise _unreachable(path, error) from error
    return _result(path, reply)


async def _converse(stream: trio.SocketStream, handler: Handler) -> None:
    """Answer one request after the other until the caller leaves, or is too slow."""
    rest = bytearray()
    async with stream:
        try:
            while True:
                with trio.fail_after(REQUEST_TIME):
                    line = await _read_line(stream, rest)
                if line is None:
                    return
                reply = (
                    await _answer(line, handler)
                    if line
                    else _failure(f"a request has at most {MAX_LINE} bytes")
                )
                with trio.fail_after(REQUEST_TIME):
                    await stream.send_all(reply)
                if not line:
                    return
        except (trio.TooSlowError, trio.BrokenResourceError):
            pass  # the caller's loss


async def _read_line(stream: trio.SocketStream, rest: bytearray) -> bytes | None:
    """The next line with its end; empty when it is too long, None when the caller left. `rest` keeps the surplus."""
    searched = 0
    while (end := rest.find(b"\n", searched)) < 0:
        if len(rest) > MAX_LINE:
            return b""
        searched = len(rest)
        data = await stream.receive_some(MAX_LINE)
        if not data:
            return None
        rest += data
    line = bytes(rest[: end + 1])
    del rest[: end + 1]
    return line if len(line) <= MAX_LINE else b""


async def _answer(line: bytes, handler: Handler) -> bytes:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return _failure("a request is one line of JSON")
    match request:
        case {"command": str(command), **others} if isinstance(args := others.get("args", {}), dict):
            pass
        case _:
            return _failure('a request is {"command": "...", "args": {...}}')
    try:
        with trio.fail_after(REQUEST_TIME):
            result = await handler(command, args)
        return json.dumps({"ok": True, "result": result}).encode() + b"\n"
    except EdgeError as error:
        return _failure(str(error))
    except trio.TooSlowError:
        return _failure(f"{command} took more than {REQUEST_TIME:g} s")
    except Exception:  # a bug in one answer is no reason to take the tunnel down
        log.exception("the answer to a control request failed")
        return _failure("an internal error: the node's log has the details")


def _failure(text: str) -> bytes:
    return json.dumps({"ok": False, "error": text}).encode() + b"\n"


def _is_allowed(client: trio.socket.SocketType) -> bool:
    """Whether the caller is root or runs as our own user."""
    data = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    _, uid, _ = _PEER_CREDENTIALS.unpack(data)
    return uid in (0, os.geteuid())


def _make_directory(directory: pathlib.Path) -> None:
    if not directory.is_dir():
        directory.mkdir(mode=0o700, parents=True)
        directory.chmod(0o700)
    status = directory.stat()
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise EdgeError(
            f"others can write to {directory}: choose another --runtime-dir, or run `chmod 700 {directory}`"
        )


def _remove_stale(path: pathlib.Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise EdgeError(f"{path} is in the way and is no socket: remove it")
        path.unlink()
    except FileNotFoundError:
        pass


def _read_reply(connection: socket.socket, deadline: float) -> bytes:
    reply = bytearray()
    while not reply.endswith(b"\n") and len(reply) < _MAX_REPLY:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        data = connection.recv(MAX_LINE)
        if not data:
            break
        reply += data
    return bytes(reply)


def _result(path: pathlib.Path, reply: bytes) -> Any:
    try:
        answer = json.loads(reply)
    except ValueError as error:
        text = "the node is busy with other commands or has just stopped: try again"
        raise EdgeError(f"{path} gave no answer: {text}") from error
    if answer["ok"]:
        return answer["result"]
    raise EdgeError(answer["error"])


def _unreachable(path: pathlib.Path, error: OSError) -> EdgeError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED):
        return NotRunning(f"no node answers on {path}: start it with `meshnode join`")
    if error.errno in (errno.EPIPE, errno.ECONNRESET, errno.EAGAIN):
        return EdgeError(f"the node closed {path}: it is busy with other commands or stops, try again")
    if error.errno == errno.EACCES:
        return EdgeError(f"not allowed to use {path}: run as root or as the node's user")
    return EdgeError(f"cannot reach the node on {path}: {reason(error)}")
