"""The machines of a lab, and how they hang on one another: core, routers, switches and hosts."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Final

from meshnode.lab.addresses import Subnet
from meshnode.lab.command import LabError
from meshnode.lab.delay_line import Wire
from meshnode.lab.interface import DEFAULT_ROUTES, Interface, InterfaceAddress, Network, Route
from meshnode.lab.inventory import Inventory
from meshnode.lab.link import Link, plug, plug_through
from meshnode.lab.namespace import Namespace
from meshnode.lab.nat import Nat, nat_rules

BOTH: Final = (4, 6)
_BRIDGE: Final = "lan0"
# Given, because a bridge otherwise takes the lowest address of its ports and changes it with them.
_BRIDGE_MAC: Final = "02:00:00:00:00:01"
_UDP: Final = "meta l4proto udp"
_ICMP_ERRORS: Final = (
    "icmp type { destination-unreachable, time-exceeded, parameter-problem }",
    "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }",
)


class Node(Namespace):
    """A machine with any number of links upwards; it prefers the default route of the first."""

    port_name = "eth"

    def __init__(self, inventory: Inventory, label: str, *, forwarding: bool = False) -> None:
        super().__init__(*inventory.identify(label))
        self._inventory = inventory
        self.uplinks: list[Link] = []
        self.upstreams: list[Upstream] = []  # the nodes at the other ends, in the same order
        inventory.add(self, forwarding=forwarding)

    @property
    def uplink(self) -> Link:
        """The first link upwards; LabError when there is none."""
        if not self.uplinks:
            raise LabError(f"{self.label} hangs on nothing: attach it first")
        return self.uplinks[0]

    @property
    def address4(self) -> IPv4Address:
        """Our IPv4 address on the first uplink: a router's public one. LabError when there is none."""
        address = self.uplink.near.address(4)
        if not isinstance(address, IPv4Address):
            raise LabError(f"{self.label} has no IPv4 address")
        return address

    @property
    def address6(self) -> IPv6Address:
        """Our IPv6 address on the first uplink; LabError when there is none."""
        address = self.uplink.near.address(6)
        if not isinstance(address, IPv6Address):
            raise LabError(f"{self.label} has no IPv6 address")
        return address

    def renumber(self) -> None:
        """Get new addresses on the first uplink, as from a new lease; what lies behind stays reachable."""
        self.upstreams[self.uplinks.index(self.uplink)].renumber_link(self.uplink)

    def joined(self, upstream: "Upstream", link: Link) -> None:
        """Called once `link` hangs us on `upstream`."""
        self.uplinks.append(link)
        self.upstreams.append(upstream)

    def block_udp(self) -> None:
        """No UDP passes here or leaves from here, until unblock_udp().

        Block the router and not the host if the host shall not know: its own sendto() fails with EPERM.
        """
        self.drop("udp", _UDP)

    def unblock_udp(self) -> None:
        self.undrop("udp")

    def block_icmp_errors(self) -> None:
        """Become an ICMP black hole: path MTU discovery hears nothing, until unblock_icmp_errors()."""
        for index, match in enumerate(_ICMP_ERRORS):
            self.drop(f"icmp_errors_{index}", match)

    def unblock_icmp_errors(self) -> None:
        for index in range(len(_ICMP_ERRORS)):
            self.undrop(f"icmp_errors_{index}")


class Host(Node):
    """A machine that forwards nothing."""


class Upstream(Node):
    """A node that others hang on; `versions` are the IP versions that it has to offer."""

    bridge: str | None = None  # the bridge that links end in, or none: then each is a subnet of its own

    def __init__(
        self, inventory: Inventory, label: str, versions: Iterable[int], *, forwarding: bool
    ) -> None:
        super().__init__(inventory, label, forwarding=forwarding)
        self.versions = tuple(versions)
        self.downlinks: list[Link] = []

    def host(self, label: str, *, wire: Wire | None = None, versions: Iterable[int] = BOTH) -> Host:
        """A new host that hangs on this node, through a delay line when a `wire` is given."""
        host = Host(self._inventory, label)
        self.attach(host, wire=wire, versions=versions)
        return host

    def router(
        self,
        label: str,
        *,
        nat: Nat = Nat.CONE,
        wire: Wire | None = None,
        versions: Iterable[int] = BOTH,
        lan: IPv4Network | None = None,
    ) -> "Router":
        """A new router that hangs on this node; the prefix of its LAN is `lan`, or one that is unique."""
        router = Router(
            self._inventory, label, nat, [each for each in versions if each in self.versions], lan
        )
        self.attach(router, wire=wire)
        return router

    def attach(self, node: Node, *, wire: Wire | None = None, versions: Iterable[int] = BOTH) -> Link:
        """Hang `node` on this one: addresses at both ends, a default route, and a delay line if asked.

        The node's end is called eth0 (a router's wan0), or eth1 and so on when it has links already.
        """
        index = len(node.uplinks)
        near = Interface(node, f"{node.port_name}{index}")
        far = Interface(self, f"port{len(self.downlinks)}", bridge=self.bridge)
        near.addresses = self._number(far, [each for each in versions if each in self.versions])
        link = plug(near, far) if wire is None else plug_through(near, far, self._middle(node), wire)
        near.routes = [Route(prefix, self._facing(link), 100 + index) for prefix in DEFAULT_ROUTES]
        self.downlinks.append(link)
        link.apply()
        node.joined(self, link)
        return link

    def renumber_link(self, link: Link) -> None:
        """Give the near end of one of our links new addresses, and its far end where those are a pair."""
        near, far = link.near, link.far
        near.addresses = self._number(far, [each.version for each in near.addresses])
        far.readdress(far.addresses)
        near.readdress(near.addresses)
        self._facing(link).apply()

    def accept_route(self, prefix: Network, link: Link) -> None:
        """Send packets for `prefix` to the router at the near end of one of our links."""
        facing = self._facing(link)
        facing.routes.append(Route(prefix, link.near))
        facing.apply()

    def _number(self, far: Interface, versions: list[int]) -> list[InterfaceAddress]:
        """Addresses for the near end of a link; those of the far end are set, if it needs any."""
        raise NotImplementedError

    def _facing(self, link: Link) -> Interface:
        """Our interface that has the addresses and routes for what is at the other end of `link`."""
        raise NotImplementedError

    def _middle(self, node: Node) -> Node:
        return Node(self._inventory, f"{node.label}-line{len(node.uplinks)}")


