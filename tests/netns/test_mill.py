"""The packet mill with a real kernel at both ends: offloads in every pairing, sums, company, DSCP, floods."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshnode.lab import Interface, Lab, Nat, Sites, sites
from meshnode.lab.ping import wait_until_reachable
from tests.netns.mesh import MeshNode, found, join, wait_for_mesh
from tests.netns.traffic import checksum_errors, payloads, send_udp, send_udp_train, sink, transfer

pytestmark = pytest.mark.netns

PLAIN_TUN = "[offload]\ntun = false\n"
PLAIN_UDP = "[offload]\nudp = false\n"
PLAIN = "[offload]\ntun = false\nudp = false\n"
PAIRINGS = (("", ""), ("", PLAIN_TUN), ("", PLAIN_UDP), (PLAIN, PLAIN_UDP), (PLAIN, PLAIN))
"""Settings of the two ends, in an order in which little has to be started anew."""

TUN_MTU = 1380
SOME_MEGABYTES = 3_000_000


def pair(
    lab: Lab, settings: tuple[str, str] = ("", ""), versions: tuple[int, ...] = (4, 6)
) -> tuple[MeshNode, MeshNode, Sites]:
    """Two members behind routers, which route and do nothing else."""
    net = sites(lab, ("alpha", "beta"), nat=Nat.NONE, versions=versions)
    alpha, beta = (MeshNode(host, text) for host, text in zip(net.hosts, settings, strict=True))
    found(alpha)
    join(alpha, beta)
    wait_for_mesh([alpha, beta])
    return alpha, beta, net


# --- offloads and checksums -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_every_pairing_of_offloads_delivers_the_same_bytes(lab: Lab, version: int) -> None:
    alpha, beta, _ = pair(lab, versions=(version,))
    running = ("", "")
    for pairing in PAIRINGS:
        for node, now, wanted in zip((alpha, beta), running, pairing, strict=True):
            if now != wanted:
                node.restart(wanted)
        running = pairing
        wait_for_mesh([alpha, beta])
        for address in beta.addresses():
            wait_until_reachable(alpha.host, address)
        for node, wanted in zip((alpha, beta), pairing, strict=True):
            check_offloads(node, wanted, version)
        exchange_and_compare(alpha, beta)
        exchange_and_compare(beta, alpha)
        assert checksum_errors(alpha.host, beta.host) == 0, pairing


def check_offloads(node: MeshNode, settings: str, version: int) -> None:
    """The status tells what the settings leave of the offloads."""
    reply = node.observe()
    assert reply is not None
    offloads = reply["offloads"]
    assert offloads["tun_tso4"] is ("tun = false" not in settings)
    assert offloads[f"udp{version}_gso"] is ("udp = false" not in settings)


def exchange_and_compare(source: MeshNode, target: MeshNode) -> None:
    """TCP and UDP over both inner families; superpackets cross the TUN exactly where they should."""
    reply = source.observe()
    assert reply is not None
    tun = Interface(source.host, reply["interface"])
    before = tun.counters()
    for address in target.addresses():
        assert transfer(source.host, target.host, address, SOME_MEGABYTES), address
    after = tun.counters()
    size = (after.tx_bytes - before.tx_bytes) / (after.tx_packets - before.tx_packets)
    assert (size > TUN_MTU) is reply["offloads"]["tun_tso4"]
    for address in target.addresses():
        with sink(target.host, address) as arrivals:
            singles, train = payloads(50, 900, seed=1), payloads(20, 1200, seed=2)
            send_udp(source.host, arrivals.address, singles, pace=0.001)
            send_udp_train(source.host, arrivals.address, train)
            # Two sockets are two flows: each keeps its order, and one may pass the other.
            assert sorted(each.data for each in arrivals.wait(70)) == singles + train
