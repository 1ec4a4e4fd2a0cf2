"""`meshnode demo` as a user sees it: what it shows, and that nothing of it stays."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from meshnode.lab import available, can_unshare, unshare_command

DEMO = [sys.executable, "-m", "meshnode", "demo", "--megabytes", "5"]
PAIRS = {(a, b) for a in ("alpha", "beta", "gamma") for b in ("alpha", "beta", "gamma") if a != b}

pytestmark = pytest.mark.netns


def run_demo(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def assert_shows_everything(output: str) -> None:
    for verb in ("init", "join", "invite", "status"):
        assert f"alpha$ meshnode {verb}" in output
    assert set(re.findall(r"(\w+) -> (\w+): up after", output)) == PAIRS
    # Three rows with two round trips for each other machine.
    assert len(re.findall(r"\d\.\d\d / \d+\.\d\d", output)) == len(PAIRS)
    assert "5.0 MB went from alpha to gamma over TCP" in output
    assert re.search(r"^gamma +up ", output, re.MULTILINE)
    assert "Everything is removed again" in output


def test_the_demo_shows_a_mesh_and_leaves_nothing() -> None:
    reason = available("ping")
    if reason is not None:
        pytest.skip(reason)
    process = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 0, output
    assert_shows_everything(output)
    left = [
        path.name for place in ("/run/netns", "/tmp") for path in Path(place).glob(f"mnlab-{process.pid}-*")
    ]
    assert left == []


def test_the_demo_runs_in_a_user_namespace() -> None:
    if not can_unshare():
        pytest.skip("this kernel lets nobody make user namespaces")
    assert_shows_everything(run_demo(unshare_command(DEMO)))
