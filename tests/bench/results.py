"""What was measured: values of each row, VPN and repetition, their medians, and ratios between VPNs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from tests.bench.loads import Values
from tests.bench.rows import PEERS, Better, Figure


class Results:
    def __init__(self) -> None:
        self._values: dict[tuple[str, str], list[Values]] = {}
        self.failures: list[str] = []
        """One line for each measurement that did not come about, and each VPN that is missing."""

    def add(self, row: str, vpn: str, values: Values) -> None:
        self._values.setdefault((row, vpn), []).append(values)

    def fail(self, line: str) -> None:
        if line not in self.failures:
            self.failures.append(line)

    def median(self, row: str, vpn: str, key: str) -> float | None:
        """The median of the repetitions; None where nothing was measured."""
        values = [each[key] for each in self._values.get((row, vpn), []) if key in each]
        return median(values) if values else None

    def repetitions(self, row: str) -> int:
        return max((len(each) for (name, _), each in self._values.items() if name == row), default=0)

    def best_peer(self, row: str, figure: Figure) -> tuple[str, float] | None:
        """The best of the other VPNs, and its median."""
        return best(((vpn, self.median(row, vpn, figure.key)) for vpn in PEERS), figure.better)

    def save(self, path: Path) -> None:
        """All repetitions as JSON, for those who want to reckon for themselves."""
        rows = [{"row": row, "vpn": vpn, "values": values} for (row, vpn), values in self._values.items()]
        path.write_text(json.dumps({"measurements": rows, "failures": self.failures}, indent=1) + "\n")


def best(candidates: Iterable[tuple[str, float | None]], better: Better) -> tuple[str, float] | None:
    """Among those that have a value."""
    known = [(name, value) for name, value in candidates if value is not None]
    if not known or better is Better.NEITHER:
        return None
    return (max if better is Better.MORE else min)(known, key=lambda each: each[1])


def advantage(ours: float | None, theirs: float | None, better: Better) -> float | None:
    """How many times better ours is: above 1 it is better, whichever way the figure goes."""
    if ours is None or theirs is None or better is Better.NEITHER or min(ours, theirs) <= 0:
        return None
    return ours / theirs if better is Better.MORE else theirs / ours
