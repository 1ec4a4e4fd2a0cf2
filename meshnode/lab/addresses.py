"""The lab's address plan: documentation prefixes for the internet, private ones behind routers.

The mesh under test has 10.0.0.0/8 and the ULAs for itself.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from itertools import chain
from typing import Final

from meshnode.lab.command import LabError

_PUBLIC_4: Final = tuple(map(IPv4Network, ("203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24")))  # RFC 5737
_PUBLIC_6: Final = IPv6Network("2001:db8::/48")  # RFC 3849
_LAN_4: Final = IPv4Network("192.168.0.0/16")  # RFC 1918: a /24 for each router
_LAN_6: Final = IPv6Network("2001:db8:1::/48")
_SWITCH_4: Final = IPv4Network("172.16.0.0/12")  # RFC 1918: a /16 for each switch
_SWITCH_6: Final = IPv6Network("2001:db8:2::/48")


class Subnet:
    """An IPv4 and an IPv6 prefix of one link or LAN, and the next free host number in both."""

    def __init__(self, ipv4: IPv4Network, ipv6: IPv6Network) -> None:
        self.ipv4 = ipv4
        self.ipv6 = ipv6
        self._last = 0

    def take(self) -> tuple[IPv4Interface, IPv6Interface]:
        """The next pair of addresses with their prefix lengths; the first ones are .1 and ::1."""
        self._last += 1
        if self._last >= self.ipv4.num_addresses - 1:
            raise LabError(f"the lab's subnet {self.ipv4} is full: give the LAN a larger one")
        return (
            IPv4Interface((IPv4Address(self.ipv4[self._last]), self.ipv4.prefixlen)),
            IPv6Interface((IPv6Address(self.ipv6[self._last]), self.ipv6.prefixlen)),
        )


class AddressPlan:
    """Hands out subnets, each once; LabError when the lab is too large for the documentation prefixes."""

    def __init__(self) -> None:
        self._links = _Pool(
            chain.from_iterable(prefix.subnets(new_prefix=30) for prefix in _PUBLIC_4),
            _PUBLIC_6.subnets(new_prefix=64),
        )
        self._lans = _Pool(_LAN_4.subnets(new_prefix=24), _LAN_6.subnets(new_prefix=64))
        self._switches = _Pool(_SWITCH_4.subnets(new_prefix=16), _SWITCH_6.subnets(new_prefix=64))

    def link(self) -> Subnet:
        """A public link between the core and one node: a /30 and a /64."""
        return self._links.take()

    def lan(self, ipv4: IPv4Network | None = None) -> Subnet:
        """The LAN behind a router: a private /24 (or `ipv4`, which need not be unique) and a /64."""
        return self._lans.take(ipv4)

    def switch(self, ipv4: IPv4Network | None = None) -> Subnet:
        """A LAN without a router: a private /16 (or `ipv4`) and a /64."""
        return self._switches.take(ipv4)


class _Pool:
    def __init__(self, ipv4: Iterator[IPv4Network], ipv6: Iterator[IPv6Network]) -> None:
        self._ipv4 = ipv4
        self._ipv6 = ipv6

    def take(self, ipv4: IPv4Network | None = None) -> Subnet:
        try:
            return Subnet(ipv4 or next(self._ipv4), next(self._ipv6))
        except StopIteration:
            raise LabError("the lab is out of addresses: build a smaller one, or use a switch") from None
