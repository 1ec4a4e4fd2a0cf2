"""`python -m tests.bench [ROW...]`: bring everybody up in the lab, measure, write the page and the picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from meshnode.lab import available
from meshnode.lab.process import Process
from tests.bench.loads import QUICK, Timing
from tests.bench.machine import cpu_times, description, load_average, stolen_share
from tests.bench.picture import picture
from tests.bench.report import report
from tests.bench.results import Results
from tests.bench.rows import OURS, ROWS, Ground, Row, contenders
from tests.bench.runs import Bench
from tests.bench.vpn import Vpn

_OUTPUT = Path("docs/benchmarks.md")
_PRECEDENCE = -9


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    refusal = available("iperf3", "ping")
    if refusal is not None:
        print(f"bench: {refusal}", file=sys.stderr)
        return 1
    page: Path = options.output
    if not page.parent.is_dir():  # said now, and not after a quarter of an hour
        print(f"bench: no directory {page.parent}: make it, or name another --output", file=sys.stderr)
        return 1
    rows, vpns = _chosen(options.rows, quick=options.quick), contenders()
    if options.precedence:
        Process.niceness = _PRECEDENCE
    results = Results()
    present = _present(vpns, options.only, results)
    before, load, facts = cpu_times(), load_average(), description()
    repetitions = options.repetitions or (1 if options.quick else 3)
    try:
        Bench(present, QUICK if options.quick else Timing(), repetitions, results).run(rows)
    except KeyboardInterrupt:
        print("bench: interrupted, nothing is written", file=sys.stderr)
        return 130
    facts.append(
        f"load average before the run {load}; {stolen_share(before):.1%} of the CPU time was stolen by the hypervisor"
    )
    if options.precedence:
        facts.append("the lab, all VPNs and all load alike, had precedence over what else ran on the machine")
    facts.append(_extent(rows, results))
    versions = {name: vpn.version() for name, vpn in present.items() if not name.startswith(f"{OURS} (")}
    image = page.with_suffix(".svg")
    text = report(results, facts, versions, image.name)
    page.write_text(text)
    image.write_text(picture(results))
    if options.json:
        results.save(options.json)
    print(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure meshnode and other VPNs in one run. Needs root. Takes about 15 minutes.",
    )
    names = ", ".join(row.name for row in ROWS)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"only these rows: {names}")
    parser.add_argument(
        "--quick", action="store_true", help="once and shorter, some rows left out: about 4 minutes"
    )
    parser.add_argument("--only", metavar="VPN,...", help="only these VPNs (raw, meshnode, tinc, ...)")
    parser.add_argument(
        "--repetitions", type=int, metavar="N", help="of the rows over the cable; 3 unless told"
    )
    parser.add_argument(
        "--precedence",
        action="store_true",
        help="on a machine that others use, too: all VPNs and all load alike go before them",
    )
    parser.add_argument(
        "--output", type=Path, default=_OUTPUT, metavar="FILE", help=f"the page; {_OUTPUT} unless told"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="all single values, too")
    return parser


def _chosen(names: Sequence[str], *, quick: bool) -> list[Row]:
    unknown = set(names) - {row.name for row in ROWS}
    if unknown:
        raise SystemExit(f"bench: no such row: {', '.join(sorted(unknown))}; see --help")
    if names:
        return [row for row in ROWS if row.name in names]
    if not quick:
        return list(ROWS)
    return [replace(row, vpns=(OURS,)) if row.ground is Ground.STAR_8 else row for row in ROWS if row.quick]


def _present(vpns: dict[str, Vpn], only: str | None, results: Results) -> dict[str, Vpn]:
    """Those that are asked for and installed."""
    asked = {name: vpn for name, vpn in vpns.items() if only is None or name in only.split(",")}
    for name, vpn in asked.items():
        if vpn.missing():
            results.fail(f"{name} is not installed ({', '.join(vpn.missing())}): make packages-bench")
            print(f"bench: {results.failures[-1]}", file=sys.stderr)
    return {name: vpn for name, vpn in asked.items() if not vpn.missing()}


def _extent(rows: Sequence[Row], results: Results) -> str:
    counts: dict[int, list[str]] = {}
    for row in rows:
        counts.setdefault(results.repetitions(row.name), []).append(row.name)
    return "repetitions: " + "; ".join(f"{count} of {', '.join(names)}" for count, names in counts.items())


if __name__ == "__main__":
    sys.exit(main())
