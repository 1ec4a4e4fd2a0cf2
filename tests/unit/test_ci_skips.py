"""With CI=true a skip of any kind fails the run and shows its reason; elsewhere it stays a skip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT_CONFTEST = Path(__file__).parents[1] / "conftest.py"

SAMPLES = {
    "test_in_call.py": "def test_it():\n    pytest.skip('lacks tool A')\n",
    "test_by_mark.py": "@pytest.mark.skipif(True, reason='lacks tool B')\ndef test_it(): pass\n",
    "test_in_fixture.py": (
        "@pytest.fixture\ndef tool(): pytest.skip('lacks tool C')\ndef test_it(tool): pass\n"
    ),
    "test_in_module.py": "pytest.skip('lacks tool D', allow_module_level=True)\n",
    "test_of_kernel.py": "def test_it():\n    pytest.skip('this kernel has no E')\n",
    "test_other.py": "def test_passes(): pass\n@pytest.mark.xfail\ndef test_known_bug(): assert False\n",
}


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    shutil.copy(ROOT_CONFTEST, tmp_path / "conftest.py")
    for name, body in SAMPLES.items():
        (tmp_path / name).write_text(f"import pytest\n{body}")
    return tmp_path


def _run(directory: Path, ci: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=directory,
        env={**os.environ, "CI": ci, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_skip_fails_in_ci_with_its_reason(samples: Path) -> None:
    done = _run(samples, "true", "--continue-on-collection-errors")
    assert done.returncode == 1, done.stdout
    for tool in "ABCD":
        assert f"skipped in CI: lacks tool {tool}" in done.stdout
    assert "1 passed, 1 skipped, 1 xfailed" in done.stdout  # the kernel's


def test_elsewhere_a_skip_is_a_skip(samples: Path) -> None:
    done = _run(samples, "")
    assert done.returncode == 0, done.stdout
    assert "1 passed, 5 skipped, 1 xfailed" in done.stdout
