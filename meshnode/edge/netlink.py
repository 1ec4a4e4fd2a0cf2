"""Our interface in the kernel's eyes: its addresses, and routes to members and their prefixes.

Addresses are host addresses (/32, /128): a connected prefix would tell the kernel that everybody in it is one hop
away, which a mesh is not. Our routes carry a protocol number of our own, so that they can be told from a routing
daemon's, and a metric so high that a daemon's route for the same prefix wins.

The calls take milliseconds: use a thread.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface
from typing import Any, NamedTuple

from pyroute2 import IPRoute, NetlinkError

from meshnode.edge import sysctl
from meshnode.edge.errors import EdgeError
from meshnode.values import Endpoint, Prefix

PROTOCOL = 77
"""rtm_protocol of our routes: `ip route show proto 77`."""
METRIC = 4096
ALIAS = "meshnode"
"""The alias of our interfaces, by which one node on a machine knows another's."""

_MAIN_TABLE = 254
_UNICAST = 1
_ONLINK = 4
_IFF_UP = 1
_IFF_LOOPBACK = 8
_IFF_POINT_TO_POINT = 0x10
_IFF_MULTICAST = 0x1000
_SCOPE_UNIVERSE = 0
_SCOPE_LINK = 253
_SCOPE_NOWHERE = 255
_GEN_MODE_NONE = 1
_IFA_F_TEMPORARY = 0x01
_IFA_F_NODAD = 0x02
_IFA_F_UNUSABLE = 0x08 | 0x20 | 0x40  # duplicate found, deprecated, tentative
_CONTAINER_BRIDGE = re.compile(r"(docker|podman|cni|virbr|lxcbr|lxdbr)\d*|br-[0-9a-f]{12}")


class Route(NamedTuple):
    """A way into the mesh. `gateway` is the owner's link-local address, packed (its IPv4 address where there is no
    IPv6), None for an address of a member itself."""

    destination: Prefix
    gateway: bytes | None = None

    def __str__(self) -> str:
        network, length = self.destination
        via = f" via {_text(self.gateway)}" if self.gateway else ""
        return f"{_text(network)}/{length}{via}"


