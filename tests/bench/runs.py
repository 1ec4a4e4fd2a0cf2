"""Take all rows of one ground, with every VPN in turn: A B C A B C, so that a busy minute hits all alike."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence

from meshnode.lab import Host, Lab, LabError
from meshnode.lab.iperf3 import Load, measure
from tests.bench.grounds import LINK_MBIT, NarrowLink, Pair, cable, star
from tests.bench.loads import Timing
from tests.bench.results import Results
from tests.bench.rows import RAW, Ground, Row
from tests.bench.vpn import Tunnel, Vpn

PROOF: float = 1.5
"""The raw lab must carry this many times what a row wants to measure."""
_GIVE_UP_AFTER = 2  # failures of one VPN in one row


class Bench:
    """One run: who takes part, how long and how often, and what came out."""

    def __init__(self, vpns: dict[str, Vpn], timing: Timing, repetitions: int, results: Results) -> None:
        self._vpns = vpns
        self._timing = timing
        self._repetitions = repetitions
        self.results = results
        self._began = time.monotonic()

    def run(self, rows: Sequence[Row]) -> None:
        for ground in Ground:
            here = [row for row in rows if row.ground is ground]
            if not here:
                continue
            if ground is Ground.CABLE:
                self._run_cable(here)
            elif ground is Ground.LINK:
                self._run_link(here)
            else:
                self._run_stars(here, ground.spokes)

    def _run_cable(self, rows: Sequence[Row]) -> None:
        with Lab() as lab:
            tunnels = self._connect(rows, lambda name: cable(lab, name))
            for row in rows:
                self._interleave(row, tunnels, self._repetitions)

    def _run_link(self, rows: Sequence[Row]) -> None:
        with Lab() as lab:
            link = NarrowLink(lab)
            tunnels = self._connect(rows, link.pair)
            self._prove_link(link)
            link.narrow()
            for row in rows:
                self._interleave(row, tunnels, max(1, self._repetitions - 1))

    def _run_stars(self, rows: Sequence[Row], spokes: int) -> None:
        for name in _names(rows, self._vpns):
            with Lab() as lab:
                tunnel = self._start(name, lambda lab=lab: star(lab, spokes))  # type: ignore[misc]
                for row in rows:
                    if tunnel is not None and name in row.vpns:
                        self._measure(row, name, tunnel)

    def _connect(self, rows: Sequence[Row], pair: Callable[[str], Pair]) -> dict[str, Tunnel]:
        """One tunnel for each VPN that takes part; all stay up, as idle they cost nothing that matters."""
        tunnels = {}
        for index, name in enumerate(_names(rows, self._vpns)):
            tunnel = self._start(name, lambda index=index: _as_star(pair(f"pair{index}")))  # type: ignore[misc]
            if tunnel is not None:
                tunnels[name] = tunnel
        return tunnels

    def _start(self, name: str, hosts: Callable[[], tuple[Host, list[Host]]]) -> Tunnel | None:
        try:
            tunnel = self._vpns[name].connect(*hosts())
        except LabError as error:
            self.results.fail(f"{name} did not start: {error}")
            self._say(f"{name} did not start: {error}")
            return None
        return tunnel

    def _interleave(self, row: Row, tunnels: dict[str, Tunnel], repetitions: int) -> None:
        failures = dict.fromkeys(tunnels, 0)
        for _ in range(repetitions):
            for name, tunnel in tunnels.items():
                if name in row.vpns and failures[name] < _GIVE_UP_AFTER:
                    failures[name] += not self._measure(row, name, tunnel)

    def _measure(self, row: Row, name: str, tunnel: Tunnel) -> bool:
        try:
            tunnel.check()
            values = row.measure(tunnel, self._timing)
        except (LabError, OSError) as error:
            self.results.fail(f"{row.name}, {name}: {error}")
            self._say(f"{row.name:9}{name:22}{error}")
            return False
        self.results.add(row.name, name, values)
        shown = "  ".join(
            f"{figure.label} {values[figure.key]:.{figure.digits}f}"
            for figure in row.figures
            if figure.key in values
        )
        self._say(f"{row.name:9}{name:22}{shown}")
        return True

    def _prove_link(self, link: NarrowLink) -> None:
        """The link, before it is narrow, must carry more than it is going to."""
        near, far = link.pair("proof")
        result = measure(near, far, far.address4, Load(seconds=2, omit=1, streams=4))
        self.results.add("link-proof", RAW, {"mbit": result.received_mbit})
        if result.received_mbit < PROOF * LINK_MBIT:
            self.results.fail(
                f"the lab's link carries {result.received_mbit:.0f} Mbit/s only: its row is void"
            )

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:5.0f} s  {text}", file=sys.stderr, flush=True)


def _names(rows: Iterable[Row], vpns: dict[str, Vpn]) -> list[str]:
    """Those that take part in any of the rows, in the order of the columns."""
    wanted = {name for row in rows for name in row.vpns}
    return [name for name in vpns if name in wanted]


def _as_star(pair: Pair) -> tuple[Host, list[Host]]:
    return pair[0], [pair[1]]
