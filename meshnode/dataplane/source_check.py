"""Which inner sources a peer may use (DESIGN section 8). What the seal proves is the peer, not the packet
inside.

| source | from a plain member | from a router |
|---|---|---|
| loopback, multicast, unspecified | never | never |
| an address of ours | never | never |
| link-local IPv6 | its own only | its own only |
| its address, or the longest granted prefix is its own | yes | yes |
| anything else | no | yes: to forward for others is what the role means |
"""

from __future__ import annotations

from meshnode.dataplane.next_hops import NextHops
from meshnode.values import PeerId

REMEMBERED_SOURCES = 256
"""Good sources that are remembered per peer. A full memory starts afresh: forged sources never get in."""


class SourceCheck:
    """The sources of one peer. Made anew when any membership changes."""

    __slots__ = ("_link_local", "_next_hops", "_peer", "_router", "good")

    def __init__(self, peer: PeerId, link_local: bytes, router: bool, next_hops: NextHops) -> None:
        self._peer = peer
        self._link_local = link_local
        self._router = router
        self._next_hops = next_hops
        self.good: dict[bytes, None] = {}

    def refusal(self, source: bytes) -> str | None:
        """The name of the counter if a packet from `source` (4 or 16 bytes) must be dropped, None if it is
        fine."""
        if source in self.good:
            return None
        reason = self._judge(source)
        if reason is None:
            if len(self.good) >= REMEMBERED_SOURCES:
                self.good.clear()
            self.good[source] = None
        return reason

    def _judge(self, source: bytes) -> str | None:
        if _is_martian(source):
            return "source martian"
        if len(source) == 16 and source[0] == 0xFE and source[1] & 0xC0 == 0x80:
            return None if source == self._link_local else "source link-local"
        if self._next_hops.is_ours(source):
            return "source ours"
        if self._router or self._peer in self._next_hops.owners(source):
            return None
        return "source foreign"


def _is_martian(source: bytes) -> bool:
    """Sources that no packet on a wire has (RFC 1122 3.2.1.3, RFC 4291 2.5)."""
    if len(source) == 4:
        return source[0] in (0, 127) or source[0] >= 224
    if source[0] == 0xFF:
        return True
    # ::/96 holds the unspecified and the loopback address, ::ffff:0:0/96 the mapped ones (RFC 4291 2.5.5.2).
    return source[:10] == bytes(10) and source[10:12] in (b"\0\0", b"\xff\xff")
