"""The control socket: an honest caller is answered whatever dishonest ones do."""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from meshnode.edge import control
from meshnode.edge.errors import EdgeError, NotRunning


async def handle(command: str, args: Mapping[str, Any]) -> Any:
    match command:
        case "echo":
            return dict(args)
        case "refuse":
            raise EdgeError("no such peer: see `meshnode peers`")
        case "crash":
            raise ZeroDivisionError("the secret")
        case "stall":
            await trio.sleep_forever()
        case "big":
            return "x" * 5_000_000
    return None


@contextmanager
def serving(tmp_path: Path) -> Iterator[Path]:
    """A node's side on a thread of its own, the way the CLI meets it. Yields the socket's path."""
    listener = control.listen(tmp_path / "run", "home")
    ready: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = []
    started = threading.Event()

    async def main() -> None:
        with trio.CancelScope() as scope:
            ready.append((trio.lowlevel.current_trio_token(), scope))
            started.set()
            await control.serve(listener, handle)

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    started.wait()
    token, scope = ready[0]
    try:
        yield listener.path
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join()
        listener.close()


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    with serving(tmp_path) as socket_file:
        yield socket_file


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    connection.settimeout(10)
    return connection


def exchange(path: Path, data: bytes) -> dict[str, Any]:
    with connect(path) as connection, connection.makefile("rb") as replies:
        connection.sendall(data)
        reply = json.loads(replies.readline())
    assert isinstance(reply, dict)
    return reply


def test_a_command_is_answered(path: Path) -> None:
    assert control.call(path, "echo", {"peer": "ä", "n": [1, 2]}) == {"peer": "ä", "n": [1, 2]}
    assert control.call(path, "echo") == {}
    assert control.call(path, "unknown") is None
    assert len(control.call(path, "big")) == 5_000_000


def test_several_requests_share_a_connection(path: Path) -> None:
    with connect(path) as connection, connection.makefile("rb") as replies:
        connection.sendall(
            b'{"command": "echo", "args": {"n": 1}}\n{"command": "echo", "args": {"n": 2}}\n{"comm'
        )
        assert json.loads(replies.readline()) == {"ok": True, "result": {"n": 1}}
        assert json.loads(replies.readline()) == {"ok": True, "result": {"n": 2}}
        connection.sendall(b'and": "echo"}\n')
        assert json.loads(replies.readline()) == {"ok": True, "result": {}}


def test_the_nodes_own_line_reaches_the_person(path: Path) -> None:
    with pytest.raises(EdgeError, match=r"no such peer: see `meshnode peers`"):
        control.call(path, "refuse")


def test_a_bug_in_one_answer_is_logged_and_not_shown(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(EdgeError, match="internal error") as caught:
        control.call(path, "crash")
    assert "secret" not in str(caught.value)
    assert "ZeroDivisionError" in caplog.text
    assert control.call(path, "echo") == {}


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"nonsense\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"7\n",
        b"{}\n",
        b'{"command": 7}\n',
        b'{"command": "echo", "args": []}\n',
        b'{"command": "echo", "args": null}\n',
        b"[" * 60_000 + b"\n",
        b'{"a":' * 12_000 + b"\n",
    ],
)
def test_malformed_requests(path: Path, line: bytes) -> None:
    reply = exchange(path, line)
    assert reply["ok"] is False
    assert "\n" not in reply["error"]
    assert control.call(path, "echo") == {}


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_of_a_megabyte_is_cut_off(path: Path, end: bytes) -> None:
    with connect(path) as connection:
        try:
            connection.sendall(b"x" * 1_000_000 + end)
            reply = connection.recv(1000)
        except (BrokenPipeError, ConnectionResetError):
            reply = b""  # it hung up before we had sent it all
    assert reply == b"" or b"at most 65536 bytes" in reply
    assert control.call(path, "echo") == {}


def test_a_request_may_have_64_kib_and_not_a_byte_more(path: Path) -> None:
    frame = len(b'{"command": "echo", "args": {"": ""}}\n')
    for size, ok in ((control.MAX_LINE, True), (control.MAX_LINE + 1, False)):
        filler = b"x" * (size - frame)
        assert exchange(path, b'{"command": "echo", "args": {"": "' + filler + b'"}}\n')["ok"] is ok


