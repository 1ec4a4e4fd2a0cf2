"""Kernel settings under /proc/sys: read first, write only what differs, and say so where they cannot be written."""

from __future__ import annotations


def read(key: str) -> str | None:
    """The value of `key` (slash form: `net/ipv6/conf/eth0.7/disable_ipv6`), None where there is none."""
    raise NotImplementedError


def ensure(key: str, value: str) -> str | None:
    """Bring `key` to `value`. Returns a warning with the command that does it where we may not."""
    raise NotImplementedError
