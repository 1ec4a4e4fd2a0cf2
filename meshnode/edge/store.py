"""A network's state on disk: secrets are 0600 files in a 0700 directory, made so, and replaced in one step or not at all."""

from __future__ import annotations

import pathlib
from enum import Enum


class Secret(str, Enum):
    """Key files, 32 bytes each."""

    IDENTITY = "identity.key"
    STATIC = "static.key"
    ROOT = "root.key"


class StoreLock:
    """Held while a node runs, or a command changes the state. A context manager."""

    def release(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> StoreLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Store:
    """One network's directory `state_dir/net`. Every method raises EdgeError with the line for the operator."""

    def __init__(self, state_dir: pathlib.Path, net: str) -> None:
        raise NotImplementedError

    def create(self) -> None:
        """Make the directory (0700) unless it is there."""
        raise NotImplementedError

    def exists(self) -> bool:
        raise NotImplementedError

    def lock(self) -> StoreLock:
        """Raises StoreBusy."""
        raise NotImplementedError

    def read_secret(self, secret: Secret) -> bytes | None:
        raise NotImplementedError

    def write_secret(self, secret: Secret, key: bytes) -> None:
        """Refuses to replace a key that is there."""
        raise NotImplementedError

    def read_state(self) -> bytes | None:
        raise NotImplementedError

    def write_state(self, data: bytes) -> None:
        raise NotImplementedError

    def remove(self) -> None:
        """Delete keys, state and directory (`meshnode leave`)."""
        raise NotImplementedError


def validate_network(net: str) -> str:
    """The name itself. Raises EdgeError."""
    raise NotImplementedError


def networks(state_dir: pathlib.Path) -> list[str]:
    """The networks that have state here, sorted."""
    raise NotImplementedError
