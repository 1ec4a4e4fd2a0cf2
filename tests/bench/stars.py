"""A hub that serves many spokes at once: who gets how much, and what a flood to one does to the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from meshnode.lab import LabError
from meshnode.lab.counters import wait_for_listener
from meshnode.lab.figures import jain_index, percentile
from meshnode.lab.iperf3 import Load, Throughput, parse_iperf3
from meshnode.lab.probe import ProbeRun
from meshnode.lab.process import Process
from tests.bench.loads import Timing, Values
from tests.bench.vpn import Tunnel

FLOWS: Final = (1, 16, 2, 8, 4, 1, 16, 2)  # of one spoke after the other, over and over
FLOOD_FACTOR: Final = 10
_OMIT: Final = 1.0
_MARGIN: Final = 40.0
_FLOOD_PORT: Final = 5200
_FIRST_PORT: Final = 5201
_WATCHED: Final = 3  # spokes whose round trip time is probed
_FLOOD_SIZE: Final = 1200


def fairness_sealing(tunnel: Tunnel, timing: Timing) -> Values:
    """From the hub to all spokes, which have 1 to 16 flows each."""
    return _fairness(tunnel, timing, reverse=True)


def fairness_opening(tunnel: Tunnel, timing: Timing) -> Values:
    """From all spokes to the hub."""
    return _fairness(tunnel, timing, reverse=False)


def flood(tunnel: Tunnel, timing: Timing) -> Values:
    """One TCP stream to each spoke but the first, which is sent UDP: its fair share, then ten times as much.

    The baseline has the fair share so that what the others lose is not what the first is entitled to.
    """
    spokes = range(1, len(tunnel.spokes))
    total = sum(_shares(tunnel, timing, [(spoke, 1) for spoke in range(len(tunnel.spokes))], reverse=True))
    fair = total / len(tunnel.spokes)
    calm, flooded = (_beside_udp(tunnel, timing, spokes, mbit) for mbit in (fair, FLOOD_FACTOR * fair))
    return {
        "goodput_kept": flooded["mbit"] / calm["mbit"],
        "p99_calm_ms": calm["p99_ms"],
        "p99_flooded_ms": flooded["p99_ms"],
        "p99_moved_ms": flooded["p99_ms"] - calm["p99_ms"],
        "fair_mbit": fair,
    }


def _fairness(tunnel: Tunnel, timing: Timing, *, reverse: bool) -> Values:
    plan = [(spoke, FLOWS[spoke % len(FLOWS)]) for spoke in range(len(tunnel.spokes))]
    shares = _shares(tunnel, timing, plan, reverse=reverse)
    return {
        "jain": jain_index(shares),
        "mbit": sum(shares),
        "least_mbit": min(shares),
        "most_mbit": max(shares),
    }


def _beside_udp(tunnel: Tunnel, timing: Timing, spokes: Sequence[int], mbit: float) -> dict[str, float]:
    """Goodput and p99 of `spokes` while the first spoke is sent `mbit` of UDP."""
    seconds = timing.star + _OMIT
    hub, first = tunnel.hub, tunnel.spokes[0]
    server = first.host.popen(["iperf3", "-s", "-1", "-p", str(_FLOOD_PORT)])
    probes = [
        ProbeRun(hub.host, tunnel.spokes[spoke].host, tunnel.spokes[spoke].address, seconds=seconds)
        for spoke in spokes[:_WATCHED]
    ]
    wait_for_listener(first.host, _FLOOD_PORT)
    load = Load(seconds=seconds, udp_mbit=mbit, size=_FLOOD_SIZE)
    client = hub.host.popen(["iperf3", "-c", first.address, "-p", str(_FLOOD_PORT), *load.arguments()])
    try:
        shares = _shares(tunnel, timing, [(spoke, 1) for spoke in spokes], reverse=True)
        rtts = [rtt for probe in probes for rtt in probe.result().rtts_ms.values()]
    finally:
        client.stop()
        server.stop()
    if not rtts:
        raise LabError("no probe came back")
    return {"mbit": sum(shares), "p99_ms": percentile(rtts, 99)}


def _shares(tunnel: Tunnel, timing: Timing, plan: Sequence[tuple[int, int]], *, reverse: bool) -> list[float]:
    """Mbit/s of each (spoke, number of streams) while all run at once."""
    hub = tunnel.hub
    servers, clients = [], []
    try:
        for spoke, _ in plan:
            port = _FIRST_PORT + spoke
            servers.append(hub.host.popen(["iperf3", "-s", "-1", "-p", str(port)]))
        for spoke, _ in plan:
            wait_for_listener(hub.host, _FIRST_PORT + spoke)
        for spoke, streams in plan:
            load = Load(seconds=timing.star, omit=_OMIT, streams=streams, reverse=reverse)
            argv = ["iperf3", "--json", "--connect-timeout", "10000", "-c", hub.address]
            argv += ["-p", str(_FIRST_PORT + spoke), *load.arguments()]
            clients.append(tunnel.spokes[spoke].host.popen(argv))
        return [_outcome(client, timing).received_mbit for client in clients]
    finally:
        for process in (*clients, *servers):
            process.stop()


def _outcome(client: Process, timing: Timing) -> Throughput:
    client.wait(timing.star + _OMIT + _MARGIN)
    return parse_iperf3(client.output)