class Interface:
    """Addresses and routes of one TUN interface; they all go with it.

    `ipv6` is False after `configure` found that the machine keeps IPv6 off: give IPv4 gateways then.
    """

    def __init__(self, name: str, index: int) -> None:
        self.name = name
        self.index = index
        self.ipv6 = True
        self._addresses: list[bytes] = []

    def configure(self, mtu: int, addresses: Sequence[bytes], link_local: bytes) -> list[str]:
        """Set MTU and addresses and bring the interface up. Returns warnings, one line each. Raises EdgeError."""
        warnings = [line for line in [self._enable_ipv6()] if line]
        for key in (f"net/ipv6/conf/{self.name}/accept_ra", f"net/ipv4/conf/{self.name}/send_redirects"):
            sysctl.ensure(key, "0")  # less noise where it may be set, nothing is lost where it may not
        with self._kernel() as kernel:
            no_generated_address = [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _GEN_MODE_NONE)]})]
            spec = {"af_spec": {"attrs": no_generated_address}} if self.ipv6 else {}
            kernel.link("set", index=self.index, ifalias=ALIAS, mtu=mtu, **spec)
            kernel.link("set", index=self.index, state="up")
            if self.ipv6:
                self._set_address(kernel, "replace", link_local, 64)
        self.replace_addresses(addresses)
        return warnings

    def replace_addresses(self, addresses: Sequence[bytes]) -> None:
        """Make the host addresses that we gave exactly these. Raises EdgeError."""
        wanted = [each for each in addresses if len(each) == 4 or self.ipv6]
        with self._kernel() as kernel:
            # New before old: with its last IPv4 address an interface loses every IPv4 route, and nobody is told.
            for each in [new for new in wanted if new not in self._addresses]:
                self._set_address(kernel, "replace", each, 8 * len(each))
            for each in [old for old in self._addresses if old not in wanted]:
                self._set_address(kernel, "del", each, 8 * len(each))
        self._addresses = wanted

    def add_member_routes(self, addresses: Collection[bytes]) -> list[str]:
        """Routes to these addresses of members, beside the present ones. Returns warnings."""
        with self._kernel() as kernel:
            return self._add(kernel, [Route((each, 8 * len(each))) for each in addresses])

    def replace_routes(self, desired: Collection[Route]) -> list[str]:
        """Make our routes exactly these, with no gap for those that stay. Of two for one destination the first counts.

        Returns warnings for those that the kernel refuses. Raises EdgeError.
        """
        wanted: dict[Prefix, Route] = {}
        for route in desired:
            if self.ipv6 or len(route.destination[0]) == 4:
                wanted.setdefault(route.destination, route)
        with self._kernel() as kernel:
            present = list(self._present(kernel))
            missing = [route for route in wanted.values() if (route, METRIC) not in present]
            warnings = self._add(kernel, missing)
            for route, metric in present:
                if route.destination not in wanted or metric != METRIC:
                    self._remove(kernel, route, metric)
        return warnings

    def routes(self) -> list[Route]:
        """Our routes as the kernel has them."""
        with self._kernel() as kernel:
            return [route for route, _ in self._present(kernel)]

    def close(self) -> None:
        """Take the interface away at once, whoever may still have a descriptor of it."""
        with self._kernel() as kernel:
            try:
                kernel.link("del", index=self.index)
            except NetlinkError as error:
                if error.code != errno.ENODEV:
                    raise

    def _enable_ipv6(self) -> str | None:
        key = f"net/ipv6/conf/{self.name}/disable_ipv6"
        if sysctl.read(key) is None:
            self.ipv6 = False
            return "this kernel has no IPv6, so neither IPv6 nor Babel works in the mesh: boot without ipv6.disable=1"
        if warning := sysctl.ensure(key, "0"):
            self.ipv6 = False
            fix = "in Docker add --sysctl net.ipv6.conf.all.disable_ipv6=0"
            return f"neither IPv6 nor Babel works in the mesh, {warning}, {fix}"
        return None

    def _set_address(self, kernel: Any, verb: str, address: bytes, length: int) -> None:
        # Addresses come from keys: nobody else has ours, and a probe for duplicates would only delay it.
        flags = {"flags": _IFA_F_NODAD} if len(address) == 16 else {}
        kernel.addr(verb, index=self.index, address=_text(address), prefixlen=length, **flags)

    def _present(self, kernel: Any) -> Iterator[tuple[Route, int]]:
        """Our routes on our interface, with their metrics."""
        chosen = {"oif": self.index, "proto": PROTOCOL, "table": _MAIN_TABLE}
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in kernel.route("dump", family=family, **chosen):
                # Kernels before 4.20 dump everything, whatever was asked for.
                if all(message.get(name) == value for name, value in chosen.items()):
                    yield _route(message), message.get("priority") or 0

    def _add(self, kernel: Any, routes: Collection[Route]) -> list[str]:
        warnings = []
        for route in routes:
            try:
                kernel.route("replace", **self._fields(route, METRIC), scope=_scope(route))
            except NetlinkError as error:
                warnings.append(f"no route to {route}: {error.args[1]}")
        return warnings

    def _remove(self, kernel: Any, route: Route, metric: int) -> None:
        try:
            kernel.route("del", **self._fields(route, metric), scope=_SCOPE_NOWHERE)
        except NetlinkError as error:
            if error.code != errno.ESRCH:  # somebody else was faster
                raise

    def _fields(self, route: Route, metric: int) -> dict[str, Any]:
        network, length = route.destination
        fields: dict[str, Any] = {"dst": f"{_text(network)}/{length}", "priority": metric, "proto": PROTOCOL}
        if route.gateway and len(route.gateway) > len(network):
            fields["via"] = {"family": socket.AF_INET6, "addr": _text(route.gateway)}
        elif route.gateway:
            fields["gateway"] = _text(route.gateway)
            fields["flags"] = _ONLINK if len(network) == 4 else 0
        return fields | {"oif": self.index, "table": _MAIN_TABLE, "type": _UNICAST}

    @contextmanager
    def _kernel(self) -> Iterator[Any]:
        """A netlink socket, with errors explained."""
        try:
            with IPRoute(strict_check=True) as kernel:
                yield kernel
        except NetlinkError as error:
            if error.code in (errno.EPERM, errno.EACCES):
                fix = "run as root, or give CAP_NET_ADMIN (in Docker --cap-add NET_ADMIN)"
            else:
                fix = "something else changed it; start the node again"
            raise EdgeError(f"cannot configure interface {self.name} ({error.args[1]}): {fix}") from error


