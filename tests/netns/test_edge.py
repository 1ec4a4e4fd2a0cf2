"""Addresses, routes and the monitor in a real kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network

import pytest

from meshnode.edge import monitor as monitor_module
from meshnode.edge import preflight, sysctl
from meshnode.edge.errors import EdgeError
from meshnode.edge.monitor import EVERYTHING, Change, NetworkMonitor
from meshnode.edge.netlink import Interface, Route, local_endpoints
from meshnode.edge.preflight import Level
from meshnode.edge.tun import Tun
from tests.netns.space import Space, spaces

pytestmark = pytest.mark.netns

MTU = 1380


def packed(text: str) -> bytes:
    return ip_address(text).packed


def route(destination: str, gateway: str | None = None) -> Route:
    network = ip_network(destination)
    prefix = (network.network_address.packed, network.prefixlen)
    return Route(prefix, packed(gateway) if gateway else None)


@pytest.fixture
def space(require: Callable[..., None]) -> Iterator[Space]:
    require()
    with spaces(1, "edge") as (only,):
        yield only


@pytest.fixture
def mesh(space: Space) -> Iterator[tuple[Space, Interface]]:
    """A namespace with the interface of a node."""
    with space.entered():
        tun = Tun.open("mesh-t", MTU)
        interface = Interface("mesh-t", tun.index)
        addresses = [packed("10.77.0.1"), packed("fd77::1")]
        assert interface.configure(MTU, addresses, packed("fe80::7")) == []
        yield space, interface
    tun.close()


# --- addresses and routes -------------------------------------------------------------------------------------------


def test_addresses_are_host_addresses_and_nothing_else(mesh: tuple[Space, Interface]) -> None:
    space, _ = mesh
    shown = space.ip("-brief address show dev mesh-t").split()[2:]
    assert sorted(shown) == ["10.77.0.1/32", "fd77::1/128", "fe80::7/64"]
    assert f"mtu {MTU} " in space.ip("link show dev mesh-t")
    assert "tentative" not in space.ip("address show dev mesh-t")


def test_a_changed_address_keeps_the_routes(mesh: tuple[Space, Interface]) -> None:
    """With its last IPv4 address an interface loses all IPv4 routes, Babel's too."""
    space, interface = mesh
    space.ip("route add 10.5.0.0/16 dev mesh-t proto babel")
    interface.replace_addresses([packed("10.77.0.9"), packed("fd77::1")])
    assert "10.5.0.0/16" in space.ip("route show proto babel")
    shown = space.ip("-brief address show dev mesh-t").split()[2:]
    assert sorted(shown) == ["10.77.0.9/32", "fd77::1/128", "fe80::7/64"]


def test_routes_of_every_kind(mesh: tuple[Space, Interface]) -> None:
    space, interface = mesh
    desired = [
        route("10.77.0.2/32"),
        route("fd77::2/128"),
        route("10.9.0.0/16", "fe80::2"),  # IPv4 over an IPv6 next hop
        route("fd09::/64", "fe80::2"),
        route("10.8.0.0/16", "10.77.0.2"),  # a machine without IPv6
        route("0.0.0.0/0", "fe80::2"),
    ]
    assert interface.replace_routes(desired) == []
    assert sorted(interface.routes()) == sorted(desired)
    shown = space.ip("route show proto 77") + space.ip("-6 route show proto 77")
    assert shown.count("metric 4096") == len(desired)
    assert "10.9.0.0/16 via inet6 fe80::2 dev mesh-t" in shown
    assert "via" not in space.ip("route show 10.77.0.2")


def test_replacing_removes_leftovers_and_touches_nobody_elses(mesh: tuple[Space, Interface]) -> None:
    space, interface = mesh
    space.ip("route add 10.1.0.0/16 dev mesh-t proto 77 metric 4096")
    space.ip("-6 route add fd01::/64 dev mesh-t proto 77 metric 7")
    space.ip("route add 10.2.0.0/16 dev mesh-t proto babel")
    space.ip("route add 10.3.0.0/16 dev lo proto 77")
    kept = route("10.77.0.2/32")
    interface.replace_routes([kept, route("10.9.0.0/16", "fe80::2")])
    interface.replace_routes([kept, route("10.9.0.0/16", "fe80::3")])
    assert interface.routes() == [route("10.9.0.0/16", "fe80::3"), kept]
    assert "10.2.0.0/16" in space.ip("route show proto babel")
    assert "10.3.0.0/16" in space.ip("route show dev lo")
    interface.replace_routes([])
    assert interface.routes() == []


def test_of_two_owners_the_first_counts_and_a_refused_route_is_told(mesh: tuple[Space, Interface]) -> None:
    _, interface = mesh
    warnings = interface.replace_routes(
        [route("fd09::/64", "fe80::2"), route("fd09::/64", "fe80::3"), route("10.1.0.0/16", "fd99::1")]
    )
    assert interface.routes() == [route("fd09::/64", "fe80::2")]
    assert len(warnings) == 1
    assert warnings[0].startswith("no route to 10.1.0.0/16 via fd99::1: ")


def test_a_member_may_be_named_as_a_gateway(mesh: tuple[Space, Interface]) -> None:
    space, interface = mesh
    interface.add_member_routes([packed("10.77.0.2"), packed("fd77::2")])
    space.ip("route add 10.4.0.0/16 via 10.77.0.2")
    space.ip("-6 route add fd04::/64 via fd77::2")
    assert "dev mesh-t" in space.ip("route get 10.4.0.1")
    assert "dev mesh-t" in space.ip("-6 route get fd04::1")


