"""Networks, what is plugged into them, and the routers between them.

A network is a place where addresses reach each other: a LAN, a provider's inside, or the internet itself.
Each plug has a link up (towards the network) and a link down. Routers join an inside network to an outside
one: over IPv4 through a chain of NATs as long as the networks are nested (a home behind a CGNAT), over IPv6
through a stateful firewall and no NAT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count

from meshnode.values import SECOND, Endpoint, Nanos
from tests.sim.link import WIRE_SPEED, Link, Pipe, UdpPacket
from tests.sim.nat import Nat, NatKind
from tests.sim.world import World

LAN_LINK = Link(latency=200_000)

Receiver = Callable[[UdpPacket], None]
OnPath = Callable[[UdpPacket], Iterable[UdpPacket]]
"""Somebody who holds the line: sees every packet and says what goes on instead of it."""


def family(host: str) -> int:
    """4 or 6."""
    return 6 if ":" in host else 4


class Plug:
    """One attachment to a network. Unplugged (`connected = False`), nothing passes."""

    def __init__(self, network: Network, owner: str, receive: Receiver, up: Link, down: Link) -> None:
        world = network.world
        self.network = network
        self.owner = owner
        self.connected = True
        self.receive = receive
        self.on_path: OnPath | None = None
        self.addresses: list[str] = []
        self.up = Pipe(up, world.dice(f"{network.name}/{owner}/up"))
        self.down = Pipe(down, world.dice(f"{network.name}/{owner}/down"))

    def send(self, packet: UdpPacket) -> bool:
        """Put a packet on the line. False is EMSGSIZE; all else that goes wrong goes wrong in silence."""
        if packet.size > self.up.link.mtu and self.up.link.tells_too_big:
            return False
        self._carry(self.up, packet, self.network.forward)
        return True

    def deliver(self, packet: UdpPacket) -> None:
        """The network hands us a packet."""
        self._carry(self.down, packet, self.receive)

    def _carry(self, pipe: Pipe, packet: UdpPacket, then: Receiver) -> None:
        for each in (packet,) if self.on_path is None else self.on_path(packet):
            self._carry_one(pipe, each, then)

    def _carry_one(self, pipe: Pipe, packet: UdpPacket, then: Receiver) -> None:
        world = self.network.world
        arrivals = pipe.carry(packet, world.time) if self.connected else []
        if not arrivals:
            world.note(packet.origin, "lost", f"{self.owner}: {describe(packet)}", to=str(packet.destination))
        for time, copy in arrivals:
            if time <= world.time:
                then(copy)
            else:
                world.at(time, partial(then, copy))


class Network:
    """A LAN, or the internet. `forward` finds the plug that holds the destination, or the way there."""

    def __init__(self, world: World, name: str, ipv4: str, ipv6: str | None) -> None:
        self.world = world
        self.name = name
        self.gateway: Router | None = None
        self._ipv4 = ipv4
        self._ipv6 = ipv6
        self._numbers: Iterator[int] = count(2)
        self._holders: dict[str, Plug] = {}
        self._routes: list[tuple[str, Plug]] = []

    @property
    def has_ipv6(self) -> bool:
        return self._ipv6 is not None

    def plug_in(
        self, owner: str, receive: Receiver, up: Link = LAN_LINK, down: Link = LAN_LINK, families: str = "46"
    ) -> Plug:
        """Attach `owner` and give it addresses of the `families` that there are."""
        plug = Plug(self, owner, receive, up, down)
        self.renumber(plug, families)
        return plug

    def renumber(self, plug: Plug, families: str = "46") -> None:
        """Give `plug` new addresses; the old ones are nobody's."""
        self.unplug(plug)
        number = next(self._numbers)
        plug.addresses = []
        if "4" in families:
            plug.addresses.append(self._ipv4.format(high=number >> 8, low=number & 255))
        if "6" in families and self._ipv6 is not None:
            plug.addresses.append(f"{self._ipv6}::{number:x}")
        for address in plug.addresses:
            self._holders[address] = plug

    def unplug(self, plug: Plug) -> None:
        """Nobody holds these addresses any more."""
        for address in plug.addresses:
            self._holders.pop(address, None)

    def route(self, prefix: str, plug: Plug) -> None:
        """IPv6 addresses that begin with `prefix` are behind `plug`."""
        self._routes.append((prefix, plug))

    def forward(self, packet: UdpPacket) -> None:
        """Deliver to who holds the destination, or send it on through a router."""
        host = packet.destination.host
        plug = self._holders.get(host) or next(
            (p for prefix, p in self._routes if host.startswith(prefix)), None
        )
        if plug is not None:
            plug.deliver(packet)
        elif self.gateway is not None and not self._is_inside(host):
            self.gateway.outbound(packet)
        else:
            self.world.note(
                packet.origin, "lost", f"no route: {describe(packet)}", to=str(packet.destination)
            )

    def _is_inside(self, host: str) -> bool:
        """Whether an IPv6 address would be here: then asking the gateway would send it round in circles."""
        return self._ipv6 is not None and host.startswith(self._ipv6 + "::")


