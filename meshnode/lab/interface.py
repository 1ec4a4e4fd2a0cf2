"""One interface of a node: what it should be (addresses, routes, MTU, rate), and how it becomes that."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Final, NamedTuple

from meshnode.lab.command import LabError, run
from meshnode.lab.namespace import Namespace

Address = IPv4Address | IPv6Address
InterfaceAddress = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

DEFAULT_ROUTES: Final = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
IPV6_MINIMUM_MTU: Final = 1280  # RFC 8200, section 5: below it the kernel takes IPv6 off the interface


class Route(NamedTuple):
    """Packets to `prefix` go to the neighbour whose interface is `via`; the lowest metric wins."""

    prefix: Network
    via: "Interface"
    metric: int = 100


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """Packets, bytes and drops of an interface since it was made, as the kernel counts them."""

    rx_packets: int
    rx_bytes: int
    rx_dropped: int
    rx_errors: int
    tx_packets: int
    tx_bytes: int
    tx_dropped: int
    tx_errors: int


@dataclass(frozen=True, slots=True)
class QueueCounters:
    """The queue in front of an interface: what waits now, and what it dropped since it was made."""

    backlog_bytes: int
    backlog_packets: int
    drops: int


class Interface:
    """An interface that exists already. Changing an attribute does nothing until apply()."""

    def __init__(self, namespace: Namespace, name: str, *, bridge: str | None = None) -> None:
        self.namespace = namespace
        self.name = name
        self.bridge = bridge
        self.mtu = 1500
        self.addresses: list[InterfaceAddress] = []
        self.routes: list[Route] = []

    def address(self, version: int) -> Address | None:
        """Our first address of IP version 4 or 6, or None."""
        return next((each.ip for each in self.addresses if each.version == version), None)

    def apply(self) -> None:
        """Make the interface what the attributes say, and up; as good after a flap as the first time."""
        self.namespace.ip(self.commands())

    def commands(self) -> Iterator[str]:
        """The `ip` commands of apply(), in an order that works; each may be repeated."""
        master = f" master {self.bridge}" if self.bridge else ""
        yield f"link set dev {self.name} mtu {self.mtu}{master} up"
        versions = {
            each.version for each in self.addresses if each.version == 4 or self.mtu >= IPV6_MINIMUM_MTU
        }
        for address in self.addresses:
            if address.version in versions:
                yield f"address replace {address} dev {self.name}{' nodad' if address.version == 6 else ''}"
        for route in self.routes:
            via = route.via.address(route.prefix.version)
            if via is not None and route.prefix.version in versions:
                yield f"route replace {route.prefix} via {via} dev {self.name} metric {route.metric}"

    def up(self) -> None:
        """Bring the interface back, with the routes that the kernel forgot when it went down."""
        self.apply()

    def down(self) -> None:
        self.namespace.ip([f"link set dev {self.name} down"])

    def set_mtu(self, mtu: int) -> None:
        """The MTU in bytes; below 1280 there is no IPv6 here until it is raised again."""
        self.mtu = mtu
        self.apply()

    def readdress(self, addresses: list[InterfaceAddress]) -> None:
        """Replace all addresses; the caller applies the other ends, whose routes may go through them."""
        self.addresses = addresses
        self.namespace.ip([f"address flush dev {self.name} scope global"])
        self.apply()

    def shape(self, rate_mbit: float, *, queue_ms: float = 1000, burst_bytes: int = 16_384) -> None:
        """Send at most `rate_mbit` Mbit/s, from a FIFO of `queue_ms` at that rate (a bloated modem).

        Called again it changes rate and limit and keeps the packets that wait. Segmentation offload cannot
        cheat: TBF cuts superpackets above `burst_bytes`.
        """
        rate, latency = round(rate_mbit * 1e6), round(queue_ms * 1000)
        limits = f"rate {rate}bit burst {burst_bytes} latency {latency}us"
        self._tc(f"replace dev {self.name} root tbf {limits}")

    def unshape(self) -> None:
        """Take the limit away, with what waits in its queue."""
        self._tc(f"delete dev {self.name} root")

    def set_superpackets(self, allowed: bool) -> None:
        """Whether frames that go out may be superpackets; where not, each is one packet, as a lossy wire wants it."""
        # The kernel cuts what has more segments than the device takes, just in front of the device.
        self.namespace.ip([f"link set dev {self.name} gso_max_segs {65535 if allowed else 1}"])

    def counters(self) -> LinkCounters:
        return parse_link_counters(self._json("ip", "-s", "link", "show", "dev", self.name))

    def queue(self) -> QueueCounters:
        return parse_queue_counters(self._json("tc", "-s", "qdisc", "show", "dev", self.name))

    def _tc(self, arguments: str) -> None:
        run(["tc", "-n", self.namespace.name, "qdisc", *arguments.split()])

    def _json(self, tool: str, *arguments: str) -> str:
        return run([tool, "-n", self.namespace.name, "-j", *arguments]).stdout


def parse_link_counters(text: str) -> LinkCounters:
    """From the output of `ip -j -s link show dev X`; LabError when it is not that."""
    try:
        stats = json.loads(text)[0]["stats64"]
        counters = {f"{way}_{name}": stats[way][name] for way in ("rx", "tx") for name in _LINK_FIELDS}
    except (ValueError, LookupError, TypeError):
        raise LabError("`ip -j -s link` printed no counters: update iproute2") from None
    return LinkCounters(**counters)


def parse_queue_counters(text: str) -> QueueCounters:
    """From the output of `tc -j -s qdisc show dev X`: its root, or zeros; LabError when it is not that."""
    try:
        roots = [each for each in json.loads(text) if each.get("root")]
        return QueueCounters(*(sum(each[name] for each in roots) for name in ("backlog", "qlen", "drops")))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise LabError("`tc -j -s qdisc` printed no counters: update iproute2") from None


_LINK_FIELDS: Final = ("packets", "bytes", "dropped", "errors")
