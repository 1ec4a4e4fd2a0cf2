"""The kernel's view of our interface: addresses and routes, and the addresses of the machine. Slow calls: use a thread."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from meshnode.values import Endpoint, Prefix

PROTOCOL = 77
METRIC = 4096


class Route(NamedTuple):
    """A route into the mesh. `gateway` is the owner's link-local address (or its IPv4 address where there is no IPv6),
    packed; None for a member's own address."""

    destination: Prefix
    gateway: bytes | None = None


class Interface:
    """Addresses and routes of one TUN interface."""

    def __init__(self, name: str, index: int) -> None:
        self.name = name
        self.index = index

    def configure(self, mtu: int, addresses: Sequence[bytes], link_local: bytes) -> list[str]:
        """Set MTU and addresses, and bring the interface up. Returns warnings. Raises EdgeError."""
        raise NotImplementedError

    def replace_addresses(self, addresses: Sequence[bytes]) -> None:
        """Bring the host addresses in line (the IPv4 address was granted later, or changed)."""
        raise NotImplementedError

    def add_member_routes(self, addresses: Collection[bytes]) -> None:
        raise NotImplementedError

    def replace_routes(self, desired: Collection[Route]) -> None:
        """Make our routes exactly `desired`: what else carries our protocol number on our interface goes."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def local_endpoints(port: int) -> tuple[Endpoint, ...]:
    """Where this machine can be reached as far as its interfaces tell, best first."""
    raise NotImplementedError
