"""The import contracts of pyproject.toml: they hold, nothing escapes them, and they notice what they forbid."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]

VIOLATIONS = {
    "values.py": "import time",
    "wire/header.py": "from meshnode.crypto import suites",
    "crypto/replay.py": "import random",
    "queueing/codel.py": "import nacl",
    "proto/node.py": "from meshnode.dataplane import api",
    "proto/peer.py": "import trio",
    "dataplane/api.py": "from meshnode.proto import node",
    "settings.py": "from meshnode.edge import udp",
    "edge/udp.py": "import cryptography",
    "lab/node.py": "from meshnode.cli import main",
}


def contract(kind: str, name: str) -> dict[str, Any]:
    """The one contract of this type whose name contains `name`."""
    (found,) = [each for each in LINTER["contracts"] if each["type"] == kind and name in each["name"]]
    return found


def lint(directory: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the package in `directory`."""
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(directory), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_every_package_has_its_layer() -> None:
    layers = {name.strip() for layer in contract("layers", "")["layers"] for name in layer.split("|")}
    modules = [
        path
        for path in (ROOT / "meshnode").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    names = {f"meshnode.{path.stem}" for path in modules} - {"meshnode.__init__", "meshnode.__main__"}
    assert layers == names


def test_the_pure_packages_are_all_below_settings() -> None:
    ordered = [layer.split(" | ") for layer in contract("layers", "")["layers"]]
    below = [name for layer in ordered[ordered.index(["meshnode.settings"]) + 1 :] for name in layer]
    assert set(contract("forbidden", "no I/O")["source_modules"]) == set(below) - {"meshnode.dataplane"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package and its contracts in a directory of their own."""
    directory = tmp_path_factory.mktemp("layers")
    shutil.copytree(ROOT / "meshnode", directory / "meshnode", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", directory)
    return directory


def test_the_contracts_hold(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout
    assert f"{len(LINTER['contracts'])} kept, 0 broken" in done.stdout


@pytest.mark.parametrize("module", VIOLATIONS)
def test_a_forbidden_import_is_noticed(copy: Path, module: str) -> None:
    path = copy / "meshnode" / module
    before = path.read_text()
    try:
        path.write_text(before + f"\n{VIOLATIONS[module]}\n")
        done = lint(copy)
    finally:
        path.write_text(before)
    assert done.returncode == 1, done.stdout
    assert "1 broken" in done.stdout
