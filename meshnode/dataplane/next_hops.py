"""Which peer an inner address belongs to: exact addresses first, then the longest granted prefix.

The same table answers both questions of the IP side (DESIGN section 8): where does a packet from the TUN go,
and may this peer send from that source. What no member owns is asked of a resolver (the kernel's routing
table, where Babel works); what the resolver does not know yet is put on a bounded list of requests that the
edge collects.
"""

from __future__ import annotations

from meshnode.dataplane.api import NextHop
from meshnode.values import PeerId, Prefix

OURSELVES = PeerId(b"")
"""The owner of our own addresses and prefixes."""

MAX_WANTED = 64
"""Destinations that may wait for the resolver at a time; a scan of the address space asks for no more."""

_FE80 = b"\xfe\x80"


class PrefixTable:
    """Longest-prefix match for one address family. Several members may own one prefix (two routers of a
    site)."""

    __slots__ = ("_bits", "_lengths", "_networks")

    def __init__(self, address_size: int) -> None:
        self._bits = 8 * address_size
        self._lengths: list[int] = []
        self._networks: dict[int, dict[int, tuple[PeerId, ...]]] = {}

    def add(self, network: bytes, length: int, owner: PeerId) -> None:
        """`owner` may use addresses in `network`/`length`; bits past the length are ignored."""
        key = int.from_bytes(network, "big") >> (self._bits - length)
        networks = self._networks.setdefault(length, {})
        networks[key] = tuple(sorted({*networks.get(key, ()), owner}))
        self._lengths = sorted(self._networks, reverse=True)

    def owners(self, address: bytes) -> tuple[PeerId, ...]:
        """The owners of the longest prefix that covers `address`, in order of their ids; none: empty."""
        number = int.from_bytes(address, "big")
        for length in self._lengths:
            owners = self._networks[length].get(number >> (self._bits - length))
            if owners is not None:
                return owners
        return ()


class NextHops:
    """The addresses of all members and ourselves. Changes are rare and rebuild the tables; look-ups are the
    fast path."""

    def __init__(self, resolver: NextHop | None = None) -> None:
        self.resolver = resolver
        self._members: dict[PeerId, tuple[tuple[bytes, ...], tuple[Prefix, ...]]] = {}
        self._exact: dict[bytes, PeerId] = {}
        self._v4 = PrefixTable(4)
        self._v6 = PrefixTable(16)
        self._wanted: dict[bytes, None] = {}

    def set_owner(self, owner: PeerId, addresses: tuple[bytes, ...], prefixes: tuple[Prefix, ...]) -> None:
        """`owner` (or OURSELVES) has exactly these addresses (link-local included) and prefixes from now on."""
        self._members[owner] = (addresses, prefixes)
        self._rebuild()

    def remove(self, owner: PeerId) -> None:
        """Forget what `owner` had."""
        if self._members.pop(owner, None) is not None:
            self._rebuild()

    def owners(self, address: bytes) -> tuple[PeerId, ...]:
        """Who may use `address` by membership alone, by longest match; empty if no member may."""
        owner = self._exact.get(address)
        if owner is not None:
            return (owner,)
        return (self._v4 if len(address) == 4 else self._v6).owners(address)

    def is_ours(self, address: bytes) -> bool:
        """Whether this is an address of this very node (not merely one in a prefix of ours)."""
        return self._exact.get(address) == OURSELVES

    def lookup(self, destination: bytes) -> PeerId | None:
        """The peer to send to; OURSELVES for what only we own; None if nobody knows (yet)."""
        owner = self._exact.get(destination)
        if owner is not None:
            return owner
        if len(destination) == 16 and destination[:2] == _FE80:
            return None  # a link-local address that is no member's: nobody can route it
        resolver = self.resolver
        if resolver is not None:
            owner = resolver.lookup(destination)
            if owner is not None:
                return owner
            if len(self._wanted) < MAX_WANTED:
                self._wanted[destination] = None
        owners = (self._v4 if len(destination) == 4 else self._v6).owners(destination)
        # Where we share a prefix with another router, the kernel has decided already that this one is not for us.
        return owners[-1] if owners else None

    def returns_to(self, peer: PeerId, destination: bytes) -> bool:
        """Whether a packet that `peer` sent us would be routed straight back to it: a loop."""
        owner = self._exact.get(destination)
        if owner is None and self.resolver is not None:
            owner = self.resolver.lookup(destination)
        if owner is None:
            owners = self.owners(destination)
            return bool(owners) and owners[0] == peer
        return owner == peer

    def take_wanted(self) -> list[bytes]:
        """The destinations that the resolver could not answer since the last call, in the order of their
        packets."""
        wanted = list(self._wanted)
        self._wanted.clear()
        return wanted

    def _rebuild(self) -> None:
        self._exact = {}
        self._v4 = PrefixTable(4)
        self._v6 = PrefixTable(16)
        for owner in sorted(self._members):  # OURSELVES sorts first: our own address is never a member's
            addresses, prefixes = self._members[owner]
            for address in addresses:
                self._exact.setdefault(address, owner)
            for network, length in prefixes:
                (self._v4 if len(network) == 4 else self._v6).add(network, length, owner)
