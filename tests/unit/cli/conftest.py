"""Directories of one machine, its command line in this process, and a node that answers as it is told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

from meshnode.cli.main import main
from meshnode.edge import control
from meshnode.edge.errors import EdgeError
from meshnode.values import Endpoint


class Done(NamedTuple):
    """How a command line ended."""

    code: int
    out: str
    err: str


class Machine:
    """One machine: where its files are, and `machine("init", "--net", "home")` to type a command on it."""

    def __init__(self, directory: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.state_dir = directory / "state"
        self.runtime_dir = directory / "run"
        self.config = directory / "home.toml"
        self._capture = capture

    def __call__(self, *words: str) -> Done:
        self._capture.readouterr()
        code = main(words)
        out, err = self._capture.readouterr()
        return Done(code, out, err)

    def fails(self, *words: str, code: int = 1) -> str:
        """The command fails with one line, which begins as all of ours do; returns the rest of it."""
        done = self(*words)
        assert done.code == code, done
        assert done.out == ""
        assert done.err.startswith("meshnode: ")
        assert done.err.count("\n") == 1
        return done.err.removeprefix("meshnode: ").rstrip("\n")

    def files(self) -> list[str]:
        """All that there is below the state directory."""
        return sorted(str(path.relative_to(self.state_dir)) for path in self.state_dir.rglob("*"))


@pytest.fixture
def machine(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine called "attic" without any network yet, at 192.0.2.7."""
    made = Machine(tmp_path, capsys)
    made.config.touch()
    monkeypatch.setenv("MESHNODE_STATE_DIR", str(made.state_dir))
    monkeypatch.setenv("MESHNODE_RUNTIME_DIR", str(made.runtime_dir))
    monkeypatch.setenv("MESHNODE_CONFIG", str(made.config))
    for name in ("NET", "TOKEN", "NAME", "PORT", "ADVERTISE", "INTERFACE"):
        monkeypatch.delenv(f"MESHNODE_{name}", raising=False)
    monkeypatch.setattr(socket, "gethostname", lambda: "attic")
    monkeypatch.setattr("meshnode.cli.invite.local_endpoints", lambda port: (Endpoint("192.0.2.7", port),))
    return made


class FakeNode:
    """Answers on a real control socket, from a table, and remembers what it was asked."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = dict(answers)
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def handle(self, command: str, arguments: Mapping[str, Any]) -> Any:
        self.asked.append((command, dict(arguments)))
        answer = self.answers[command]
        if isinstance(answer, EdgeError):
            raise answer
        return answer() if callable(answer) else answer


@pytest.fixture
def running(machine: Machine) -> Iterator[Callable[..., FakeNode]]:
    """Start a FakeNode for the network "home": running(status={...}, invite=EdgeError("no"))."""
    stops: list[Callable[[], None]] = []

    def start(**answers: Any) -> FakeNode:
        node = FakeNode(answers)
        listening = threading.Event()
        thread = threading.Thread(target=trio.run, args=(serve, node, listening))
        thread.start()
        assert listening.wait(10)
        stops.append(thread.join)
        return node

    async def serve(node: FakeNode, listening: threading.Event) -> None:
        token = trio.lowlevel.current_trio_token()
        listener = control.listen(machine.runtime_dir, "home")
        try:
            with trio.CancelScope() as scope:
                stops.append(lambda: token.run_sync_soon(scope.cancel))
                listening.set()
                await control.serve(listener, node.handle)
        finally:
            listener.close()

    yield start
    for stop in stops:
        stop()
