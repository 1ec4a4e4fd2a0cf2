"""Port mapping at a real gateway (miniupnpd): strangers outside reach a host behind NAT, until it goes."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from meshnode.lab import Host, Lab, Nat, Process, wait_until
from meshnode.lab.node import Router

pytestmark = pytest.mark.netns

PORT = 4655
PUBLIC = "45.7.0.1"
"""The gateway has to be told a public address: those of the lab are for documentation, and it refuses to give them."""

CONFIGURATION = """\
ext_ifname={wan}
ext_ip={public}
listening_ip={lan}
enable_natpmp=yes
enable_upnp=no
secure_mode=yes
lease_file={directory}/leases
uuid=00000000-0000-0000-0000-000000000001
upnp_table_name=upnp
upnp_nat_table_name=upnp
upnp_forward_chain=forwarding
upnp_nat_chain=incoming
upnp_nat_postrouting_chain=outgoing
allow 1024-65535 192.168.0.0/16 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""

RULES = """
table inet upnp {
  chain forwarding { }
  chain incoming { }
  chain outgoing { }
  chain before { type nat hook prerouting priority dstnat - 1; jump incoming; }
  chain after { type nat hook postrouting priority srcnat - 1; jump outgoing; }
}
insert rule inet lab_firewall through ct status dnat accept
"""


def serve_mappings(router: Router) -> Process:
    """Make a router one that maps ports when it is asked to."""
    router.nft(RULES)
    configuration = router.directory / "miniupnpd.conf"
    configuration.write_text(
        CONFIGURATION.format(
            wan=router.uplink.near.name, lan=router.bridge, public=PUBLIC, directory=router.directory
        )
    )
    pid_file = str(router.directory / "miniupnpd.pid")
    gateway = router.popen(["miniupnpd", "-d", "-f", str(configuration), "-P", pid_file])
    gateway.wait_for_output("Listening for NAT-PMP/PCP traffic")
    return gateway


def map_port(host: Host) -> Process:
    line = [sys.executable, "-m", "tests.netns.mapper", str(PORT)]
    return host.popen(line, env={"PYTHONPATH": str(Path(__file__).parents[2])})


@pytest.fixture
def bind() -> Iterator[Callable[[Host, int], socket.socket]]:
    """bind(host, port): a UDP socket in the host, closed at the end."""
    with ExitStack() as stack:

        def make(host: Host, port: int) -> socket.socket:
            made = stack.enter_context(host.socket())
            made.settimeout(10)
            made.bind(("0.0.0.0", port))
            return made

        yield make


def mapped(router: Router) -> bool:
    """Whether the router passes both protocols on."""
    return (
        router.run(["nft", "list", "chain", "inet", "upnp", "incoming"]).stdout.count(f"dport {PORT} dnat")
        == 2
    )


def test_a_mapped_port_is_reached_from_outside_until_it_is_given_back(
    lab: Lab, require: Callable[..., None], bind: Callable[[Host, int], socket.socket]
) -> None:
    require("miniupnpd")
    core = lab.core()
    router = core.router("router", nat=Nat.CONE)
    inside, stranger = router.host("inside"), core.host("stranger")
    serve_mappings(router)
    mapper = map_port(inside)
    mapper.wait_for_output(f'["{PUBLIC}:{PORT}"]')
    wait_until(lambda: mapped(router), "TCP to be mapped, too")
    here, there = bind(inside, PORT), bind(stranger, 5000)
    there.sendto(b"unasked", (str(router.address4), PORT))
    assert here.recvfrom(100) == (b"unasked", (str(stranger.address4), 5000))

    mapper.signal(signal.SIGTERM)
    assert mapper.wait(10) == 0
    assert mapper.output.splitlines()[-1] == "[]"
    assert "dport" not in router.run(["nft", "list", "table", "inet", "upnp"]).stdout


def test_who_was_killed_gets_its_port_again(lab: Lab, require: Callable[..., None]) -> None:
    require("miniupnpd")
    router = lab.core().router("router", nat=Nat.CONE)
    inside = router.host("inside")
    serve_mappings(router)
    killed = map_port(inside)
    killed.wait_for_output(f'["{PUBLIC}:{PORT}"]')
    wait_until(lambda: mapped(router), "TCP to be mapped, too")
    killed.signal(signal.SIGKILL)
    again = map_port(inside)
    again.wait_for_output(f'["{PUBLIC}:{PORT}"]')
