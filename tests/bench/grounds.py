"""Where the measurements take place: a cable, a narrow and bloated uplink, a star."""

from ipaddress import IPv4Interface, IPv6Interface
from typing import Final

from meshnode.lab import Host, Interface, Lab, Link, Nat, Wire
from meshnode.lab.link import plug

LINK_MBIT: Final = 50.0
LINK_RTT_MS: Final = 40.0
LINK_QUEUE_MS: Final = 1000.0

Pair = tuple[Host, Host]


def cable(lab: Lab, name: str) -> Pair:
    """Two hosts joined by a veth pair and nothing else: only CPU limits what they carry."""
    one, other = lab.host(f"{name}-a"), lab.host(f"{name}-b")
    link = plug(Interface(one, "eth0"), Interface(other, "eth0"))
    for number, interface in enumerate((link.near, link.far), start=1):
        interface.addresses = [
            IPv4Interface(f"198.51.100.{number}/24"),
            IPv6Interface(f"2001:db8::{number}/64"),
        ]
    link.apply()
    one.uplinks.append(link)
    other.uplinks.append(Link(link.far, link.near, None))
    return one, other


class NarrowLink:
    """Two LANs; the uplink of the first has a rate, a delay and a long FIFO, in its router and in the core."""

    def __init__(self, lab: Lab) -> None:
        core = lab.core()
        self.near = core.router("near", nat=Nat.NONE, wire=Wire(delay_ms=LINK_RTT_MS / 2))
        self._far = core.router("far", nat=Nat.NONE)

    def pair(self, name: str) -> Pair:
        """A host on each LAN; every VPN has its own two, and they share the link."""
        return self.near.host(f"{name}-a"), self._far.host(f"{name}-b")

    def narrow(self) -> None:
        self.near.uplink.shape(up_mbit=LINK_MBIT, down_mbit=LINK_MBIT, queue_ms=LINK_QUEUE_MS)

    def widen(self) -> None:
        self.near.uplink.near.unshape()
        self.near.uplink.far.unshape()


def star(lab: Lab, spokes: int) -> tuple[Host, list[Host]]:
    """A hub and its spokes on one switch."""
    switch = lab.switch()
    return switch.host("hub"), [switch.host(f"spoke{number}") for number in range(1, spokes + 1)]
