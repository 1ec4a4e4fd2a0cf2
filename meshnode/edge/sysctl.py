"""Kernel settings under /proc/sys: read first, write only what differs, and say so where they cannot be written.

Keys have the slash form (`net/ipv6/conf/eth0.7/disable_ipv6`), because interface names may have dots.
"""

from __future__ import annotations

import pathlib

from meshnode.edge.errors import reason

ROOT = pathlib.Path("/proc/sys")


def read(key: str) -> str | None:
    """The value of `key`, None where this kernel has no such setting."""
    try:
        return (ROOT / key).read_text().strip()
    except OSError:
        return None


def ensure(key: str, value: str) -> str | None:
    """Bring `key` to `value`. Returns None, or a warning with the command that does it where we may not.

    In a container /proc/sys is read-only: what is right already needs no write.
    """
    if read(key) == value:
        return None
    try:
        (ROOT / key).write_text(value)
    except OSError as error:
        return f"cannot set {key} ({reason(error)}): run `{command(key, value)}`"
    return None


def command(key: str, value: str) -> str:
    """The shell command that sets `key`: with dots, unless a part of it has dots itself."""
    name = key if "." in key else key.replace("/", ".")
    return f"sysctl -w {name}={value}"
