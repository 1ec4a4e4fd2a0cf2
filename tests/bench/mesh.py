"""meshnode, by its command line, with whatever settings a row asks for."""

from collections.abc import Sequence

from meshnode import __version__
from meshnode.lab import Host, wait_until
from tests.bench.vpn import End, Tunnel, Vpn
from tests.netns.mesh import NET, MeshNode, found


class Mesh(Vpn):
    """`settings` is the TOML text of every node."""

    def __init__(self, name: str = "meshnode", settings: str = "") -> None:
        self.name = name
        self.settings = settings

    def version(self) -> str:
        return f"meshnode {__version__}"

    def start(self, hub: Host, spokes: Sequence[Host]) -> Tunnel:
        nodes = [MeshNode(host, self.settings) for host in (hub, *spokes)]
        found(nodes[0], "--ipv4", "10.91.0.0/16")
        token = nodes[0].cli("invite", "--net", NET, "--uses", str(len(spokes)))
        for node in nodes[1:]:
            node.start(token, "--name", node.name)
        wanted = {node.name for node in nodes[1:]}
        wait_until(
            lambda: nodes[0].peers_up() >= wanted,
            "every node to join",
            timeout=30 + 2 * len(spokes),
            interval=0.2,
        )
        ends = [_end(node) for node in nodes]
        return Tunnel(ends[0], tuple(ends[1:]))


def _end(node: MeshNode) -> End:
    assert node.process is not None
    ipv4 = next(address for address in node.addresses() if ":" not in address)
    return End(node.host, ipv4.partition("/")[0], (node.process,))
