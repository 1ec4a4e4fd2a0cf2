"""The packet mill with a real kernel at both ends: offloads in every pairing, sums, company, DSCP, floods."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshnode.lab import Interface, Lab, Nat, sites, wait_until
from meshnode.lab.iperf3 import Load, measure
from tests.netns.mesh import MeshNode, found, join, meet, pair, wait_for_mesh
from tests.netns.traffic import (
    Flood,
    Tally,
    best_of,
    checksum_errors,
    payloads,
    send_udp,
    send_udp_train,
    sink,
    transfer,
)

pytestmark = pytest.mark.netns

PLAIN_TUN = "[offload]\ntun = false\n"
PLAIN_UDP = "[offload]\nudp = false\n"
PLAIN = "[offload]\ntun = false\nudp = false\n"
PAIRINGS = (("", ""), ("", PLAIN_TUN), ("", PLAIN_UDP), (PLAIN, PLAIN_UDP), (PLAIN, PLAIN))
"""Settings of the two ends, in an order in which little has to be started anew."""

TUN_MTU = 1380
EF = 46 << 2
"""Expedited forwarding (RFC 3246), as a TOS byte."""
SOME_MEGABYTES = 3_000_000


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
        meet(alpha, beta)
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


# --- company --------------------------------------------------------------------------------------------------------


def outer_of(node: MeshNode) -> str:
    """What a router sees of the datagrams that a node sends."""
    return f"ip saddr {node.host.address4} udp sport 4655"


def test_small_packets_that_wait_share_datagrams(lab: Lab) -> None:
    alpha, beta, net = pair(lab, ("", f'rate = "300kbit"\n{PLAIN_TUN}'), versions=(4,))
    beta.host.uplink.near.set_superpackets(False)  # one frame is one datagram
    address = beta.addresses()[0]
    tally = Tally(net.routers[1], outer=outer_of(beta))
    inner = Interface(alpha.host, "mesh-home")

    before = inner.counters().rx_packets
    assert transfer(alpha.host, beta.host, address, 1_500_000)
    acknowledgements, datagrams = inner.counters().rx_packets - before, tally.packets()["outer"]
    print(f"{acknowledgements} acknowledgements in {datagrams} datagrams")
    assert acknowledgements > 100
    assert datagrams * 2 < acknowledgements


def test_dscp_is_visible_outside_only_where_it_is_copied(lab: Lab) -> None:
    alpha, beta, net = pair(lab, versions=(4,))
    tally = Tally(
        net.routers[0], marked=f"{outer_of(alpha)} ip dscp ef", other=f"{outer_of(alpha)} ip dscp != 0"
    )
    for policy in ("zero", "copy"):
        if policy != "zero":
            alpha.restart(f'dscp = "{policy}"\n')
            meet(alpha, beta)
        with sink(beta.host, beta.addresses()[0]) as arrivals:
            send_udp(alpha.host, arrivals.address, payloads(50, 800), tos=EF)
            assert {each.tos for each in arrivals.wait(50)} == {EF}
        seen = tally.packets()
        assert seen["other"] == seen["marked"]
        assert (seen["marked"] > 0) is (policy == "copy")


# --- many peers -----------------------------------------------------------------------------------------------------


def test_a_flood_to_one_peer_leaves_the_others_their_share(lab: Lab, require: Callable[..., None]) -> None:
    require("iperf3")
    net = sites(lab, ("alpha", "beta", "gamma"), nat=Nat.NONE, versions=(4,))
    alpha, beta, gamma = (MeshNode(host, 'rate = "4mbit"\n') for host in net.hosts)
    found(alpha)
    for node in (beta, gamma):
        join(alpha, node)
    wait_for_mesh([alpha, beta, gamma])
    address = beta.addresses()[0]
    with sink(gamma.host, gamma.addresses()[0]) as arrivals:

        def share() -> float:
            alone = measure(alpha.host, beta.host, address, Load(seconds=2)).received_mbit
            flood, before = (
                Flood(alpha.host, arrivals.address, mbit=40),
                alpha.peer("gamma")["queue"]["drops"],
            )
            wait_until(lambda: alpha.peer("gamma")["queue"]["drops"] > before, "the flood to be too much")
            beside = measure(alpha.host, beta.host, address, Load(seconds=2)).received_mbit
            sent, arrived = flood.stop(), arrivals.poll()
            print(
                f"{alone:.1f} Mbit/s alone, {beside:.1f} beside a flood of {sent} of which {arrived} arrived"
            )
            assert 0 < arrived < sent / 2
            return beside / alone

        assert best_of(3, share, enough=0.6) > 0.6
