"""Frozen values that the layers exchange. This module imports nothing of meshnode and decides nothing.

`proto` (the core) and `dataplane` (the mill) never import each other: what one tells the other is a value from here,
carried by `edge/runner.py` or by the simulator. Times are integers of nanoseconds, sizes are bytes, rates are bits per
second, addresses are the packed bytes of the wire (4 or 16), and endpoints are numeric host and port.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag, StrEnum
from typing import NamedTuple, NewType, Protocol

Nanos = int
"""A point in time or a duration, in nanoseconds. Points come from CLOCK_BOOTTIME unless said otherwise."""

MICROSECOND: Nanos = 1_000
MILLISECOND: Nanos = 1_000_000
SECOND: Nanos = 1_000_000_000

PeerId = NewType("PeerId", bytes)
"""16 bytes: the hash of a node's Ed25519 identity key (docs/protocol.md, Identity)."""


class BadPacket(Exception):
    """What the network sent cannot be used. The only exception that an `*_untrusted` function may raise.

    `reason` is the name of the counter that counts it: short, lower case, no data from the packet.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Entropy(Protocol):
    """Where randomness comes from: the operating system in the product, a seed in the simulator."""

    def token(self, size: int) -> bytes:
        """`size` random bytes."""
        ...


class Now(NamedTuple):
    """One reading of both clocks: `boot` drives timers and queues, `wall` dates handshakes, grants and tokens."""

    boot: Nanos
    wall: Nanos


class Endpoint(NamedTuple):
    """A numeric address and port. A link-local IPv6 host carries its scope: `fe80::1%2`."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class PathKind(StrEnum):
    """How sealed datagrams travel to a peer."""

    UDP = "udp"
    TCP = "tcp"
    RELAY = "relay"


NOWHERE = Endpoint("", 0)


class Path(NamedTuple):
    """One way to a peer. Hashable and small: paths are dictionary keys on the packet path.

    `remote` is the far socket (NOWHERE for a relay), `via` the relaying peer and `far` the node beyond it, `local` the
    number of our own socket (0 the main one of the family; the birthday search and port entropy open more).
    """

    kind: PathKind
    remote: Endpoint = NOWHERE
    via: PeerId | None = None
    local: int = 0
    far: PeerId | None = None

    def __str__(self) -> str:
        if self.kind is PathKind.RELAY:
            return f"relay via {self.via.hex()[:8] if self.via else '?'}"
        return f"{self.kind.value} {self.remote}"


class Ecn(IntEnum):
    """The two ECN bits of an IP header (RFC 3168)."""

    NOT_ECT = 0
    ECT1 = 1
    ECT0 = 2
    CE = 3


class Suite(IntEnum):
    """Data AEADs by their number on the wire (docs/protocol.md, Suites)."""

    CHACHA20_POLY1305 = 1
    AES_256_GCM = 2


class Capability(IntFlag):
    """What a node can receive, said inside the handshake. Unknown bits are ignored."""

    NONE = 0
    ECN = 1
    PARTIAL_CHECKSUM = 2
    SEGMENT = 4
    FRAGMENT = 8
    RELAY = 16


class Transmit(NamedTuple):
    """One handshake datagram to put on one path."""

    path: Path
    data: bytes


class Datagram(NamedTuple):
    """What one socket read gave. `arrived` is the kernel's time, converted to boot time; `ecn` the outer bits.

    With `segment_size` (UDP_GRO) `data` holds several datagrams of that size back to back, the last may be shorter;
    0: one datagram. The buffer belongs to the receiver of this value from now on.
    """

    data: bytes | bytearray | memoryview
    path: Path
    arrived: Nanos
    ecn: int = 0
    segment_size: int = 0


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """What the data plane needs to seal and open under one session. `repr` shows no key."""

    local_index: int
    remote_index: int
    suite: Suite
    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)
    initiator: bool
    capabilities: Capability


# --- Commands from the core to the data plane ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InstallSession:
    """Open datagrams for `keys.local_index` from now on. Nothing is sealed with it before `UseSession`."""

    peer: PeerId
    keys: SessionKeys


@dataclass(frozen=True, slots=True)
class UseSession:
    """Seal what goes to `peer` with this session from now on (its keys are confirmed)."""

    peer: PeerId
    local_index: int


@dataclass(frozen=True, slots=True)
class RetireSession:
    """Forget the keys of this session."""

    peer: PeerId
    local_index: int


@dataclass(frozen=True, slots=True)
class UsePath:
    """Send to `peer` over `path` (None: hold back, there is none), datagrams of at most `mtu` IP bytes.

    `ecn` says whether the path was seen to pass ECN bits; `interval` is CoDel's, at least the path's round trip.
    """

    peer: PeerId
    path: Path | None
    mtu: int = 1280
    ecn: bool = True
    interval: Nanos = 100 * MILLISECOND


