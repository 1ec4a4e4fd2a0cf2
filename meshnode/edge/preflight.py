"""What the machine must offer before a node can run, checked one by one: at start, and by `meshnode doctor`."""

from __future__ import annotations

import pathlib
from enum import Enum
from typing import NamedTuple


class Level(str, Enum):
    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(NamedTuple):
    """`text` says what was found, `fix` the command or setting that mends it (empty when all is well)."""

    level: Level
    text: str
    fix: str = ""


def check_tun() -> Finding:
    raise NotImplementedError


def check_net_admin() -> Finding:
    raise NotImplementedError


def check_ipv6() -> Finding:
    raise NotImplementedError


def check_port(port: int) -> Finding:
    raise NotImplementedError


def check_state_dir(state_dir: pathlib.Path) -> Finding:
    raise NotImplementedError


def check_all(port: int, state_dir: pathlib.Path) -> list[Finding]:
    """All of the above, in that order."""
    raise NotImplementedError
