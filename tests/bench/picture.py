"""The picture beside the page: bars, drawn as SVG by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from tests.bench.results import Results
from tests.bench.rows import FIFO, OURS, PEERS, RATED, RAW

_WIDTH: Final = 860
_LEFT: Final = 170  # where the axes begin
_RIGHT: Final = 770  # where they end; the numbers stand to the right of the bars
_BAR: Final = 15
_STEP: Final = 23
_HEAD: Final = 50
_GAP: Final = 34
_OURS: Final = "#0b7285"
_OTHERS: Final = "#868e96"
_STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#212529}.h{font-weight:600;font-size:15px}"
    ".n{font-size:12px}.t{font-size:11px;fill:#495057}"
)


@dataclass(frozen=True, slots=True)
class Bar:
    """A dark bar up to `value`, and a light one from there to `extent`, if that is given."""

    name: str
    value: float
    extent: float | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    bars: tuple[Bar, ...]
    logarithmic: bool = False
    digits: int = 0


def picture(results: Results) -> str:
    """An SVG document; panels without a bar are left out."""
    panels = [panel for panel in _panels(results) if panel.bars]
    body: list[str] = []
    top = 10
    for panel in panels:
        body += _draw(panel, top)
        top += _HEAD + len(panel.bars) * _STEP + _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" width="{_WIDTH}" height="{top}">\n'
        f"<style>{_STYLE}</style>\n"
        f'<rect width="{_WIDTH}" height="{top}" fill="#fff"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _panels(results: Results) -> Iterator[Panel]:
    def latencies(row: str, names: Sequence[str]) -> tuple[Bar, ...]:
        bars = []
        for name in names:
            p50, p99 = results.median(row, name, "p50_ms"), results.median(row, name, "p99_ms")
            if p50 is not None and p99 is not None:
                bars.append(Bar(name, p50, p99))
        return tuple(bars)

    def rates(row: str, names: Sequence[str]) -> tuple[Bar, ...]:
        values = [(name, results.median(row, name, "mbit")) for name in names]
        return tuple(Bar(name, mbit) for name, mbit in values if mbit is not None)

    vpns = (OURS, *PEERS)
    load = "4 TCP streams up and 4 down"
    yield Panel(f"RTT under {load}, CPU-bound: p50 and p99, ms", latencies("rrul", (*vpns, FIFO)), True, 1)
    yield Panel(f"Goodput of {load}, CPU-bound, Mbit/s", rates("rrul", (*vpns, FIFO)))
    narrow = (RAW, RATED, *vpns)
    yield Panel(
        f"RTT under {load} over 50 Mbit/s, 40 ms: p50 and p99, ms", latencies("link", narrow), True, 0
    )
    yield Panel(f"Goodput of {load} over 50 Mbit/s, Mbit/s", rates("link", narrow))
    yield Panel("One TCP stream, Mbit/s", rates("tcp", vpns))


def _draw(panel: Panel, top: int) -> Iterator[str]:
    yield f'<text class="h" x="12" y="{top + 18}">{escape(panel.title)}</text>'
    scale = _Scale(panel)
    bottom = top + _HEAD + len(panel.bars) * _STEP
    for tick in scale.ticks:
        x = scale.x(tick)
        yield f'<line x1="{x:.1f}" y1="{top + _HEAD - 8}" x2="{x:.1f}" y2="{bottom}" stroke="#dee2e6"/>'
        yield f'<text class="t" x="{x:.1f}" y="{top + _HEAD - 12}" text-anchor="middle">{tick:g}</text>'
    for index, bar in enumerate(panel.bars):
        yield from _draw_bar(bar, panel, scale, top + _HEAD + index * _STEP)


def _draw_bar(bar: Bar, panel: Panel, scale: _Scale, top: int) -> Iterator[str]:
    color = _OURS if bar.name.startswith(OURS) else _OTHERS
    x, end = scale.x(bar.value), scale.x(bar.extent if bar.extent is not None else bar.value)
    baseline = top + _BAR - 3
    yield f'<text x="{_LEFT - 10}" y="{baseline}" text-anchor="end">{escape(bar.name)}</text>'
    yield f'<rect x="{_LEFT}" y="{top}" width="{x - _LEFT:.1f}" height="{_BAR}" fill="{color}"/>'
    label = f"{bar.value:.{panel.digits}f}"
    if bar.extent is not None:
        yield (
            f'<rect x="{x:.1f}" y="{top}" width="{end - x:.1f}" height="{_BAR}" fill="{color}" fill-opacity="0.35"/>'
        )
        label += f" – {bar.extent:.{panel.digits}f}"
    yield f'<text class="n" x="{end + 6:.1f}" y="{baseline}">{label}</text>'


class _Scale:
    """From values to places between _LEFT and _RIGHT."""

    def __init__(self, panel: Panel) -> None:
        values = [value for bar in panel.bars for value in (bar.value, bar.extent) if value is not None]
        self._logarithmic = panel.logarithmic
        if panel.logarithmic:
            first = math.floor(math.log10(max(0.01, min(values))))
            last = max(first + 1, math.ceil(math.log10(max(values) * 1.01)))
            self._low, self._high = float(first), float(last)
            self.ticks = [10.0**power for power in range(first, last + 1)]
        else:
            step = _round_step(max(values) / 5)
            self._low, self._high = 0.0, max(values)
            self.ticks = [step * number for number in range(int(self._high / step) + 1)]

    def x(self, value: float) -> float:
        place = math.log10(max(value, 10**self._low)) if self._logarithmic else value
        return _LEFT + (_RIGHT - _LEFT) * (place - self._low) / (self._high - self._low)


def _round_step(least: float) -> float:
    """The next of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)
