"""tinc 1.0 in router mode, with the cipher and digest it comes with."""

import signal
from collections.abc import Sequence
from pathlib import Path

from meshnode.lab import Host, wait_until
from tests.bench.vpn import INNER, End, Tunnel, Vpn, first_line, inner_address


class Tinc(Vpn):
    name = "tinc"
    tools = ("tincd",)

    def version(self) -> str:
        return first_line(["tincd", "--version"])

    def start(self, hub: Host, spokes: Sequence[Host]) -> Tunnel:
        hosts = (hub, *spokes)
        directories = [_configure(host, index) for index, host in enumerate(hosts)]
        for directory in directories[1:]:
            _introduce(directories[0], directory)
        ends = []
        for index, (host, directory) in enumerate(zip(hosts, directories, strict=True)):
            argv = ["tincd", "-c", str(directory), "-D", f"--pidfile={directory / 'pid'}"]
            ends.append(End(host, inner_address(index), (host.popen(argv),)))
        return Tunnel(ends[0], tuple(ends[1:]))

    def settle(self, tunnel: Tunnel) -> None:
        """Until every path MTU is known: before that tinc sends packets through TCP."""
        hub = tunnel.hub.processes[0]

        def known() -> bool:
            hub.signal(signal.SIGUSR2)  # "dump the nodes": their path MTU is (min N max N) when it is fixed
            text = hub.output.rpartition("Nodes:")[2].partition("End of nodes.")[0]
            words = [line.partition("(min ")[2].split() for line in text.splitlines() if "spoke" in line]
            return len(words) == len(tunnel.spokes) and all(w[0] == w[2].strip(")") != "0" for w in words)

        wait_until(known, "tinc to know its path MTUs", timeout=30, interval=0.5)


def _node(index: int) -> str:
    return f"spoke{index}" if index else "hub"


def _configure(host: Host, index: int) -> Path:
    directory = host.directory / "tinc"
    (directory / "hosts").mkdir(parents=True)
    name, address = _node(index), inner_address(index)
    connect = "ConnectTo = hub\n" if index else ""
    (directory / "tinc.conf").write_text(f"Name = {name}\nInterface = vpn0\nMode = router\n{connect}")
    (directory / "hosts" / name).write_text(f"Address = {host.address4}\nSubnet = {address}/32\n")
    up = directory / "tinc-up"
    up.write_text(
        "#!/bin/sh\nip link set dev $INTERFACE up\n"
        f"ip address add {address}/{INNER.partition('/')[2]} dev $INTERFACE\n"
    )
    up.chmod(0o755)
    host.run(["tincd", "-c", str(directory), "-K"], timeout=120)
    return directory


def _introduce(one: Path, other: Path) -> None:
    """Give each the other's public key and address."""
    for source, sink in ((one, other), (other, one)):
        own = next(
            line for line in (source / "tinc.conf").read_text().splitlines() if line.startswith("Name")
        )
        name = own.rpartition(" ")[2]
        (sink / "hosts" / name).write_text((source / "hosts" / name).read_text())