class Core(Upstream):
    """The internet: routes between its links, each of which is a small public subnet of its own."""

    def __init__(self, inventory: Inventory, label: str) -> None:
        super().__init__(inventory, label, BOTH, forwarding=True)

    def _number(self, far: Interface, versions: list[int]) -> list[InterfaceAddress]:
        subnet = self._inventory.plan.link()
        far.addresses = [each for each in subnet.take() if each.version in versions]
        return [each for each in subnet.take() if each.version in versions]

    def _facing(self, link: Link) -> Interface:
        return link.far


class Segment(Upstream):
    """A node whose downward links are ports of one bridge: its neighbours are on one LAN."""

    bridge = _BRIDGE

    def __init__(
        self, inventory: Inventory, label: str, versions: Iterable[int], subnet: Subnet, *, forwarding: bool
    ) -> None:
        super().__init__(inventory, label, versions, forwarding=forwarding)
        self.subnet = subnet
        # Snooping off: multicast (mDNS, neighbour discovery) reaches everybody from the first packet on.
        self.ip([f"link add {_BRIDGE} address {_BRIDGE_MAC} type bridge mcast_snooping 0"])
        self.lan = Interface(self, _BRIDGE)
        self.lan.apply()

    def set_lan_mtu(self, mtu: int) -> None:
        """The MTU of the LAN and of all that are on it, in bytes."""
        self.lan.set_mtu(mtu)
        for link in self.downlinks:
            link.set_mtu(mtu)

    def _number(self, far: Interface, versions: list[int]) -> list[InterfaceAddress]:
        return [each for each in self.subnet.take() if each.version in versions]

    def _facing(self, link: Link) -> Interface:
        return self.lan


class Switch(Segment):
    """A LAN and nothing else: nobody routes, nobody translates."""

    def __init__(
        self, inventory: Inventory, label: str, lan: IPv4Network | None, versions: Iterable[int]
    ) -> None:
        super().__init__(inventory, label, versions, inventory.plan.switch(lan), forwarding=False)

    def accept_route(self, prefix: Network, link: Link) -> None:
        raise LabError(f"{self.label} is a switch and does not route: hang routers on a core or on a router")


class Router(Segment):
    """A router with an uplink (wan0), a LAN (lan0), and a kind of NAT between them."""

    port_name = "wan"

    def __init__(
        self, inventory: Inventory, label: str, nat: Nat, versions: Iterable[int], lan: IPv4Network | None
    ) -> None:
        super().__init__(inventory, label, versions, inventory.plan.lan(lan), forwarding=True)
        self.nat = nat
        self.lan.addresses = self._number(self.lan, list(self.versions))
        self.lan.apply()
        self._apply_nat()

    def set_nat(self, nat: Nat) -> None:
        """Become another kind of NAT; LabError when that would need other routes upstream."""
        if nat.translates != self.nat.translates:
            raise LabError(f"{self.label} cannot turn from {self.nat.value} into {nat.value}: build it anew")
        self.nat = nat
        self._apply_nat()

    def forget(self) -> None:
        """Forget all mappings and flows, as after a reboot."""
        self.run(["conntrack", "-F"])

    def set_udp_timeout(self, seconds: int) -> None:
        """Forget an idle UDP mapping after `seconds` (Linux has 30, and 120 once it saw three packets)."""
        names = ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream")
        self.write_sysctls({f"net/netfilter/{name}": str(seconds) for name in names})

    def attach(self, node: Node, *, wire: Wire | None = None, versions: Iterable[int] = BOTH) -> Link:
        link = super().attach(node, wire=wire, versions=versions)
        if len(self.downlinks) == 1:
            self._apply_nat()  # a full cone exposes the first that comes
        return link

    def joined(self, upstream: Upstream, link: Link) -> None:
        super().joined(upstream, link)
        for prefix in (self.subnet.ipv4, self.subnet.ipv6):
            if prefix.version in self.versions:
                self._announce(prefix)

    def accept_route(self, prefix: Network, link: Link) -> None:
        super().accept_route(prefix, link)
        self._announce(prefix)

    def renumber_link(self, link: Link) -> None:
        super().renumber_link(link)
        self._apply_nat()

    def _announce(self, prefix: Network) -> None:
        """Tell those above us that `prefix` is behind us, unless we hide it."""
        if prefix.version == 6 or not self.nat.translates:
            for upstream, link in zip(self.upstreams, self.uplinks, strict=True):
                upstream.accept_route(prefix, link)

    def _apply_nat(self) -> None:
        inside = self.downlinks[0].near.address(4) if self.downlinks else None
        self.nft(
            nat_rules(self.nat, f"{self.port_name}*", inside if isinstance(inside, IPv4Address) else None)
        )