def local_endpoints(port: int) -> tuple[Endpoint, ...]:
    """Where this machine can be reached as far as its interfaces tell: public IPv6, public IPv4, then private ones.

    Left out: loopback, link-local, deprecated and temporary addresses, bridges of container engines, and interfaces
    of meshnode itself.
    """
    with IPRoute() as kernel:
        links = [link["index"] for link in kernel.link("dump") if _leads_outside(link)]
        found = [
            _packed(message)
            for message in kernel.addr("dump")
            if message["index"] in links and _is_lasting(message)
        ]
    usable = [each for each in map(ip_address, found) if not each.is_link_local]
    ranked = sorted(usable, key=lambda each: (not each.is_global, each.version == 4))
    return tuple(Endpoint(str(each), port) for each in dict.fromkeys(ranked))


class LanLink(NamedTuple):
    """An interface (its index) with neighbours; its addresses with their prefixes, link-local ones included."""

    interface: int
    addresses: tuple[IPv4Interface | IPv6Interface, ...]


def lan_links() -> tuple[LanLink, ...]:
    """The interfaces of `local_endpoints` on which multicast may find neighbours."""
    with IPRoute() as kernel:
        links = [
            link["index"] for link in kernel.link("dump") if _leads_outside(link) and _has_neighbours(link)
        ]
        messages = [message for message in kernel.addr("dump") if _is_lasting(message, link_local=True)]
    found = []
    for index in links:
        own = [m for m in messages if m["index"] == index]
        found.append(LanLink(index, tuple(ip_interface((_packed(m), m["prefixlen"])) for m in own)))
    return tuple(link for link in found if link.addresses)


def mesh_links(kernel: Any) -> set[int]:
    """The indexes of all interfaces of meshnode on this machine; `kernel` is an open IPRoute."""
    return {link["index"] for link in kernel.link("dump") if _is_ours(link)}


def _is_ours(link: Any) -> bool:
    return bool(link.get("ifalias") == ALIAS)


def _leads_outside(link: Any) -> bool:
    usable = link["flags"] & _IFF_UP and not link["flags"] & _IFF_LOOPBACK
    return bool(usable and not _is_ours(link) and not _CONTAINER_BRIDGE.fullmatch(link.get("ifname") or ""))


def _has_neighbours(link: Any) -> bool:
    return bool(link["flags"] & _IFF_MULTICAST and not link["flags"] & _IFF_POINT_TO_POINT)


def _is_lasting(message: Any, link_local: bool = False) -> bool:
    unwanted = _IFA_F_UNUSABLE | (_IFA_F_TEMPORARY if message["family"] == socket.AF_INET6 else 0)
    scopes = (_SCOPE_UNIVERSE, _SCOPE_LINK) if link_local else (_SCOPE_UNIVERSE,)
    return message["scope"] in scopes and not message["flags"] & unwanted


def _packed(message: Any) -> bytes:
    # On a point-to-point link `address` is the far end.
    return ip_address(message.get("local") or message.get("address")).packed


def _route(message: Any) -> Route:
    size = 4 if message["family"] == socket.AF_INET else 16
    network = message.get("dst")
    gateway = message.get("gateway") or (message.get("via") or {}).get("addr")
    destination = (ip_address(network).packed if network else bytes(size), message["dst_len"])
    return Route(destination, ip_address(gateway).packed if gateway else None)


def _scope(route: Route) -> int:
    """A member is one hop away: only then may an IPv4 route of a daemon or an operator name it as a gateway."""
    return _SCOPE_LINK if len(route.destination[0]) == 4 and not route.gateway else _SCOPE_UNIVERSE


def _text(address: bytes) -> str:
    return str(IPv4Address(address) if len(address) == 4 else IPv6Address(address))