def test_babels_route_wins_over_ours(mesh: tuple[Space, Interface]) -> None:
    space, interface = mesh
    interface.replace_routes([route("10.9.0.0/16", "fe80::2")])
    space.ip("route add 10.9.0.0/16 via inet6 fe80::3 dev mesh-t proto babel")
    assert "via inet6 fe80::3" in space.ip("route get 10.9.1.1")
    assert interface.routes() == [route("10.9.0.0/16", "fe80::2")]


def test_ipv6_is_switched_on_for_our_interface(space: Space) -> None:
    with space.entered():
        assert sysctl.ensure("net/ipv6/conf/all/disable_ipv6", "1") is None
        assert preflight.check_ipv6().level is Level.WARNING
        tun = Tun.open("mesh-t", MTU)
        interface = Interface("mesh-t", tun.index)
        assert interface.configure(MTU, [packed("fd77::1")], packed("fe80::7")) == []
    assert "fd77::1/128" in space.ip("address show dev mesh-t")
    tun.close()


def test_where_ipv6_stays_off_ipv4_goes_on(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(key: str, value: str) -> str:
        return f"cannot set {key}: run `{sysctl.command(key, value)}`"

    with space.entered():
        sysctl.ensure("net/ipv6/conf/all/disable_ipv6", "1")
        monkeypatch.setattr(sysctl, "ensure", read_only)
        tun = Tun.open("mesh-t", MTU)
        interface = Interface("mesh-t", tun.index)
        (warning,) = interface.configure(MTU, [packed("10.77.0.1"), packed("fd77::1")], packed("fe80::7"))
        assert "sysctl -w net.ipv6.conf.mesh-t.disable_ipv6=0" in warning
        assert "--sysctl" in warning
        assert not interface.ipv6
        desired = [route("10.77.0.2/32"), route("fd77::2/128"), route("10.8.0.0/16", "10.77.0.2")]
        assert interface.replace_routes(desired) == []
        assert interface.routes() == [desired[2], desired[0]]
    tun.close()


def test_an_interface_that_is_gone_is_one_clear_line(mesh: tuple[Space, Interface]) -> None:
    space, interface = mesh
    interface.close()
    interface.close()
    assert "mesh-t" not in space.ip("link show")
    with pytest.raises(EdgeError, match="cannot configure interface mesh-t"):
        interface.replace_addresses([packed("10.77.0.5")])


def test_local_endpoints_are_those_that_others_can_use(mesh: tuple[Space, Interface]) -> None:
    space, _ = mesh
    space.ip("link add lan0 type veth peer name lan1")
    space.ip("link add docker0 type bridge")
    for name in ("lan0", "lan1", "docker0"):
        space.ip(f"link set {name} up")
    for address in (
        "192.168.1.5/24",
        "192.168.1.6/24",
        "9.9.9.9/24",
        "2600::5/64",
        "fd01::5/64",
        "169.254.7.7/16",
    ):
        space.ip(f"address add {address} dev lan0" + (" nodad" if ":" in address else ""))
    space.ip("address add 2600::6/64 dev lan0 preferred_lft 0 nodad")
    space.ip("address add 172.17.0.1/16 dev docker0")
    with space.entered():
        hosts = [endpoint.host for endpoint in local_endpoints(4655)]
    assert hosts == ["2600::5", "9.9.9.9", "fd01::5", "192.168.1.5", "192.168.1.6"]
    space.ip("link set lan0 down")
    with space.entered():
        assert local_endpoints(4655) == ()


# --- the monitor ----------------------------------------------------------------------------------------------------


def test_the_monitor_tells_the_mesh_from_the_machine(mesh: tuple[Space, Interface]) -> None:
    space, interface = mesh
    watch = NetworkMonitor(frozenset({interface.index}))
    assert watch.drain() == Change(0)
    assert not watch.drain()
    interface.replace_routes([route("10.77.0.2/32")])
    interface.replace_addresses([packed("10.77.0.9")])
    space.ip("route add 10.9.0.0/16 via inet6 fe80::3 dev mesh-t proto babel")
    space.ip("link set mesh-t txqueuelen 77")
    assert watch.drain() == Change.OURS
    space.ip("link add lan0 type veth peer name lan1")
    assert watch.drain() == Change.LINK
    space.ip("link set lan0 up")
    space.ip("link set lan1 up")
    watch.drain()
    space.ip("address add 192.168.1.5/24 dev lan0")
    assert Change.ADDRESS in watch.drain()
    space.ip("route add 10.3.0.0/16 via 192.168.1.9")
    assert watch.drain() == Change.ROUTE
    space.ip("-6 rule add pref 7 lookup main")
    assert watch.drain() == Change.RULE
    space.ip("nexthop add id 5 via 192.168.1.9 dev lan0")
    assert watch.drain() == Change.ROUTE
    watch.close()


def test_a_lost_message_means_that_everything_changed(
    mesh: tuple[Space, Interface], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, interface = mesh
    monkeypatch.setattr(monitor_module, "_RECEIVE_BUFFER", 1)
    watch = NetworkMonitor(frozenset({interface.index}))
    interface.replace_routes([route(f"10.1.{number}.0/24", "fe80::2") for number in range(50)])
    assert watch.drain() == EVERYTHING
    assert not watch.drain()
    watch.close()