class Router:
    """Joins `inside` to `outside`. Over IPv4 with a NAT of `kind`, over IPv6 with a stateful firewall."""

    def __init__(
        self,
        name: str,
        inside: Network,
        outside: Network,
        kind: NatKind,
        up: Link = WIRE_SPEED,
        down: Link = WIRE_SPEED,
        firewall_expiry: Nanos = 120 * SECOND,
    ) -> None:
        self.name = name
        self.world = inside.world
        self.inside = inside
        self.outside = outside
        self.blocks_udp = False
        self.plug = outside.plug_in(name, self.inbound, up, down)
        self.nat = Nat(kind, self.plug.addresses[0], self.world.dice(f"{name}/nat"))
        self._firewall_expiry = firewall_expiry
        self._seen: dict[tuple[Endpoint, Endpoint], Nanos] = {}
        inside.gateway = self
        if inside._ipv6 is not None:
            outside.route(inside._ipv6 + "::", self.plug)

    def outbound(self, packet: UdpPacket) -> None:
        """A packet from the inside for somewhere else."""
        now = self.world.time
        if self.blocks_udp:
            self._drop(packet, "blocked")
        elif family(packet.destination.host) == 6:
            if self.outside.has_ipv6:
                self._seen[packet.source, packet.destination] = now
                self.plug.send(packet)
        else:
            source = self.nat.outbound(packet.source, packet.destination, now)
            packet = packet._replace(source=source)
            if packet.destination.host != self.nat.address:
                self.plug.send(packet)
            elif self.nat.kind.hairpin:
                self.inbound(packet)
            else:
                self._drop(packet, "no hairpin")

    def inbound(self, packet: UdpPacket) -> None:
        """A packet from the outside."""
        now = self.world.time
        if self.blocks_udp:
            self._drop(packet, "blocked")
        elif family(packet.destination.host) == 6:
            passed = self._seen.get((packet.destination, packet.source))
            if passed is None or now - passed > self._firewall_expiry:
                self._drop(packet, "firewall")
                return
            self._seen[packet.destination, packet.source] = now
            self.inside.forward(packet)
        else:
            inside = self.nat.inbound(packet.destination.port, packet.source, now)
            if inside is None:
                self._drop(packet, "NAT")
                return
            self.inside.forward(packet._replace(destination=inside))

    def flush(self) -> None:
        """The router forgets every mapping and connection, as after a reboot or `conntrack -F`."""
        self.world.note(self.name, "fault", "NAT and firewall flushed")
        self.nat.flush()
        self._seen.clear()

    def change_address(self) -> None:
        """The provider gives the router another public address."""
        self.outside.renumber(self.plug)
        self.nat.move(self.plug.addresses[0])
        self.world.note(self.name, "fault", f"address is now {self.nat.address}")

    def _drop(self, packet: UdpPacket, why: str) -> None:
        self.world.note(
            packet.origin, "lost", f"{self.name}, {why}: {describe(packet)}", to=str(packet.destination)
        )


class Internet(Network):
    """The root of all networks. Its addresses are globally routable ones: nodes may look at that."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "internet", "45.7.{high}.{low}", "2a0e:1")
        self._lans = count(1)

    def add_lan(
        self,
        name: str,
        kind: NatKind,
        *,
        outside: Network | None = None,
        up: Link | None = None,
        down: Link | None = None,
        ipv6: bool = True,
    ) -> tuple[Network, Router]:
        """A LAN behind a router with a NAT of `kind`; outside is the internet or a CGNAT's inside."""
        number = next(self._lans)
        inside = Network(
            self.world,
            name,
            f"192.168.{number % 256}.{{low}}",
            f"2a0e:2:{number:x}" if ipv6 and (outside or self).has_ipv6 else None,
        )
        wan = Link(latency=10_000_000)
        router = Router(f"{name}-router", inside, outside or self, kind, up or wan, down or wan)
        return inside, router

    def add_carrier(self, name: str, kind: NatKind) -> tuple[Network, Router]:
        """A provider's inside with shared addresses (RFC 6598) behind a CGNAT. Without IPv6."""
        inside = Network(self.world, name, "100.64.{high}.{low}", None)
        return inside, Router(f"{name}-cgnat", inside, self, kind)


def describe(packet: UdpPacket) -> str:
    """A packet in a few words, for the trace."""
    kinds = {1: "initiation", 2: "response", 3: "cookie", 4: "data"}
    kind = kinds.get(packet.data[0], f"type {packet.data[0]}") if packet.data else "empty"
    return f"{kind} {len(packet.data)} B {packet.source} to {packet.destination}"
