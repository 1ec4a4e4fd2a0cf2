"""The page that a run leaves behind: docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from tests.bench.goals import GOALS
from tests.bench.results import Results, advantage
from tests.bench.rows import OURS, RAW, ROWS, Better, Figure, Ground, Row
from tests.bench.runs import PROOF

_NONE: Final = "–"

_HEADS: Final = {
    Ground.CABLE: (
        "Two hosts on one cable",
        "A veth pair: nothing limits but the CPU, which both ends, the load generators and the probe share.",
    ),
    Ground.LINK: (
        "Over a narrow link",
        "50 Mbit/s each way, 40 ms of round trip, a FIFO of one second in front of each direction: on the router\n"
        'and in the core, not on the VPN\'s own hosts. "Rate set" is `[uplink] rate = "47500kbit"` on both nodes.',
    ),
    Ground.STAR_8: (
        "A hub with 8 spokes",
        "Each spoke has 1 to 16 TCP flows. For the flood, each has one, but the first is sent UDP: first its fair\n"
        "share, then ten times as much; the sender of the flood takes CPU from everybody, too.",
    ),
    Ground.STAR_20: ("A hub with 20 spokes", "The same with 20."),
}

_METHOD: Final = """## How it is measured

- Every VPN runs with the defaults it is shipped with, in namespaces of its own. All are up at once, as idle they
  cost next to nothing, and are measured in turn (A B C A B C). Cells are medians. The stars are built and measured
  one after another.
- Load is iperf3 with CUBIC. *4 up, 4 down* is the load of flent's rrul; the probe beside it is a UDP datagram of
  64 bytes at 100 Hz, stamped by the kernel where it arrives. *Added* is over the median of the same probe on the
  idle tunnel.
- *64-byte UDP* is sent as fast as one iperf3 can, and counted where it arrives.
- CPU is user and system time of the VPN's own processes on both ends, for 10⁹ bytes of payload.
- System calls are counted by the kernel (`perf stat`) in the daemon, those for ACKs and timers included, and
  divided by the TCP segments of the stream, each of which is one datagram.
- The last column is meshnode's figure against the best of the other VPNs in the same run; above 1 it is better,
  whichever way the figure goes. Only such ratios travel to other machines.
"""


def report(results: Results, facts: Sequence[str], versions: dict[str, str], picture: str) -> str:
    """The page as Markdown: `facts` are lines on the machine, `picture` the name of the SVG beside it."""
    parts = [
        "# Benchmarks",
        "Written by `make bench`: one run on one machine, so its ratios mean more than its rates.",
        f"![round trip times under load and throughput of each VPN]({picture})",
        "## This run",
        "\n".join(f"- {line}" for line in (*facts, *_version_lines(versions))),
        *_goals(results),
    ]
    for ground in Ground:
        parts += _ground(results, ground)
    parts += [_METHOD.rstrip(), *_failures(results)]
    return "\n\n".join(parts) + "\n"


def proof_failures(results: Results) -> Iterator[str]:
    """A line for each row that the raw lab could not carry PROOF times over."""
    for row in ROWS:
        raw = results.median(row.name, RAW, row.proof) if row.proof else None
        rates = [results.median(row.name, vpn, row.proof) for vpn in row.vpns if vpn != RAW]
        most = max((rate for rate in rates if rate is not None), default=None)
        if raw is not None and most is not None and raw < PROOF * most:
            ratio = f"{raw / most:.1f} times the best VPN"
            yield f"{row.title}: the raw lab carried only {ratio}, so the row may be cut short by it"


def _version_lines(versions: dict[str, str]) -> Iterator[str]:
    for name, version in versions.items():
        yield version if name.split("-")[0].lower() in version.lower() else f"{name}: {version}"


def _goals(results: Results) -> list[str]:
    lines = []
    for goal in GOALS:
        verdict = goal.judge(results)
        if verdict is not None:
            lines.append([goal.what, goal.wanted, verdict.measured, "yes" if verdict.reached else "**no**"])
    return ["## Figures to reach", _table(["", "wanted", "measured", "reached"], lines)] if lines else []


def _ground(results: Results, ground: Ground) -> list[str]:
    rows = [row for row in ROWS if row.ground is ground and results.repetitions(row.name)]
    if not rows:
        return []
    names = [name for name in _columns(rows) if any(_value(results, row, name) for row in rows)]
    head, text = _HEADS[ground]
    lines = [line for row in rows for line in _lines(results, row, names)]
    return [f"## {head}", text, _table(["", *names, "to best peer"], lines)]


def _columns(rows: Iterable[Row]) -> list[str]:
    names: dict[str, None] = {}
    for row in rows:
        names |= dict.fromkeys(row.vpns)
    return list(names)


def _value(results: Results, row: Row, name: str) -> bool:
    return any(results.median(row.name, name, figure.key) is not None for figure in row.figures)


def _lines(results: Results, row: Row, names: Sequence[str]) -> Iterator[list[str]]:
    for figure in row.figures:
        cells = [shown(results.median(row.name, name, figure.key), figure) for name in names]
        yield [f"{row.title}: {figure.label}", *cells, _against_peers(results, row, figure)]


def _against_peers(results: Results, row: Row, figure: Figure) -> str:
    best = results.best_peer(row.name, figure)
    ratio = best and advantage(results.median(row.name, OURS, figure.key), best[1], figure.better)
    return f"{ratio:.2f} ({best[0]})" if best and ratio else _NONE


def shown(value: float | None, figure: Figure) -> str:
    """A cell of the table; large rates without false precision."""
    if value is None:
        return _NONE
    if value >= 10_000 and figure.better is Better.MORE:
        value = float(f"{value:.3g}")
    return f"{value:,.{figure.digits}f}".replace(",", " ")


def _failures(results: Results) -> list[str]:
    lines = [*results.failures, *proof_failures(results)]
    return ["## What went wrong", "\n".join(f"- {line}" for line in lines)] if lines else []


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))
