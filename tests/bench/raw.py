"""No VPN at all: what the lab itself can carry."""

from collections.abc import Sequence

from meshnode.lab import Host
from tests.bench.vpn import End, Tunnel, Vpn, first_line


class Raw(Vpn):
    name = "raw"

    def version(self) -> str:
        return f"iperf3: {first_line(['iperf3', '--version'])}"

    def start(self, hub: Host, spokes: Sequence[Host]) -> Tunnel:
        ends = [End(host, str(host.address4)) for host in (hub, *spokes)]
        return Tunnel(ends[0], tuple(ends[1:]))
