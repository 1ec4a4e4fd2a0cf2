"""Names of nodes and networks, checked before anything is written."""

from __future__ import annotations

import re
import socket

from meshnode.cli.failure import Failure, shown
from meshnode.wire.statement import valid_name

RULE = "use 1 to 63 of a-z A-Z 0-9 . _ -, a letter or digit first"


def node_name(asked: str | None) -> str:
    """The name asked for, else the machine's as far as a node may be called so. Raises Failure."""
    if asked is None:
        usable = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()).lstrip("._-")[:63]
        return usable or "node"
    if not valid_name(asked):
        raise Failure(f"{shown(asked)} cannot be a node's name: {RULE}")
    return asked


def check_network(name: str) -> None:
    """Raises Failure where a network cannot be called so."""
    if not valid_name(name):
        raise Failure(f"{shown(name)} cannot be a network's name: {RULE}")
