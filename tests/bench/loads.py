"""What is sent through a tunnel, and what is read off it. Each function measures once and returns plain numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from meshnode.lab import LabError
from meshnode.lab.figures import percentile
from meshnode.lab.iperf3 import Iperf3, Load, Throughput, measure
from meshnode.lab.ping import ping
from meshnode.lab.probe import ProbeRun
from tests.bench.costs import Stopwatch, SyscallCount, segments_sent
from tests.bench.vpn import Tunnel

Values = dict[str, float]

SMALL_PACKET: Final = 64  # bytes of UDP payload
_SLOW_START: Final = 0.5  # seconds of a TCP stream over a cable that do not count
_RRUL_STREAMS: Final = 4  # each way
_PROBE_RATE: Final = 100.0  # Hz
_FIRST_PORT: Final = 5201


@dataclass(frozen=True, slots=True)
class Timing:
    """How long each measurement takes, in seconds."""

    bulk: float = 2.0
    loaded: float = 5.0
    link: float = 7.0
    link_warm_up: float = 4.0
    star: float = 4.0


QUICK: Final = Timing(bulk=1.0, loaded=3.0, link=5.0, link_warm_up=3.0, star=3.0)


def idle(tunnel: Tunnel, timing: Timing) -> Values:
    """The kernel's own echo, 100 a second."""
    result = ping(tunnel.hub.host, tunnel.spoke.address, count=150, interval=0.01)
    if not result.rtts_ms:
        raise LabError("no echo came back")
    return {"p50_ms": percentile(result.rtts_ms, 50), "p99_ms": percentile(result.rtts_ms, 99)}


def one_stream(tunnel: Tunnel, timing: Timing) -> Values:
    return _tcp(tunnel, Load(seconds=timing.bulk, omit=_SLOW_START))


def one_stream_back(tunnel: Tunnel, timing: Timing) -> Values:
    return _tcp(tunnel, Load(seconds=timing.bulk, omit=_SLOW_START, reverse=True))


def eight_streams(tunnel: Tunnel, timing: Timing) -> Values:
    return _tcp(tunnel, Load(seconds=timing.bulk, omit=_SLOW_START, streams=8))


def both_ways(tunnel: Tunnel, timing: Timing) -> Values:
    """One stream each way at once."""
    forth, back = _two_ways(tunnel, timing.bulk, _SLOW_START, streams=1)()
    return {"mbit": forth.received_mbit + back.received_mbit}


def small_packets(tunnel: Tunnel, timing: Timing) -> Values:
    """As many 64-byte datagrams as iperf3 can send; what counts is what arrives."""
    load = Load(seconds=timing.bulk, udp_mbit=0, size=SMALL_PACKET)
    result = measure(tunnel.hub.host, tunnel.spoke.host, tunnel.spoke.address, load)
    if result.packets is None or result.lost_packets is None:
        raise LabError("iperf3 did not count its datagrams")
    return {
        "packets": (result.packets - result.lost_packets) / timing.bulk,
        "sent": result.packets / timing.bulk,
    }


def rrul(tunnel: Tunnel, timing: Timing) -> Values:
    """Four streams up, four down and a probe: the real-time response under load."""
    return _loaded(tunnel, timing.loaded, warm_up=1.0)


def rrul_over_link(tunnel: Tunnel, timing: Timing) -> Values:
    """The same with the time that CUBIC takes to fill a second of FIFO."""
    return _loaded(tunnel, timing.link, warm_up=timing.link_warm_up)


def system_calls(tunnel: Tunnel, timing: Timing) -> Values:
    """System calls of both daemons per inner TCP segment of a stream, which all of them send as one datagram."""
    before = segments_sent(tunnel.hub)
    with SyscallCount(tunnel.hub) as sealing, SyscallCount(tunnel.spoke) as opening:
        _tcp(tunnel, Load(seconds=timing.bulk))
    segments = max(1, segments_sent(tunnel.hub) - before)
    return {"sealing": sealing.calls / segments, "opening": opening.calls / segments}


def _tcp(tunnel: Tunnel, load: Load) -> Values:
    """Mbit/s of payload, and the CPU seconds that the VPN's processes on both ends spent for 10^9 bytes of it."""
    watch = Stopwatch(tunnel)
    result = measure(tunnel.hub.host, tunnel.spoke.host, tunnel.spoke.address, load)
    cpu = watch.cpu_seconds()
    values = {"mbit": result.received_mbit}
    if cpu and result.received_mbit:
        values["cpu_s_per_gb"] = cpu / ((load.seconds + load.omit) * result.received_mbit / 8000)
    return values


def _two_ways(
    tunnel: Tunnel, seconds: float, omit: float, streams: int
) -> Callable[[], tuple[Throughput, Throughput]]:
    """Start TCP both ways at once; the function that waits for the outcome."""
    runs: list[Iperf3] = []
    for port, reverse in ((_FIRST_PORT, False), (_FIRST_PORT + 1, True)):
        load = Load(seconds=seconds, omit=omit, streams=streams, reverse=reverse)
        runs.append(Iperf3(tunnel.hub.host, tunnel.spoke.host, tunnel.spoke.address, load, port=port))

    def results() -> tuple[Throughput, Throughput]:
        try:
            return runs[0].result(), runs[1].result()
        finally:
            for run in runs:
                run.stop()

    return results


def _loaded(tunnel: Tunnel, seconds: float, warm_up: float) -> Values:
    idle_ms = _idle_probe(tunnel)
    wait = _two_ways(tunnel, seconds + 0.5, warm_up, _RRUL_STREAMS)
    try:
        hub, spoke = tunnel.hub.host, tunnel.spoke
        run = ProbeRun(hub, spoke.host, spoke.address, seconds=warm_up + seconds, rate=_PROBE_RATE)
        probe = run.result()
    finally:
        up, down = wait()
    first = round(warm_up * _PROBE_RATE)
    rtts = [rtt for number, rtt in probe.rtts_ms.items() if number >= first]
    if not rtts:
        raise LabError("no probe came back under load")
    values = {f"p{each}_ms": percentile(rtts, each) for each in (50, 95, 99)}
    values |= {f"added_p{each}_ms": values[f"p{each}_ms"] - idle_ms for each in (50, 95, 99)}
    sent = round(seconds * _PROBE_RATE)
    return values | {
        "idle_ms": idle_ms,
        "loss": max(0.0, 1 - len(rtts) / sent),
        "up_mbit": up.received_mbit,
        "down_mbit": down.received_mbit,
        "mbit": up.received_mbit + down.received_mbit,
    }


def _idle_probe(tunnel: Tunnel) -> float:
    """The median of the same probe without load, once for each tunnel."""
    if "probe" not in tunnel.idle_ms:
        hub, spoke = tunnel.hub.host, tunnel.spoke
        probe = ProbeRun(hub, spoke.host, spoke.address, seconds=1.0, rate=_PROBE_RATE).result()
        if not probe.rtts_ms:
            raise LabError("no probe came back")
        tunnel.idle_ms["probe"] = percentile(list(probe.rtts_ms.values()), 50)
    return tunnel.idle_ms["probe"]
