"""Path MTU with real kernels: small underlays, black holes, and a path that changes under a running transfer."""

from __future__ import annotations

import re
from subprocess import CompletedProcess

import pytest

from meshnode.lab import Lab, wait_until
from tests.netns.mesh import MeshNode, pair
from tests.netns.traffic import Transfer, checksum_errors, payloads, send_udp, sink, transfer

pytestmark = pytest.mark.netns

TUN_MTU = 1380
OVERHEAD = 20 + 8 + 36 + 8
"""Bytes of an outer IPv4 datagram around the inner packet of a segment: IP, UDP, the sealed datagram, its frame."""
IPV4_HEADERS = 20 + 8
IPV4_FLOOR = 576
"""No IPv4 host is told to send less (RFC 791)."""
FULL = TUN_MTU + OVERHEAD


def path_mtu(node: MeshNode, peer: MeshNode) -> int:
    path = node.peer(peer.name)["path"]
    return 0 if path is None or path["mtu"] is None else int(path["mtu"])


def echo(source: MeshNode, address: str, size: int, *options: str) -> CompletedProcess[str]:
    """Three pings in IP packets of `size` bytes."""
    payload = size - (48 if ":" in address else IPV4_HEADERS)
    return source.host.run(
        ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", "-s", str(payload), *options, address], check=False
    )


@pytest.mark.parametrize("underlay", [1280, 576])
def test_a_small_underlay_carries_everything(lab: Lab, underlay: int) -> None:
    alpha, beta, _ = pair(lab, versions=(4,), prepare=lambda net: net.routers[0].uplink.set_mtu(underlay))
    for one, other in ((alpha, beta), (beta, alpha)):
        wait_until(lambda: path_mtu(one, other) == underlay, "the path MTU to be found", timeout=40)  # noqa: B023
    ipv4, ipv6 = beta.addresses()

    # Small packets pass, and so do large ones that may be fragmented: inside the tunnel.
    for address in (ipv4, ipv6):
        assert echo(alpha, address, 100).returncode == 0
    assert " 0% packet loss" in echo(alpha, ipv4, TUN_MTU, "-M", "dont").stdout
    # What may not be is refused, with the size that passes.
    told = max(underlay - OVERHEAD, IPV4_FLOOR)
    refused = echo(alpha, ipv4, TUN_MTU, "-M", "do")
    assert refused.returncode == 1
    assert set(re.findall(r"mtu ?= ?(\d+)", refused.stdout + refused.stderr)) == {str(told)}
    assert " 0% packet loss" in echo(alpha, ipv4, told, "-M", "do").stdout
    # No IPv6 packet of 1280 bytes is ever refused.
    assert " 0% packet loss" in echo(alpha, ipv6, 1280).stdout

    for address in (ipv4, ipv6):
        assert transfer(alpha.host, beta.host, address, 1_000_000)
    assert transfer(beta.host, alpha.host, alpha.addresses()[0], 1_000_000)
    with sink(beta.host, ipv4) as arrivals:
        whole = payloads(30, TUN_MTU - IPV4_HEADERS)
        send_udp(alpha.host, arrivals.address, whole, pace=0.005, fragment=True)
        assert [each.data for each in arrivals.wait(30)] == whole
    assert checksum_errors(alpha.host, beta.host) == 0


def test_a_transfer_survives_a_path_that_shrinks_and_grows(lab: Lab) -> None:
    """The routers tell nobody: what passes is found out by probes alone."""
    alpha, beta, net = pair(lab, versions=(4,))
    for router in (*net.routers, net.core):
        router.block_icmp_errors()
    wait_until(lambda: path_mtu(alpha, beta) == FULL, "the whole path to be found")
    stream = Transfer(alpha.host, beta.host, beta.addresses()[0], pace=200_000)

    def goes_on(amount: int, timeout: float) -> None:
        before = stream.received
        wait_until(
            lambda: stream.received > before + amount, f"{amount} more bytes", timeout=timeout, interval=0.1
        )

    goes_on(200_000, timeout=20)
    net.routers[0].uplink.set_mtu(900)
    wait_until(lambda: path_mtu(alpha, beta) < 900, "the black hole to be noticed", timeout=60, interval=0.1)
    goes_on(300_000, timeout=90)
    wait_until(lambda: path_mtu(alpha, beta) == 768, "the largest common size that passes", timeout=30)
    net.routers[0].uplink.set_mtu(1500)
    wait_until(lambda: path_mtu(alpha, beta) == FULL, "the path to be found larger", timeout=60, interval=0.1)
    goes_on(300_000, timeout=60)
    assert stream.finish()
    assert checksum_errors(alpha.host, beta.host) == 0
