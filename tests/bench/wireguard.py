"""wireguard-go: WireGuard in userspace, so that it meets the same costs as the others."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from meshnode.lab import Host, wait_until
from meshnode.lab.command import run
from tests.bench.vpn import INNER, End, Tunnel, Vpn, first_line, inner_address

_PORT = 51820
_SOCKETS = Path("/var/run/wireguard")  # named after the interface, and not in any namespace
_numbers = itertools.count(1)


class WireGuard(Vpn):
    name = "wireguard-go"
    tools = ("wireguard-go", "wg")

    def version(self) -> str:
        return first_line(["wireguard-go", "--version"])

    def start(self, hub: Host, spokes: Sequence[Host]) -> Tunnel:
        hosts = (hub, *spokes)
        private = [run(["wg", "genkey"]).stdout.strip() for _ in hosts]
        public = [run(["wg", "pubkey"], stdin=key).stdout.strip() for key in private]
        to_hub = _peer(public[0], INNER, f"{hub.address4}:{_PORT}")
        to_spokes = "".join(_peer(public[i], f"{inner_address(i)}/32") for i in range(1, len(hosts)))
        ends = [
            _start(host, index, f"[Interface]\nPrivateKey = {private[index]}\nListenPort = {_PORT}\n{peers}")
            for index, (host, peers) in enumerate(
                zip(hosts, [to_spokes] + [to_hub] * len(spokes), strict=True)
            )
        ]
        return Tunnel(ends[0], tuple(ends[1:]))


def _peer(key: str, allowed: str, endpoint: str = "") -> str:
    line = f"Endpoint = {endpoint}\n" if endpoint else ""
    return f"[Peer]\nPublicKey = {key}\nAllowedIPs = {allowed}\n{line}"


def _start(host: Host, index: int, config: str) -> End:
    interface = f"wg{os.getpid()}-{next(_numbers)}"
    file = host.directory / "wg.conf"
    file.write_text(config)
    allow = {"WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD": "1", "LOG_LEVEL": "error"}
    process = host.popen(["wireguard-go", "-f", interface], env=allow)
    wait_until((_SOCKETS / f"{interface}.sock").exists, "wireguard-go to listen", timeout=10)
    host.run(["wg", "setconf", interface, str(file)])
    address = inner_address(index)
    # 1420 is what wg-quick gives it on an Ethernet.
    host.ip([f"address add {address}/16 dev {interface}", f"link set dev {interface} mtu 1420 up"])
    return End(host, address, (process,))
