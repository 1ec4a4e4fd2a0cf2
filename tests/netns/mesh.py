"""meshnode as its users run it: the command line, one process per node, in the hosts of a lab."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from meshnode.edge import control
from meshnode.edge.errors import EdgeError
from meshnode.lab import Host, Lab, LabError, Nat, Sites, sites, wait_until
from meshnode.lab.ping import wait_until_reachable
from meshnode.lab.process import Process

NET = "home"


class MeshNode:
    """One machine: its state and runtime directories, and the node's process while it runs."""

    def __init__(self, host: Host, settings: str = "") -> None:
        self.host = host
        self.name = host.label
        self.process: Process | None = None
        self._config = host.directory / "home.toml"
        self._config.write_text(settings)

    def argv(self, *words: str) -> list[str]:
        places = [
            "--state-dir",
            str(self.host.directory / "state"),
            "--runtime-dir",
            str(self.host.directory / "run"),
        ]
        return [sys.executable, "-m", "meshnode", *words, *places, "--config", str(self._config)]

    def cli(self, *words: str) -> str:
        """Run one command; its standard output. Raises LabError when it fails."""
        return self.host.run(self.argv(*words), timeout=30).stdout.strip()

    def attempt(self, *words: str, stdin: str | None = None) -> tuple[int, str]:
        """Run one command that may fail: exit code and standard error."""
        done = self.host.run(self.argv(*words), check=False, timeout=60)
        return done.returncode, done.stderr.strip()

    def start(self, *words: str) -> None:
        """`meshnode join` in the background."""
        self.process = self.host.popen(self.argv("join", *words))

    def kill(self) -> None:
        """As the out-of-memory killer would."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(5)

    def stop(self) -> None:
        assert self.process is not None
        self.process.stop(grace=5)

    def status(self) -> dict[str, Any] | None:
        """`status --json`; None while no node answers. Raises LabError with its log when the node has ended."""
        if self.process is not None and self.process.status is not None:
            raise LabError(f"the node on {self.name} has ended: {self.process.output}")
        done = self.host.run(self.argv("status", "--net", NET, "--json"), check=False, timeout=20)
        if done.returncode:
            return None
        reply: dict[str, Any] = json.loads(done.stdout)
        return reply

    def observe(self) -> dict[str, Any] | None:
        """As status(), asked on the control socket itself: for polls, which should not start a program each time."""
        if self.process is not None and self.process.status is not None:
            raise LabError(f"the node on {self.name} has ended: {self.process.output}")
        try:
            reply: dict[str, Any] = control.call(
                control.socket_path(self.host.directory / "run", NET), "status"
            )
        except EdgeError:
            return None
        return reply

    def peer(self, name: str) -> dict[str, Any]:
        """What the node says of one other member now."""
        reply = self.observe()
        assert reply is not None, f"{self.name} does not answer"
        return next(peer for peer in reply["peers"] if peer["name"] == name)

    def counter(self, name: str) -> int:
        reply = self.observe()
        assert reply is not None, f"{self.name} does not answer"
        return int(reply["counters"].get(name, 0))

    def restart(self, settings: str) -> None:
        """Stop the node and start it again with other settings."""
        self.stop()
        self._config.write_text(settings)
        self.start("--net", NET)

    def wait(self, timeout: float = 15.0) -> None:
        """Until the node answers."""
        wait_until(lambda: self.observe() is not None, f"the node on {self.name} to answer", timeout=timeout)

    def addresses(self) -> list[str]:
        reply = self.observe()
        assert reply is not None
        return list(reply["addresses"])

    def peers_up(self) -> set[str]:
        reply = self.observe()
        return set() if reply is None else {p["name"] for p in reply["peers"] if p["state"] == "up"}


def found(first: MeshNode, *options: str) -> None:
    """Found the network on `first` and start it."""
    first.cli("init", "--net", NET, "--name", first.name, *options)
    first.start("--net", NET)
    first.wait()


def join(inviter: MeshNode, joiner: MeshNode, *terms: str) -> None:
    """Let `joiner` in with a token of `inviter`, and start it."""
    token = inviter.cli("invite", "--net", NET, *terms)
    joiner.start(token, "--name", joiner.name)


def wait_for_mesh(nodes: list[MeshNode], timeout: float = 20.0) -> None:
    """Until every node has every other one up."""
    names = {n.name for n in nodes}

    def complete() -> bool:
        return all(node.peers_up() >= names - {node.name} for node in nodes)

    wait_until(complete, "every pair of nodes to be up", timeout=timeout)


def pair(
    lab: Lab,
    settings: tuple[str, str] = ("", ""),
    versions: tuple[int, ...] = (4, 6),
    prepare: Callable[[Sites], None] = lambda net: None,
) -> tuple[MeshNode, MeshNode, Sites]:
    """Two members behind routers that only route; `prepare` changes the network before the nodes start."""
    net = sites(lab, ("alpha", "beta"), nat=Nat.NONE, versions=versions)
    prepare(net)
    alpha, beta = (MeshNode(host, text) for host, text in zip(net.hosts, settings, strict=True))
    found(alpha)
    join(alpha, beta)
    meet(alpha, beta)
    return alpha, beta, net


def meet(alpha: MeshNode, beta: MeshNode) -> None:
    """Until both are up and packets pass: a peer is up a moment before its routes are there."""
    wait_for_mesh([alpha, beta])
    for one, other in ((alpha, beta), (beta, alpha)):
        for address in other.addresses():
            wait_until_reachable(one.host, address)


def run_python(host: Host, code: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """A piece of Python in the host's namespace."""
    return host.run([sys.executable, "-c", code], timeout=timeout)
