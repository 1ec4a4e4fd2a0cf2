"""What the operator and the kernel decide for the data plane, once."""

from __future__ import annotations

from dataclasses import dataclass, field

from meshnode.dataplane.fragments import ReassemblyLimits
from meshnode.dataplane.vnet import NO_OFFLOAD, Offload
from meshnode.values import MILLISECOND, Nanos, PeerId, Prefix

LINK_LOCAL_GROUPS = (
    bytes.fromhex("ff020000000000000000000000000001"),  # all nodes
    bytes.fromhex("ff020000000000000000000000000005"),  # OSPF
    bytes.fromhex("ff020000000000000000000000000006"),
    bytes.fromhex("ff020000000000000000000000010006"),  # Babel (RFC 8966, section 6)
    bytes((224, 0, 0, 5)),  # OSPF
    bytes((224, 0, 0, 6)),
    bytes((224, 0, 0, 111)),  # Babel
)
"""Multicast groups that routing needs (DESIGN section 8). All others stop here."""

ZERO_DSCP = bytes(64)
"""Outer DSCP by inner DSCP: all zero, nothing leaks (RFC 2983, pipe model)."""

COPY_DSCP = bytes(range(64))
"""The outer DSCP is the inner one."""


@dataclass(frozen=True, slots=True)
class PlaneConfig:
    """The settings of one data plane.

    `addresses` (packed, IPv4 and IPv6), `link_local` and `prefixes` are our own; they follow the grant by
    `Plane.set_local`. `tun_mtu`: the largest IP packet that the TUN takes. `offload`: what the TUN does for us.
    `own`: our PeerId. `relay`: whether others may relay through us, in all at most `relay_rate` bits per second (None:
    no limit).
    `queue`: "fq_codel", or "fifo" as the control of measurements. `entropy`: "flow", "ports" or "none" (no tag and no
    label say anything). `dscp`: 64 bytes, the outer DSCP by inner DSCP. `uplink_rate`: bits per second of all
    datagrams together, None for no limit. Raises ValueError on nonsense.
    """

    addresses: tuple[bytes, ...] = ()
    link_local: bytes = b""
    prefixes: tuple[Prefix, ...] = ()
    tun_mtu: int = 1380
    offload: Offload = NO_OFFLOAD
    own: PeerId = PeerId(b"")  # noqa: RUF009 - bytes by another name
    relay: bool = True
    relay_rate: int | None = None
    queue: str = "fq_codel"
    entropy: str = "flow"
    dscp: bytes = ZERO_DSCP
    multicast: tuple[bytes, ...] = LINK_LOCAL_GROUPS
    uplink_rate: int | None = None
    memory_limit: int = 16 << 20
    codel_target: Nanos = 5 * MILLISECOND
    codel_interval: Nanos = 100 * MILLISECOND
    reassembly: ReassemblyLimits = field(default_factory=ReassemblyLimits)

    def __post_init__(self) -> None:
        if self.queue not in ("fq_codel", "fifo"):
            raise ValueError(f'queue is "fq_codel" or "fifo", not {self.queue!r}')
        if self.entropy not in ("flow", "ports", "none"):
            raise ValueError(f'entropy is "flow", "ports" or "none", not {self.entropy!r}')
        if len(self.dscp) != 64 or max(self.dscp) > 63:
            raise ValueError("dscp is a table of 64 values from 0 to 63")
