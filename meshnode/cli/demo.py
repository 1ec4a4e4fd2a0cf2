"""`meshnode demo`: three sites on this machine become one network, with real processes and real traffic.

Each site is a host behind a router, in network namespaces of its own; the nodes are started with the same command
lines that somebody would type on three machines. Nothing of it is left when the demo ends, however it ends.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import click

from meshnode.cli.help import example
from meshnode.cli.quantities import bytes_text
from meshnode.cli.status import show_status
from meshnode.cli.tables import Column, show_table
from meshnode.edge import control
from meshnode.edge.errors import EdgeError
from meshnode.edge.preflight import Level, check_tun
from meshnode.lab import Host, Lab, LabError, Nat, available, enter_user_namespace, sites, wait_until
from meshnode.lab.command import last_line
from meshnode.lab.ping import PingResult, ping
from meshnode.lab.process import Process

NET = "home"
NAMES = ("alpha", "beta", "gamma")
MEGABYTE = 1_000_000
COPY_PORT = 7000
COPY_TIMEOUT = 20.0
MESH_TIMEOUT = 10.0


@click.command(epilog=example("meshnode demo", "sudo meshnode demo --megabytes 200"))
@click.option(
    "--megabytes",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=50,
    show_default=True,
    help="Size of the file to copy.",
)
def demo(megabytes: int) -> None:
    """Watch three sites become one network.

    Builds them in network namespaces of this machine, joins them, and sends real traffic between them.
    Needs root, or a kernel that lets ordinary users make namespaces. Takes about ten seconds.
    """
    enter_user_namespace([sys.executable, "-m", "meshnode", "demo", "--megabytes", str(megabytes)])
    refusal = available("ping")
    if refusal is not None:
        raise LabError(refusal)
    device = check_tun()
    if device.level is Level.ERROR:
        raise LabError(f"{device.text}: {device.fix}")
    for name in [name for name in os.environ if name.startswith("MESHNODE_")]:
        del os.environ[name]  # they are about the user's own node
    began = time.monotonic()
    say("Three sites, each a host behind a router of its own, in network namespaces of this machine.\n")
    with Lab() as lab:
        machines = [Machine(host) for host in sites(lab, NAMES, nat=Nat.NONE).hosts]
        join_all(machines)
        wait_for_mesh(machines)
        ping_all(machines)
        copy_file(machines[0], machines[-1], megabytes * MEGABYTE)
        machines[0].show_status()
        for machine in machines:
            machine.stop()
    say(f"\nEverything is removed again. The demo took {time.monotonic() - began:.0f} s.")


class Machine:
    """One host of the lab, and the node that runs on it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.name = host.label
        self.addresses: dict[int, str] = {}
        self._runtime_dir = host.directory / "run"
        self._node: Process | None = None

    def run(self, *words: str) -> str:
        """Type a meshnode command on this machine and return what it prints. Raises LabError."""
        self._show(words)
        return self.host.run(self._argv(words)).stdout.strip()

    def start(self, *words: str) -> None:
        """The same for a command that stays."""
        self._show(words)
        self._node = self.host.popen(self._argv(words))

    def stop(self) -> None:
        """SIGTERM: the node says goodbye."""
        if self._node is not None:
            self._node.stop()

    def status(self) -> dict[str, Any] | None:
        """What `meshnode status` gets, None while nobody answers. Raises LabError when the node has ended."""
        if self._node is not None and self._node.status is not None:
            words = last_line(self._node.output, self._node.status)
            raise LabError(f"the node on {self.name} has ended: {words}")
        try:
            reply: dict[str, Any] = control.call(control.socket_path(self._runtime_dir, NET), "status")
        except EdgeError:
            return None
        return reply

    def show_status(self) -> None:
        """As `meshnode status` shows it."""
        self._show(("status", "--net", NET))
        reply = self.status()
        if reply is None:
            raise LabError(f"the node on {self.name} does not answer")
        show_status(reply)

    def _argv(self, words: Sequence[str]) -> list[str]:
        directories = [
            "--state-dir",
            str(self.host.directory / "state"),
            "--runtime-dir",
            str(self._runtime_dir),
        ]
        return [sys.executable, "-m", "meshnode", *words, *directories, "--config", os.devnull]

    def _show(self, words: Sequence[str]) -> None:
        shown = " ".join(f"{word[:12]}..." if word.startswith("mn1") else word for word in words)
        say(click.style(f"{self.name}$", fg="cyan") + f" meshnode {shown}")


def join_all(machines: Sequence[Machine]) -> None:
    """Found the network on the first machine, and let the others in."""
    first, *others = machines
    first.run("init", "--net", NET, "--name", first.name)
    first.start("join", "--net", NET)
    wait_until(
        lambda: first.status() is not None, f"the node on {first.name} to answer", timeout=MESH_TIMEOUT
    )
    for machine in others:
        token = first.run("invite", "--net", NET)
        say(f"{token[:12]}... ({len(token)} characters, good for one machine)")
        machine.start("join", token, "--name", machine.name)


