"""What a lab has made in the system, and how every bit of it goes away again, even after a crash."""

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from meshnode.lab.addresses import AddressPlan
from meshnode.lab.command import LabError, run
from meshnode.lab.deadline import wait_until
from meshnode.lab.namespace import NAMESPACE_DIRECTORY, Namespace

# Namespaces and directories carry the number of the process that made them: so sweep() knows the orphans.
_OWNER: Final = re.compile(r"mnlab-(\d+)-\d+-")


class Inventory:
    """The namespaces of one lab by their labels, its address plan, and its directory for logs and state."""

    def __init__(self, number: int) -> None:
        """`number` tells this lab from the others of the same process."""
        self.prefix = f"mnlab-{os.getpid()}-{number}-"
        self.directory = Path(tempfile.mkdtemp(prefix=self.prefix))
        self.plan = AddressPlan()
        self.namespaces: dict[str, Namespace] = {}

    def identify(self, label: str) -> tuple[str, str, Path]:
        """Label, system name and directory of a new namespace; LabError when the label is taken or unfit."""
        if label in self.namespaces:
            raise LabError(f"the lab has a {label!r} already: choose another name")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", label):
            raise LabError(f"{label!r} cannot name a node: use letters, digits, '-', '_' and '.'")
        return label, self.prefix + label, self.directory / label

    def add(self, namespace: Namespace, *, forwarding: bool = False) -> None:
        """Create the namespace and remember it; first remember, so that what is half made is removed, too."""
        self.namespaces[namespace.label] = namespace
        namespace.create(forwarding=forwarding)

    def close(self) -> None:
        """Kill the processes, remove namespaces and directory; LabError if one stays."""
        for namespace in reversed(self.namespaces.values()):
            namespace.stop_processes()
        remove_namespaces([namespace.name for namespace in self.namespaces.values()])
        self.namespaces.clear()
        shutil.rmtree(self.directory, ignore_errors=True)


def sweep() -> list[str]:
    """Remove what labs of dead processes left behind; the names of the namespaces that were removed."""
    dead = [name for name in _names(NAMESPACE_DIRECTORY) if _owner_is_dead(name)]
    remove_namespaces(dead)
    temporary = Path(tempfile.gettempdir())
    for name in _names(temporary):
        if _owner_is_dead(name) and (temporary / name).stat().st_uid == os.geteuid():
            shutil.rmtree(temporary / name, ignore_errors=True)
    return dead


def remove_namespaces(names: Iterable[str]) -> None:
    """Kill all that runs in the namespaces, also what detached itself from us, and remove them."""
    present = [name for name in names if (NAMESPACE_DIRECTORY / name).exists()]
    if not present:
        return
    # A child may be born while we look: look until nobody is there.
    wait_until(lambda: not _kill_residents(present), "the processes in the lab's namespaces to die")
    commands = "".join(f"netns delete {name}\n" for name in present)
    run(["ip", "-force", "-batch", "-"], stdin=commands, check=False)  # another sweep may have been faster
    left = [name for name in present if (NAMESPACE_DIRECTORY / name).exists()]
    if left:
        raise LabError(f"cannot remove the namespaces {', '.join(left)}: ip netns delete them by hand")


def residents(names: Iterable[str]) -> list[int]:
    """The processes that live in these namespaces now (zombies do not)."""
    inodes = set()
    for name in names:
        try:
            inodes.add((NAMESPACE_DIRECTORY / name).stat().st_ino)
        except FileNotFoundError:
            pass  # gone since we listed it
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if os.stat(f"/proc/{entry.name}/ns/net").st_ino in inodes:
                    found.append(int(entry.name))
            except OSError:
                pass  # it ended, or is not ours to look at
    return found


def _kill_residents(names: Iterable[str]) -> bool:
    """Whether there was anybody to kill."""
    found = residents(names)
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it was faster
    return bool(found)


def _names(directory: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(directory) if _OWNER.match(name))
    except FileNotFoundError:
        return []  # no namespace was ever made here


def _owner_is_dead(name: str) -> bool:
    match = _OWNER.match(name)
    return match is not None and not Path("/proc", match[1]).exists()
