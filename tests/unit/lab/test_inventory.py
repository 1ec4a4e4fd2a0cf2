import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshnode.lab import LabError, inventory
from meshnode.lab.inventory import Inventory, residents, sweep


@pytest.fixture
def dead_pid() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty system: no namespaces, no temporary files."""
    monkeypatch.setattr(inventory, "NAMESPACE_DIRECTORY", tmp_path / "netns")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_labels_become_names_that_carry_our_number(system: Path) -> None:
    made = Inventory(3)
    label, name, directory = made.identify("a-1.x")
    assert (label, name) == ("a-1.x", f"mnlab-{os.getpid()}-3-a-1.x")
    assert directory == made.directory / "a-1.x"
    assert made.directory.parent == system
    made.close()
    made.close()
    assert list(system.iterdir()) == []


@pytest.mark.parametrize("label", ["", ".", "..", "-x", "a/b", "a b", "x" * 65, "ä"])
def test_labels_that_could_hurt_are_refused(system: Path, label: str) -> None:
    made = Inventory(1)
    with pytest.raises(LabError, match="cannot name a node"):
        made.identify(label)
    made.close()


def test_only_what_the_dead_left_behind_is_swept(
    system: Path, dead_pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []
    monkeypatch.setattr(inventory, "remove_namespaces", removed.extend)
    dead, living = f"mnlab-{dead_pid}-1-", f"mnlab-{os.getpid()}-1-"
    for name in (dead + "a", dead + "b", living + "a", "mnlab-x-1-a", f"other-{dead_pid}-1-a"):
        (system / "netns" / name).mkdir(parents=True)
    for name in (dead + "dir", living + "dir", "unrelated"):
        (system / name / "a").mkdir(parents=True)
    assert sweep() == removed == [dead + "a", dead + "b"]
    assert sorted(each.name for each in system.iterdir()) == sorted([living + "dir", "netns", "unrelated"])


def test_an_empty_system_needs_no_sweeping(system: Path) -> None:
    assert sweep() == []
    assert residents(["mnlab-1-1-none"]) == []