def wait_for_mesh(machines: Sequence[Machine]) -> None:
    """Show pair after pair come up. Raises LabError when one does not."""
    began = time.monotonic()
    up: dict[tuple[str, str], float] = {}

    def all_up() -> bool:
        for machine in machines:
            reply = machine.status()
            if reply is None:
                continue
            machine.addresses = {6 if ":" in address else 4: address for address in reply["addresses"]}
            for peer in reply["peers"]:
                if peer["state"] == "up":
                    up.setdefault((machine.name, peer["name"]), time.monotonic() - began)
        draw(machines, up)
        return len(up) == len(machines) * (len(machines) - 1)

    say()
    with pairs_drawn() as draw:
        wait_until(all_up, "every pair of nodes to be up", timeout=MESH_TIMEOUT, interval=0.05)
    say(f"Every node reaches every other one after {max(up.values()):.1f} s.\n")


@contextmanager
def pairs_drawn() -> Iterator[Any]:
    """A function that draws the pairs which are up: again and again on a terminal, each once into a file."""
    if not sys.stdout.isatty():
        seen: set[tuple[str, str]] = set()

        def print_news(machines: Sequence[Machine], up: dict[tuple[str, str], float]) -> None:
            for pair in [pair for pair in up if pair not in seen]:
                seen.add(pair)
                say(f"  {pair[0]} -> {pair[1]}: up after {up[pair]:.1f} s")

        yield print_news
        return
    from rich.live import Live
    from rich.text import Text

    with Live(refresh_per_second=20) as live:

        def draw(machines: Sequence[Machine], up: dict[tuple[str, str], float]) -> None:
            lines = Text()
            for one, other in permutations([machine.name for machine in machines], 2):
                after = up.get((one, other))
                lines.append(f"  {one} -> {other}: ")
                lines.append(
                    "...\n" if after is None else f"up after {after:.1f} s\n",
                    "yellow" if after is None else "green",
                )
            lines.right_crop(1)
            live.update(lines)

        yield draw


def ping_all(machines: Sequence[Machine]) -> None:
    """Ping every machine from every other one, over IPv4 and IPv6. Raises LabError when one does not answer."""
    say("Ping from each to each, IPv4 / IPv6, milliseconds:")
    rows = []
    for source in machines:
        row = [source.name]
        for target in machines:
            row.append(
                "-" if source is target else " / ".join(_round_trip(source, target, v) for v in (4, 6))
            )
        rows.append(row)
    show_table([Column("FROM"), *(Column(f"TO {machine.name}", right=True) for machine in machines)], rows)
    say()


def _round_trip(source: Machine, target: Machine, version: int) -> str:
    result: PingResult = ping(source.host, target.addresses[version], count=3, interval=0.02)
    if not result.received:
        raise LabError(f"{target.name} does not answer {source.name}'s ping to {target.addresses[version]}")
    return f"{min(result.rtts_ms):.2f}"


def copy_file(source: Machine, target: Machine, size: int) -> None:
    """Send a file of random bytes over TCP and compare hashes. Raises LabError when they differ."""
    original, copy = source.host.directory / "photos.tar", target.host.directory / "photos.tar"
    original.write_bytes(os.urandom(size))
    began = time.monotonic()
    _transfer(source, original, target, copy)
    seconds = time.monotonic() - began
    if _sha256(original) != _sha256(copy):
        raise LabError(f"the copy on {target.name} differs from the file on {source.name}")
    say(
        f"A file of {bytes_text(size)} went from {source.name} to {target.name} over TCP in {seconds:.1f} s "
        f"({size * 8 / seconds / 1e6:.0f} Mbit/s), SHA-256 {_sha256(copy)[:12]}... on both sides.\n"
    )


def _transfer(source: Machine, original: Path, target: Machine, copy: Path) -> None:
    with (
        target.host.socket(kind=socket.SOCK_STREAM) as listener,
        source.host.socket(kind=socket.SOCK_STREAM) as sender,
    ):
        listener.bind((target.addresses[4], COPY_PORT))
        listener.listen()
        listener.settimeout(COPY_TIMEOUT)
        sender.settimeout(COPY_TIMEOUT)
        receiving = threading.Thread(target=_receive, args=(listener, copy), daemon=True)
        receiving.start()
        sender.connect((target.addresses[4], COPY_PORT))
        with original.open("rb") as file:
            sender.sendfile(file)
        sender.shutdown(socket.SHUT_WR)
        receiving.join(COPY_TIMEOUT)


def _receive(listener: socket.socket, copy: Path) -> None:
    connection, _ = listener.accept()
    connection.settimeout(COPY_TIMEOUT)
    with connection, copy.open("wb") as file:
        while piece := connection.recv(1 << 18):
            file.write(piece)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def say(line: str = "") -> None:
    click.echo(line)
