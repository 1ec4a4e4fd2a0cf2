"""The figures that the design wants, held against what was measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from tests.bench.results import Results, advantage
from tests.bench.rows import FIFO, OURS, PLAIN, RATED, RAW, ROWS, Better, Figure


class Verdict(NamedTuple):
    measured: str
    reached: bool


class Goal(NamedTuple):
    """`judge` answers None where the run did not measure it."""

    what: str
    wanted: str
    judge: Callable[[Results], Verdict | None]


def _over_best_peer(row: str, key: str, factor: float) -> Callable[[Results], Verdict | None]:
    def judge(results: Results) -> Verdict | None:
        best = results.best_peer(row, _figure(row, key))
        ratio = best and advantage(results.median(row, OURS, key), best[1], Better.MORE)
        if best is None or ratio is None:
            return None
        return Verdict(f"{ratio:.2f}x {best[0]}", ratio >= factor)

    return judge


def _at_most(row: str, vpn: str, limits: dict[str, float]) -> Callable[[Results], Verdict | None]:
    """All of the values by their limits."""

    def judge(results: Results) -> Verdict | None:
        values = {key: results.median(row, vpn, key) for key in limits}
        known = {key: value for key, value in values.items() if value is not None}
        if len(known) < len(limits):
            return None
        shown = ", ".join(
            f"{value:.2f}" if limits[key] < 2 else f"{value:.1f}" for key, value in known.items()
        )
        return Verdict(shown, all(value <= limits[key] for key, value in known.items()))

    return judge


def _at_least(row: str, vpn: str, key: str, limit: float) -> Callable[[Results], Verdict | None]:
    def judge(results: Results) -> Verdict | None:
        value = results.median(row, vpn, key)
        return None if value is None else Verdict(f"{value:.3f}", value >= limit)

    return judge


def _ratio(
    row: str, keys: tuple[str, ...], ours: str, other: str, better: Better, factor: float
) -> Callable[[Results], Verdict | None]:
    """How many times better `ours` is than `other`, for each of the keys."""

    def judge(results: Results) -> Verdict | None:
        ratios = [
            advantage(results.median(row, ours, key), results.median(row, other, key), better) for key in keys
        ]
        known = [ratio for ratio in ratios if ratio is not None]
        if len(known) < len(keys):
            return None
        return Verdict(", ".join(f"{ratio:.2f}x" for ratio in known), min(known) >= factor)

    return judge


def _idle_added(results: Results) -> Verdict | None:
    ours, raw = results.median("idle", OURS, "p50_ms"), results.median("idle", RAW, "p50_ms")
    return None if ours is None or raw is None else Verdict(f"{ours - raw:.2f} ms", ours - raw <= 0.5)


def _figure(row: str, key: str) -> Figure:
    figures = next(each.figures for each in ROWS if each.name == row)
    return next(figure for figure in figures if figure.key == key)


_CPU_BOUND: Final = {"added_p50_ms": 6.0, "added_p99_ms": 15.0}
_OVER_LINK: Final = {"added_p50_ms": 10.0, "added_p99_ms": 35.0}
_ADDED: Final = tuple(_CPU_BOUND)

GOALS: Final = (
    Goal("one TCP stream, to the best peer", "≥ 2.5x", _over_best_peer("tcp", "mbit", 2.5)),
    Goal("the same, back", "≥ 2.5x", _over_best_peer("back", "mbit", 2.5)),
    Goal("64-byte UDP delivered, to the best peer", "≥ 1.2x", _over_best_peer("packets", "packets", 1.2)),
    Goal("CPU-bound rrul: added RTT p50, p99", "≤ 6, 15 ms", _at_most("rrul", OURS, _CPU_BOUND)),
    Goal("CPU-bound rrul: goodput, to the best peer", "> 1x", _over_best_peer("rrul", "mbit", 1.0)),
    Goal("narrow link, rate set: added RTT p50, p99", "≤ 10, 35 ms", _at_most("link", RATED, _OVER_LINK)),
    Goal(
        "narrow link: goodput with rate set, to without",
        "≥ 0.9x",
        _ratio("link", ("mbit",), RATED, OURS, Better.MORE, 0.9),
    ),
    Goal(
        "CPU-bound rrul: added p50, p99 against FIFOs",
        "≥ 4x better",
        _ratio("rrul", _ADDED, OURS, FIFO, Better.LESS, 4.0),
    ),
    Goal("Jain's index, hub to 8 spokes", "≥ 0.95", _at_least("seal8", OURS, "jain", 0.95)),
    Goal("Jain's index, 8 spokes to hub", "≥ 0.95", _at_least("open8", OURS, "jain", 0.95)),
    Goal("Jain's index, hub to 20 spokes", "≥ 0.95", _at_least("seal20", OURS, "jain", 0.95)),
    Goal("Jain's index, 20 spokes to hub", "≥ 0.95", _at_least("open20", OURS, "jain", 0.95)),
    Goal("idle RTT over raw", "≤ 0.5 ms", _idle_added),
    Goal(
        "one TCP stream, offload on to off",
        "≥ 4x",
        _ratio("tcp", ("mbit",), OURS, PLAIN, Better.MORE, 4.0),
    ),
    Goal(
        "system calls per datagram, sealing, opening",
        "≤ 0.1",
        _at_most("syscalls", OURS, {"sealing": 0.1, "opening": 0.1}),
    ),
    Goal(
        "tenfold flood to one peer: others' p99 moves by",
        "≤ 5 ms",
        _at_most("flood", OURS, {"p99_moved_ms": 5.0}),
    ),
    Goal(
        "tenfold flood to one peer: others' goodput kept",
        "≥ 0.95",
        _at_least("flood", OURS, "goodput_kept", 0.95),
    ),
)
