"""Randomness from a seed and a name: the same in every process, whatever PYTHONHASHSEED says."""

from __future__ import annotations

import hashlib
import random


def dice(seed: int, name: str) -> random.Random:
    """A generator of its own for `name`, so that one host's throws do not shift another's."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
    return random.Random(int.from_bytes(digest, "big"))


class SeededEntropy:
    """`meshnode.values.Entropy` from a seed. Predictable on purpose."""

    def __init__(self, seed: int, name: str) -> None:
        self._dice = dice(seed, name)

    def token(self, size: int) -> bytes:
        """`size` bytes."""
        return self._dice.randbytes(size)
