"""The one way in which a command fails."""

from __future__ import annotations


class Failure(Exception):
    """The command failed. The text is one line: what is wrong, and what to do about it."""


def shown(text: str, limit: int = 40) -> str:
    """What somebody typed, in quotes, so that it stays one short line whatever it holds."""
    printable = text if len(text) <= limit else text[:limit] + "…"
    return '"' + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in printable) + '"'
