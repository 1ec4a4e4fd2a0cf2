"""LAN discovery with real multicast: two hosts on one switch find each other, whatever else is said there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from meshnode.lab import Host, Lab, Process, lan, wait_until
from meshnode.values import PeerId

pytestmark = pytest.mark.netns

NETWORK = bytes(range(32))
PEERS = {name: PeerId(name.encode() * 16) for name in "abc"}
PORT = 4655
ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[2])}


def discover(host: Host, network: bytes = NETWORK) -> Process:
    """Start LAN discovery on a host, as the member that is called like it."""
    peers = [PEERS[host.label].hex(), *(peer.hex() for peer in PEERS.values())]
    return start(host, "discoverer", network.hex(), str(PORT), *peers)


def start(host: Host, program: str, *arguments: str) -> Process:
    """Run one of the programs beside this file."""
    line = [sys.executable, "-m", f"tests.netns.{program}", *arguments]
    return host.popen(line, stdin=True, env=ENVIRONMENT)


def hints(process: Process) -> set[tuple[str, str]]:
    """(peer, host) of each hint until now."""
    lines = [json.loads(line) for line in process.output.splitlines() if line.startswith("{")]
    assert all(line["port"] == PORT for line in lines)
    return {(line["peer"], line["host"]) for line in lines}


def known(host: Host) -> set[tuple[str, str]]:
    peer = PEERS[host.label].hex()
    return {(peer, str(host.address4)), (peer, str(host.address6))}


def found(process: Process, host: Host) -> Callable[[], bool]:
    return lambda: known(host) <= hints(process)


def test_hosts_on_one_switch_find_each_other(lab: Lab) -> None:
    a, b = lan(lab, "ab")
    first, second = discover(a), discover(b)
    wait_until(found(first, b), "a to find b", timeout=15)
    wait_until(found(second, a), "b to find a", timeout=15)
    assert {peer for peer, _ in hints(first)} == {PEERS["b"].hex()}
    first.stop()
    assert "Traceback" not in first.output


def test_link_local_addresses_do_where_there_are_no_others(lab: Lab) -> None:
    a, b = lan(lab, "ab")
    for host in (a, b):
        host.ip([f"addr flush dev {host.uplink.near.name} scope global"])
    first, _ = discover(a), discover(b)
    wait_until(lambda: hints(first), "a to find b", timeout=15)
    ((peer, address),) = hints(first)
    assert peer == PEERS["b"].hex()
    assert ip_address(address).is_link_local
    assert address.endswith("%2")


def test_another_network_on_the_switch_is_not_found(lab: Lab) -> None:
    a, b, c = lan(lab, "abc")
    first, _, third = discover(a), discover(b, bytes(32)), discover(c)
    wait_until(found(first, c), "a to find c", timeout=15)
    wait_until(found(third, a), "c to find a", timeout=15)
    assert not {peer for peer, _ in hints(first) | hints(third)} & {PEERS["b"].hex()}


def test_a_new_address_is_announced(lab: Lab) -> None:
    a, b = lan(lab, "ab")
    first, second = discover(a), discover(b)
    wait_until(found(first, b), "a to find b", timeout=15)
    new = str(b.address4 + 100)
    b.ip([f"addr add {new}/24 dev {b.uplink.near.name}"])
    second.write("refresh")
    wait_until(lambda: (PEERS["b"].hex(), new) in hints(first), "a to hear of the new address", timeout=15)


def test_a_host_that_gets_a_link_later_is_found(lab: Lab) -> None:
    (a,), b = lan(lab, "a"), lab.host("b")
    first, second = discover(a), discover(b)
    second.wait_for_output("waits for an interface")
    a.upstreams[0].attach(b)
    second.write("refresh")
    wait_until(found(first, b), "a to find b", timeout=15)
    wait_until(found(second, a), "b to find a", timeout=15)


def test_hostile_records_are_ignored_and_do_not_keep_members_apart(lab: Lab) -> None:
    a, b, c = lan(lab, "abc")
    first = discover(a)
    first.wait_for_output("started")
    chatter = start(c, "chatterbox", str(c.address4), "once")
    chatter.wait_for_output("said it all", timeout=30)
    second = discover(b)
    wait_until(found(first, b), "a to find b", timeout=20)
    wait_until(found(second, a), "b to find a", timeout=20)
    assert {peer for peer, _ in hints(first)} == {PEERS["b"].hex()}
    first.write("counters")
    first.wait_for_output("lan other network")
    for process in (first, second):
        assert process.status is None
        assert "Traceback" not in process.output


def test_a_flood_switches_discovery_off_and_nothing_else(lab: Lab) -> None:
    a, c = lan(lab, "ac")
    first = discover(a)
    first.wait_for_output("started")
    flood = start(c, "chatterbox", str(c.address4), "for-ever")
    first.wait_for_output("no LAN discovery: somebody floods", timeout=30)
    first.write("counters")
    first.wait_for_output("lan other network")
    assert first.status is None
    flood.stop()
