"""How the help of every verb ends."""

from __future__ import annotations


def example(*lines: str) -> str:
    """The epilog of a verb: command lines as somebody would type them."""
    title = "Example:" if len(lines) == 1 else "Examples:"
    return "\n".join(["\b", title, *(f"  {line}" for line in lines)])