def test_callers_that_say_nothing_do_not_block_others(path: Path) -> None:
    silent = [connect(path) for _ in range(control.MAX_CONNECTIONS - 1)]
    silent[0].sendall(b'{"command": "echo"')  # half a request
    silent[1].shutdown(socket.SHUT_WR)  # half open
    assert control.call(path, "echo", {"n": 1}) == {"n": 1}
    for each in silent:
        each.close()


def test_200_connections_are_turned_away_and_the_node_recovers(path: Path) -> None:
    crowd = [connect(path) for _ in range(200)]
    turned_away = 0
    for each in crowd[control.MAX_CONNECTIONS :]:
        assert each.recv(1) == b""
        turned_away += 1
    assert turned_away == 200 - control.MAX_CONNECTIONS
    with pytest.raises(EdgeError, match="busy"):
        control.call(path, "echo")
    for each in crowd:
        each.close()
    _until_answered(path)


def _until_answered(path: Path) -> None:
    for _ in range(1000):
        try:
            assert control.call(path, "echo") == {}
        except EdgeError:
            continue
        return
    pytest.fail("the node does not answer any more")


def test_a_caller_that_never_reads_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_TIME", 0.2)
    with connect(path) as connection:
        connection.sendall(b'{"command": "big"}\n')
        assert control.call(path, "echo") == {}
        hung_up = select.poll()
        hung_up.register(connection, select.POLLHUP)
        assert hung_up.poll(10_000)
        size = 0  # what the socket already held may still be read
        while data := connection.recv(1 << 20):
            size += len(data)
    assert size < 5_000_000


def test_a_command_that_takes_too_long_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_TIME", 0.2)
    with pytest.raises(EdgeError, match="stall took more than"):
        control.call(path, "stall")


def test_another_users_calls_are_refused(path: Path) -> None:
    """Even where the file's mode was widened by hand."""
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    path.chmod(0o666)
    path.parent.chmod(0o755)
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.chdir(path.parent)  # as somebody else it could not walk down to it
            os.setuid(65534)
            with connect(Path(path.name)) as connection:
                os.write(writer, b"got " + connection.recv(100))
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, "rb") as answer:
        assert answer.read() == b"got "
    assert control.call(path, "echo") == {}


@pytest.mark.parametrize("mask", [0, 0o077])
def test_the_socket_is_private_under_any_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        listener = control.listen(tmp_path / "deep" / "run", "home")
    finally:
        os.umask(before)
    assert stat.S_IMODE(listener.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(listener.path.parent.stat().st_mode) == 0o700
    assert os.umask(before) == before
    listener.close()
    assert not listener.path.exists()
    listener.close()


def test_a_socket_left_by_a_killed_node_is_replaced(tmp_path: Path) -> None:
    first = control.listen(tmp_path, "home")
    first.socket.close()  # what a kill does: the file stays
    with pytest.raises(NotRunning, match="start it"):
        control.call(first.path, "echo")
    control.listen(tmp_path, "home").close()


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "home.sock").write_text("precious")
    with pytest.raises(EdgeError, match="is no socket"):
        control.listen(tmp_path, "home")
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgeError, match="cannot listen"):
        control.listen(tmp_path / "file", "home")
    with pytest.raises(EdgeError, match="too long"):
        control.listen(tmp_path / ("x" * 100), "home")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    with pytest.raises(EdgeError, match="others can write"):
        control.listen(tmp_path / "shared", "home")


def test_no_node(tmp_path: Path) -> None:
    for missing in (tmp_path / "home.sock", tmp_path / "nowhere" / "home.sock"):
        with pytest.raises(NotRunning, match="no node answers"):
            control.call(missing, "status")


def test_a_node_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    listener = control.listen(tmp_path, "home")
    with pytest.raises(EdgeError, match="does not answer"):
        control.call(listener.path, "status", timeout=0.1)
    listener.close()
