import json
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path

import pytest

from meshnode.lab import LabError
from meshnode.lab.interface import (
    DEFAULT_ROUTES,
    Interface,
    LinkCounters,
    QueueCounters,
    Route,
    parse_link_counters,
    parse_queue_counters,
)
from meshnode.lab.namespace import Namespace

NAMESPACE = Namespace("a", "lab-a", Path("/nowhere"))
SIDE = {"bytes": 2, "packets": 1, "errors": 4, "dropped": 3, "multicast": 9}
LINK = [{"ifname": "eth0", "stats64": {"rx": SIDE, "tx": {**SIDE, "packets": 5}}}]
QUEUES = [
    {"kind": "tbf", "handle": "1:", "root": True, "drops": 7, "backlog": 3000, "qlen": 2},
    {"kind": "bfifo", "parent": "1:1", "drops": 1, "backlog": 1, "qlen": 1},
]


def pair() -> tuple[Interface, Interface]:
    near, far = Interface(NAMESPACE, "eth0"), Interface(NAMESPACE, "port0")
    near.addresses = [IPv4Interface("192.0.2.2/30"), IPv6Interface("2001:db8::2/64")]
    far.addresses = [IPv4Interface("192.0.2.1/30"), IPv6Interface("2001:db8::1/64")]
    near.routes = [Route(prefix, far) for prefix in DEFAULT_ROUTES]
    return near, far


def test_an_interface_gets_its_addresses_before_its_routes() -> None:
    near, _ = pair()
    assert list(near.commands()) == [
        "link set dev eth0 mtu 1500 up",
        "address replace 192.0.2.2/30 dev eth0",
        "address replace 2001:db8::2/64 dev eth0 nodad",
        "route replace 0.0.0.0/0 via 192.0.2.1 dev eth0 metric 100",
        "route replace ::/0 via 2001:db8::1 dev eth0 metric 100",
    ]


def test_a_small_mtu_leaves_ipv6_out() -> None:
    near, _ = pair()
    near.mtu = 1279
    assert not [line for line in near.commands() if "2001" in line]
    near.mtu = 1280
    assert len([line for line in near.commands() if "2001" in line]) == 2


def test_a_route_needs_the_protocol_at_both_ends() -> None:
    near, far = pair()
    del far.addresses[1]
    assert [line for line in near.commands() if line.startswith("route")] == [
        "route replace 0.0.0.0/0 via 192.0.2.1 dev eth0 metric 100"
    ]
    del near.addresses[0]
    assert not [line for line in near.commands() if line.startswith("route")]


def test_a_port_of_a_bridge_has_a_master() -> None:
    assert list(Interface(NAMESPACE, "port0", bridge="lan0").commands()) == [
        "link set dev port0 mtu 1500 master lan0 up"
    ]


def test_addresses_are_found_by_version() -> None:
    near, _ = pair()
    assert (str(near.address(4)), str(near.address(6))) == ("192.0.2.2", "2001:db8::2")
    near.addresses = []
    assert near.address(4) is None


def test_link_counters_come_from_json() -> None:
    assert parse_link_counters(json.dumps(LINK)) == LinkCounters(1, 2, 3, 4, 5, 2, 3, 4)


def test_queue_counters_are_those_of_the_root() -> None:
    assert parse_queue_counters(json.dumps(QUEUES)) == QueueCounters(3000, 2, 7)
    assert parse_queue_counters("[]") == QueueCounters(0, 0, 0)


@pytest.mark.parametrize("text", ["", "[]", "[{}]", '[{"stats64": {}}]', '[{"stats64": 1}]'])
def test_link_counters_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(LabError, match="update iproute2"):
        parse_link_counters(text)


@pytest.mark.parametrize("text", ["", "1", "[1]", '[{"root": true}]'])
def test_queue_counters_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(LabError, match="update iproute2"):
        parse_queue_counters(text)
