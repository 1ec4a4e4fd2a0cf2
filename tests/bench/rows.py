"""The rows of the benchmark: what is measured, where, with whom, and which numbers of it are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from tests.bench import loads, stars
from tests.bench.loads import Timing, Values
from tests.bench.mesh import Mesh
from tests.bench.nebula import Nebula
from tests.bench.openvpn import OpenVpn
from tests.bench.raw import Raw
from tests.bench.tinc import Tinc
from tests.bench.vpn import Tunnel, Vpn
from tests.bench.wireguard import WireGuard

RAW: Final = "raw"
OURS: Final = "meshnode"
PEERS: Final = ("tinc", "wireguard-go", "nebula", "openvpn")
FIFO: Final = "meshnode (FIFO)"
PLAIN: Final = "meshnode (no offload)"
RATED: Final = "meshnode (rate set)"

EVERYBODY: Final = (RAW, OURS, *PEERS)
VPNS_ONLY: Final = (OURS, *PEERS)

_RATE: Final = "47500kbit"  # 0.95 of grounds.LINK_MBIT


def contenders() -> dict[str, Vpn]:
    """All that can take part, by name, in the order of the columns."""
    everyone: tuple[Vpn, ...] = (
        Raw(),
        Mesh(OURS),
        Tinc(),
        WireGuard(),
        Nebula(),
        OpenVpn(),
        Mesh(FIFO, 'queue = "fifo"\n'),
        Mesh(PLAIN, "[offload]\ntun = false\nudp = false\n"),
        Mesh(RATED, f'[uplink]\nrate = "{_RATE}"\n'),
    )
    return {vpn.name: vpn for vpn in everyone}


class Ground(Enum):
    """Where a row takes place; see grounds.py."""

    CABLE = "two hosts on one cable"
    LINK = "over the narrow link"
    STAR_8 = "a hub with 8 spokes"
    STAR_20 = "a hub with 20 spokes"

    @property
    def spokes(self) -> int:
        return {Ground.STAR_8: 8, Ground.STAR_20: 20}.get(self, 1)


class Better(Enum):
    MORE = "more"
    LESS = "less"
    NEITHER = "neither"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a row: its key in the measured values, and how it is shown."""

    key: str
    label: str
    better: Better = Better.MORE
    digits: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """`name` selects it on the command line; `proof` is the value of which raw must have 1.5 times the best."""

    name: str
    title: str
    ground: Ground
    measure: Callable[[Tunnel, Timing], Values]
    figures: tuple[Figure, ...]
    vpns: tuple[str, ...] = EVERYBODY
    proof: str = ""
    quick: bool = True
    """Whether it is part of a quick run."""


_MBIT: Final = Figure("mbit", "Mbit/s")
_CPU: Final = Figure("cpu_s_per_gb", "CPU s per GB", Better.LESS, 2)
_LOADED: Final = (
    Figure("mbit", "goodput, Mbit/s"),
    *(Figure(f"p{each}_ms", f"RTT p{each}, ms", Better.LESS, 1) for each in (50, 95, 99)),
    *(Figure(f"added_p{each}_ms", f"added p{each}, ms", Better.LESS, 1) for each in (50, 99)),
    Figure("loss", "probes lost", Better.LESS, 3),
)
_FAIR: Final = (Figure("jain", "Jain's index", Better.MORE, 3), Figure("mbit", "sum, Mbit/s"))

ROWS: Final = (
    Row("idle", "Idle RTT", Ground.CABLE, loads.idle, (Figure("p50_ms", "p50, ms", Better.LESS, 2),)),
    Row(
        "tcp",
        "One TCP stream",
        Ground.CABLE,
        loads.one_stream,
        (_MBIT, _CPU),
        (*EVERYBODY, PLAIN),
        proof="mbit",
    ),
    Row(
        "back",
        "One TCP stream back",
        Ground.CABLE,
        loads.one_stream_back,
        (_MBIT, _CPU),
        proof="mbit",
        quick=False,
    ),
    Row("both", "One each way at once", Ground.CABLE, loads.both_ways, (_MBIT,), proof="mbit", quick=False),
    Row("streams", "8 TCP streams", Ground.CABLE, loads.eight_streams, (_MBIT, _CPU), proof="mbit"),
    Row(
        "packets",
        "64-byte UDP",
        Ground.CABLE,
        loads.small_packets,
        (Figure("packets", "delivered/s"),),
        proof="packets",
    ),
    Row("rrul", "4 up, 4 down", Ground.CABLE, loads.rrul, _LOADED, (*EVERYBODY, FIFO), proof="mbit"),
    Row(
        "syscalls",
        "System calls per datagram",
        Ground.CABLE,
        loads.system_calls,
        (Figure("sealing", "sealing", Better.LESS, 2), Figure("opening", "opening", Better.LESS, 2)),
        VPNS_ONLY,
    ),
    Row("link", "4 up, 4 down", Ground.LINK, loads.rrul_over_link, _LOADED, (*EVERYBODY, RATED)),
    Row("seal8", "To 8 spokes", Ground.STAR_8, stars.fairness_sealing, _FAIR, VPNS_ONLY),
    Row("open8", "From 8 spokes", Ground.STAR_8, stars.fairness_opening, _FAIR, VPNS_ONLY),
    Row(
        "flood",
        "Flood to one of 8",
        Ground.STAR_8,
        stars.flood,
        (
            Figure("goodput_kept", "others' goodput kept", Better.MORE, 2),
            Figure("p99_calm_ms", "others' p99 before, ms", Better.LESS, 1),
            Figure("p99_flooded_ms", "others' p99 under it, ms", Better.LESS, 1),
        ),
        (*VPNS_ONLY, RATED),
    ),
    Row("seal20", "To 20 spokes", Ground.STAR_20, stars.fairness_sealing, _FAIR, (OURS,), quick=False),
    Row("open20", "From 20 spokes", Ground.STAR_20, stars.fairness_opening, _FAIR, (OURS,), quick=False),
)
