"""Numbers as people read them. None, what is not known, is a dash."""

from __future__ import annotations

from itertools import pairwise

UNKNOWN = "-"


def seconds_text(seconds: float | None) -> str:
    """A duration in its two largest units: 42 s, 3 min 5 s, 2 h 10 min, 4 d 3 h."""
    if seconds is None:
        return UNKNOWN
    whole = max(int(seconds), 0)
    units = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    for (size, unit), (smaller, smaller_unit) in pairwise(units):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    return f"{whole} s"


def bytes_text(size: float | None) -> str:
    """Bytes with a decimal prefix: 900 B, 1.2 kB, 34 MB."""
    if size is None:
        return UNKNOWN
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 9.95 else f"{size:.1f} {unit}"


def milliseconds_text(milliseconds: float | None) -> str:
    """A delay in milliseconds, with three digits that matter."""
    if milliseconds is None:
        return UNKNOWN
    digits = 2 if milliseconds < 1 else 1 if milliseconds < 100 else 0
    return f"{milliseconds:.{digits}f} ms"
