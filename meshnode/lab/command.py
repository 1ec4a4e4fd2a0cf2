"""Run one command of the operating system, with a deadline and an error that fits in one line."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

DEFAULT_TIMEOUT: Final = 30.0  # seconds; no command of the lab may wait for ever

# The Debian package that brings each tool, where the two differ in name.
_PACKAGES: Final = {
    "ip": "iproute2",
    "tc": "iproute2",
    "nft": "nftables",
    "ping": "iputils-ping",
    "unshare": "util-linux",
    "cc": "gcc",
    "miniupnpd": "miniupnpd-nftables",
}
# These directories hold ip, tc and nft, and are missing from the PATH of ordinary users on Debian.
_SYSTEM_DIRECTORIES: Final = ("/usr/sbin", "/sbin")


class LabError(Exception):
    """The lab could not do what it was asked; the text is one line for people."""


def search_path() -> str:
    """The PATH that the lab's commands see: the caller's, and the system directories after it."""
    own = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join([*own, *(path for path in _SYSTEM_DIRECTORIES if path not in own)])


def find_tool(name: str) -> str | None:
    """The tool's full path, or None when it is not installed."""
    return shutil.which(name, path=search_path())


def missing_tools(*names: str) -> str | None:
    """None when all the tools are installed, else one line that says which are not and what to install."""
    missing = [name for name in names if find_tool(name) is None]
    if not missing:
        return None
    packages = sorted({_PACKAGES.get(name, name) for name in missing})
    return f"{', '.join(missing)} not found: apt-get install {' '.join(packages)}"


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a command: ours in the C locale (its output gets parsed), then `extra`."""
    return {**os.environ, "PATH": search_path(), "LC_ALL": "C", **(extra or {})}


def run(
    argv: Sequence[str],
    *,
    stdin: str = "",
    check: bool = True,
    timeout: float = DEFAULT_TIMEOUT,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return it with its output.

    LabError when the tool is missing, `timeout` seconds are over, or, with `check`, the status is not zero.
    """
    if find_tool(argv[0]) is None:
        raise LabError(missing_tools(argv[0]))
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment(env),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"`{_shown(argv)}` did not end within {timeout:g} s") from None
    if check and done.returncode != 0:
        raise LabError(f"`{_shown(argv)}` failed: {last_line(done.stderr or done.stdout, done.returncode)}")
    return done


def last_line(output: str, status: int) -> str:
    """The last line that says something, which is where tools put the reason; else the exit status."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else f"status {status}"


def _shown(argv: Sequence[str]) -> str:
    text = " ".join(argv)
    return text if len(text) <= 120 else text[:117] + "..."
