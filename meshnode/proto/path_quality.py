"""What the path in use can carry: how big a datagram may be, and whether ECN bits pass (DESIGN section 6 and 7)."""

from __future__ import annotations

from meshnode.proto.constants import ECN_PROBES, RELAY_MTU
from meshnode.proto.path_mtu import PathMtu
from meshnode.values import MILLISECOND, Ecn, Entropy, Nanos, Path, PathKind
from meshnode.wire.frames import (
    FRAME_HEADER,
    PROBE_TOKEN_SIZE,
    Echo,
    FrameType,
    Probe,
    ProbeMode,
    pack_frame,
)
from meshnode.wire.header import MINIMUM_DATA

IPV4_UDP = 20 + 8
IPV6_UDP = 40 + 8
INTERVAL_STEP: Nanos = 50 * MILLISECOND

SEGMENT_FRAME = FRAME_HEADER.size + 4
"""A TUN packet travels whole when its segment frame fits."""


def codel_interval(rtt: Nanos) -> Nanos:
    """CoDel's interval for a peer: 1.2 round trips, at least 100 ms, in steps, so that it seldom changes."""
    steps = -(-rtt * 6 // (5 * INTERVAL_STEP))
    return max(2, steps) * INTERVAL_STEP


class PathQuality:
    """Probes of one path. Over TCP and relays nothing is searched: a stream has no packets, a relay its own path."""

    def __init__(self, path: Path, tun_mtu: int, entropy: Entropy, now: Nanos) -> None:
        self.path = path
        self.ecn = True
        self._entropy = entropy
        self._overhead = (IPV6_UDP if ":" in path.remote.host else IPV4_UDP) + MINIMUM_DATA
        self._mtu = PathMtu(tun_mtu + self._overhead + SEGMENT_FRAME, now)
        self._searched = path.kind is PathKind.UDP
        self._ecn_tokens: dict[bytes, None] = {}
        self._ecn_known = False

    @property
    def mtu(self) -> int:
        """The size of the outer IP packet that datagrams may have."""
        return self._mtu.size if self._searched else RELAY_MTU

    @property
    def confirmed(self) -> bool:
        """Whether a probe of that size has come through."""
        return self._searched and self._mtu.confirmed

    def probes(self, now: Nanos) -> list[tuple[bytes, Ecn]]:
        """Payloads to send on the path now, each with its outer ECN bits."""
        if not self._searched:
            return []
        payloads = [(self._size_probe(size, now), Ecn.NOT_ECT) for size in self._mtu.due(now)]
        if payloads and not self._ecn_known and len(self._ecn_tokens) < ECN_PROBES:
            token = self._entropy.token(PROBE_TOKEN_SIZE)
            self._ecn_tokens[token] = None
            payloads.append((pack_frame(FrameType.PROBE, Probe(token, ProbeMode.ECN).pack()), Ecn.ECT0))
        return payloads

    def echoed(self, echo: Echo, now: Nanos) -> bool | None:
        """An echo with a mode of ours: None when it is unasked, else whether `mtu` or `ecn` has changed."""
        if echo.mode is ProbeMode.PATH_MTU:
            return self._mtu.echoed(echo.token, now)
        if echo.token not in self._ecn_tokens:
            return None
        self._ecn_tokens.clear()
        self._ecn_known = True
        before = self.ecn
        self.ecn = echo.ecn != Ecn.NOT_ECT
        return self.ecn != before

    def too_big(self, size: int, now: Nanos) -> bool:
        """The kernel refused a datagram of `size` bytes of outer IP packet. Whether `mtu` has changed."""
        return self._mtu.too_big(size, now)

    def busy(self, now: Nanos) -> None:
        """User traffic flows."""
        self._mtu.busy(now)

    def next_wakeup(self) -> Nanos | None:
        """When `probes` should be called next."""
        return self._mtu.next_wakeup() if self._searched else None

    def _size_probe(self, size: int, now: Nanos) -> bytes:
        token = self._entropy.token(PROBE_TOKEN_SIZE)
        self._mtu.sent(size, token, now)
        body = size - self._overhead - FRAME_HEADER.size
        return pack_frame(FrameType.PROBE, Probe(token, ProbeMode.PATH_MTU, body).pack())