@dataclass(frozen=True, slots=True)
class ProvePaths:
    """The paths from which `peer` has answered: datagrams from elsewhere wait in the small unproven queue."""

    peer: PeerId
    paths: tuple[Path, ...]


Prefix = tuple[bytes, int]
"""A packed network address (4 or 16 bytes) and its prefix length."""


@dataclass(frozen=True, slots=True)
class AdmitPeer:
    """`peer` is a member: its inner source addresses, and whether it may forward for others (role `router`)."""

    peer: PeerId
    link_local: bytes
    addresses: tuple[bytes, ...]
    prefixes: tuple[Prefix, ...]
    router: bool


@dataclass(frozen=True, slots=True)
class RemovePeer:
    """`peer` is no member any more: sessions, queues and addresses are dropped."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class LimitRate:
    """Shape what goes to `peer` to `bits_per_second` (None: not at all)."""

    peer: PeerId
    bits_per_second: int | None


DataPlaneCommand = (
    InstallSession | UseSession | RetireSession | UsePath | ProvePaths | AdmitPeer | RemovePeer | LimitRate
)


@dataclass(frozen=True, slots=True)
class SendFrames:
    """Seal `payload` (encoded frames, may be empty: a keepalive) for `peer` and send it ahead of user traffic.

    `path` overrides the peer's path, so that a probe travels where it is meant to; `local_index` overrides the
    session (None: the one in use); `ecn` are the outer bits.
    """

    peer: PeerId
    payload: bytes
    path: Path | None = None
    local_index: int | None = None
    ecn: int = Ecn.NOT_ECT


# --- Notes from the data plane to the core --------------------------------------------------------------------------


class RawFrame(NamedTuple):
    """One frame that the data plane does not serve itself. `body` is not parsed yet."""

    type: int
    flags: int
    body: bytes


class Opened(NamedTuple):
    """One authenticated datagram with frames for the core."""

    peer: PeerId
    local_index: int
    path: Path
    arrived: Nanos
    ecn: int
    size: int
    frames: tuple[RawFrame, ...]


@dataclass(slots=True)
class TrafficNote:
    """What one session did on one path since the last note. `data` counts datagrams that carried user packets."""

    peer: PeerId
    local_index: int
    path: Path
    sent: int = 0
    sent_data: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_data: int = 0
    received_bytes: int = 0
    highest_sent: int = 0
    highest_received: int = 0


class Unsendable(NamedTuple):
    """User traffic waits for `peer`, but it has no usable session or no path."""

    peer: PeerId


# --- What the operator and the edge are told ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerUp:
    peer: PeerId


@dataclass(frozen=True, slots=True)
class PeerDown:
    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class MembershipChanged:
    """Members, their addresses or prefixes changed: the edge brings addresses and routes in line."""


@dataclass(frozen=True, slots=True)
class SaveState:
    """Persist `Node.stored_state()`. The edge answers with `StateSaved(ticket)`, also after a failure.

    With `urgent` something waits for the disk (an answer to a joiner); else it may be put off a few seconds.
    """

    ticket: int
    urgent: bool


@dataclass(frozen=True, slots=True)
class Notice:
    """One line for the log. `level` is debug, info, warning or error."""

    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to `Node.ping`, with the round-trip time and the path that it took."""

    peer: PeerId
    token: bytes
    rtt: Nanos
    path: Path


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A joiner has its grant: `state` is the encoded state to store before anything else happens."""

    state: bytes


@dataclass(frozen=True, slots=True)
class EnrolmentRefused:
    """The inviter said no (or never answered): one line for the person who typed the token."""

    reason: str


Event = PeerUp | PeerDown | MembershipChanged | SaveState | Notice | Pong | Enrolled | EnrolmentRefused
Output = Event | DataPlaneCommand | SendFrames


# --- Commands to the core -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StateSaved:
    """The answer to `SaveState`. `error` is None, or one line that says why the disk refused."""

    ticket: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class LocalEndpoints:
    """Where this node can be reached as far as its own machine knows (interfaces, `advertise`), best first."""

    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """An address, link or route of the machine changed, or it woke up: probe everything now."""


@dataclass(frozen=True, slots=True)
class TooBig:
    """The kernel refused a datagram for `peer` on `path` (EMSGSIZE); `size` is that of its outer IP packet."""

    peer: PeerId
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Hint:
    """`peer` may be reachable at `endpoint` (configuration, mDNS). Nothing is believed before an echo."""

    peer: PeerId
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The node stops: tell every peer, then expect no further calls."""


Command = StateSaved | LocalEndpoints | LinkChanged | TooBig | Hint | Goodbye
