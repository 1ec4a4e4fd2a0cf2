"""What the lab needs from the system, and how to get it without being root."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from meshnode.lab.command import LabError, missing_tools, run

TOOLS: Final = ("ip", "tc", "nft")
_FORWARDING: Final = "/proc/sys/net/ipv4/ip_forward"
_MARK: Final = "MESHNODE_LAB_UNSHARED"

# `ip netns` pins namespaces below /run, which is not ours to write in a user namespace.
_INSIDE: Final = 'mount -t tmpfs tmpfs /run && exec "$@"'


def available(*more_tools: str) -> str | None:
    """None when a lab (and `more_tools`) can work here, else one line: what is missing, what to do."""
    if not sys.platform.startswith("linux"):
        return "the lab needs Linux network namespaces: run it in a Linux machine or VM"
    missing = missing_tools(*TOOLS, *more_tools)
    if missing is not None:
        return missing
    if os.geteuid() != 0:
        way = shlex.join(unshare_command(["COMMAND"]))
        return f"the lab needs root or a user namespace: run it with sudo, or as {way}"
    return _refusal()


def can_unshare() -> bool:
    """Whether this kernel lets us have a user namespace in which the lab works."""
    if missing_tools("unshare", "mount", "sh", *TOOLS) is not None:
        return False
    probe = unshare_command(["ip", "netns", "add", "probe"])
    try:
        return run(probe, check=False).returncode == 0
    except LabError:
        return False


def unshare_command(argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` as root of a user, network and mount namespace of its own."""
    return ["unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c", _INSIDE, "sh", *argv]


def enter_user_namespace(argv: Sequence[str]) -> None:
    """Replace this process by `argv`, the same program, inside a user namespace; return when that is no help.

    It is none for root, when the kernel refuses, and when we are inside already: then ask available().
    """
    if os.geteuid() == 0 or _MARK in os.environ or not can_unshare():
        return
    command = unshare_command(argv)
    sys.stdout.flush()
    os.execvpe(command[0], command, {**os.environ, _MARK: "1"})


def _refusal() -> str | None:
    """Make a namespace for a moment: containers take rights away in many ways, and trying asks for all."""
    name = f"mnlab-{os.getpid()}-0-probe"
    try:
        run(["ip", "netns", "add", name])
    except LabError as error:
        return f"{error}: root may not make network namespaces here, run the container with --privileged"
    try:
        run(["ip", "netns", "exec", name, "ip", "link", "set", "lo", "up"])
    except LabError as error:
        return f"{error}: run the container with --privileged"
    finally:
        run(["ip", "netns", "delete", name], check=False)
    if not os.access(_FORWARDING, os.W_OK) or not Path("/proc/thread-self/ns/net").exists():
        return "/proc/sys is read-only: run the container with --privileged"
    return None
