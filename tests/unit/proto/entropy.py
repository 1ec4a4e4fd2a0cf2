"""Randomness that is the same in every run."""

from __future__ import annotations

import hashlib


class Dice:
    """`meshnode.values.Entropy`: bytes that follow from `name` alone."""

    def __init__(self, name: str) -> None:
        self._name = name.encode()
        self._thrown = 0

    def token(self, size: int) -> bytes:
        self._thrown += 1
        seed = self._name + self._thrown.to_bytes(8, "big")
        return hashlib.shake_128(seed).digest(size)
