"""Randomness from the operating system, for the layers that are given theirs."""

from __future__ import annotations

import os


class SystemEntropy:
    """The product's `values.Entropy`: the kernel's generator, which never runs dry and cannot be seeded by us."""

    def token(self, size: int) -> bytes:
        """`size` random bytes."""
        return os.urandom(size)
