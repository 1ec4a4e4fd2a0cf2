"""What members tell each other on a LAN, in words that mean nothing to anybody else. No I/O.

A service record names neither network nor node: both are keyed hashes that change every day, under a key that follows
from the network id, which only members know. Somebody else on the LAN learns that a meshnode is there and on which
port, and can repeat what he has heard; so a match is a hint where to knock, on the LAN only, and hints are rationed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from meshnode.crypto.primitives import keyed_hash
from meshnode.edge.netlink import LanLink
from meshnode.proto.paths import usable_endpoint
from meshnode.values import SECOND, BadPacket, Endpoint, Hint, Nanos, Now, PeerId

SERVICE_TYPE = "_meshnode._udp.local."
TXT_VERSION, VERSION = "1", "1"
DAY: Nanos = 86_400 * SECOND
WINDOW: Nanos = 60 * SECOND

HINTS_PER_WINDOW = 512
HINTS_PER_PEER = 16
"""Hints in a minute: of all peers, and of one, whose record anybody may repeat."""
ADDRESSES_PER_RECORD = 4

_TAG_SIZE = 8


class Found(NamedTuple):
    """One service record as it was heard. TXT values are None where the key has none; addresses may carry a scope."""

    txt: Mapping[bytes, bytes | None]
    port: int
    addresses: tuple[str, ...]


def day_of(wall: Nanos) -> int:
    """The number of the day (UTC) since 1970."""
    return wall // DAY


def lan_key(network_id: bytes) -> bytes:
    """The key of the hashes below."""
    return keyed_hash(network_id, b"meshnode lan", 32)


def network_tag(key: bytes, day: int) -> bytes:
    """TXT `n`: what stands for the network on this day; 16 hexadecimal digits, as all tags."""
    return _tag(key, b"network", day)


def node_tag(key: bytes, peer: PeerId, day: int) -> bytes:
    """TXT `id`: what stands for a node on this day."""
    return _tag(key, b"node" + peer, day)


def service_txt(network_id: bytes, peer: PeerId, port: int, wall: Nanos) -> dict[str, bytes]:
    """The TXT record of a node, `txtvers` first (RFC 6763, 6.7)."""
    key, day = lan_key(network_id), day_of(wall)
    return {
        "txtvers": TXT_VERSION.encode(),
        "v": VERSION.encode(),
        "p": str(port).encode(),
        "n": network_tag(key, day),
        "id": node_tag(key, peer, day),
    }


class LanHints:
    """Turns records into hints."""

    def __init__(self, network_id: bytes) -> None:
        self._key = lan_key(network_id)
        self._members: tuple[PeerId, ...] = ()
        self._links: tuple[LanLink, ...] = ()
        self._day = -1
        self._networks: frozenset[bytes] = frozenset()
        self._peers: dict[bytes, PeerId] = {}
        self._window: Nanos = 0
        self._spent: Counter[str | PeerId] = Counter()

    def set_members(self, members: Iterable[PeerId]) -> None:
        """Whom to look for: all members but ourselves."""
        self._members = tuple(members)
        self._day = -1

    def set_links(self, links: Sequence[LanLink]) -> None:
        """What counts as the LAN."""
        self._links = tuple(links)

    def match_untrusted(self, found: Found, now: Now) -> list[Hint]:
        """The hints in a record. Raises BadPacket when it is not for us, or there were too many."""
        self._follow_day(day_of(now.wall))
        txt = found.txt
        if txt.get(b"n") not in self._networks:
            raise BadPacket("lan other network")
        if txt.get(b"v") != VERSION.encode() or txt.get(b"p") != str(found.port).encode():
            raise BadPacket("lan record")
        peer = self._peers.get(txt.get(b"id") or b"")
        if peer is None:
            raise BadPacket("lan unknown node")
        endpoints = [
            Endpoint(host, found.port) for host in found.addresses if self._is_near(host, found.port)
        ]
        if not endpoints:
            raise BadPacket("lan address")
        hints = []
        for endpoint in endpoints[:ADDRESSES_PER_RECORD]:
            self._spend_untrusted(peer, HINTS_PER_PEER, now.boot)
            self._spend_untrusted("hints", HINTS_PER_WINDOW, now.boot)
            hints.append(Hint(peer, endpoint))
        return hints

    def _spend_untrusted(self, account: str | PeerId, limit: int, boot: Nanos) -> None:
        if boot - self._window >= WINDOW:
            self._window = boot
            self._spent.clear()
        if self._spent[account] >= limit:
            raise BadPacket("lan flood")
        self._spent[account] += 1

    def _follow_day(self, day: int) -> None:
        """Clocks differ, and midnight is not the same instant for all: yesterday and tomorrow count, too."""
        if day == self._day:
            return
        self._day = day
        days = range(day - 1, day + 2)
        self._networks = frozenset(network_tag(self._key, each) for each in days)
        self._peers = {node_tag(self._key, peer, each): peer for peer in self._members for each in days}

    def _is_near(self, host: str, port: int) -> bool:
        """Whether it is on one of our links: a record must not make us knock elsewhere."""
        try:
            address = ip_address(host)
        except ValueError:
            return False
        if not usable_endpoint(host, port):
            return False
        scope = address.scope_id if isinstance(address, IPv6Address) else None
        if address.is_link_local and address.version == 6:
            return scope in [str(link.interface) for link in self._links]
        return scope is None and any(
            address in own.network and address != own.ip for link in self._links for own in link.addresses
        )


def _tag(key: bytes, what: bytes, day: int) -> bytes:
    return keyed_hash(key, what + day.to_bytes(4, "big", signed=True), _TAG_SIZE).hex().encode()
