"""Nebula with a certificate authority of its own; the hub is the lighthouse."""

import json
from collections.abc import Sequence
from typing import Any

from meshnode.lab import Host
from meshnode.lab.command import run
from tests.bench.vpn import End, Tunnel, Vpn, first_line, inner_address

_PORT = 4242


class Nebula(Vpn):
    name = "nebula"
    tools = ("nebula", "nebula-cert")

    def version(self) -> str:
        return f"nebula {first_line(['nebula', '-version'])}"

    def start(self, hub: Host, spokes: Sequence[Host]) -> Tunnel:
        authority = hub.directory / "ca"
        key, crt = f"{authority}.key", f"{authority}.crt"
        run(["nebula-cert", "ca", "-name", "bench", "-out-key", key, "-out-crt", crt])
        ends = []
        for index, host in enumerate((hub, *spokes)):
            sign = ["nebula-cert", "sign", "-ca-key", key, "-ca-crt", crt, "-name", f"node{index}"]
            own = host.directory / "nebula"
            run(
                [
                    *sign,
                    "-ip",
                    f"{inner_address(index)}/16",
                    "-out-key",
                    f"{own}.key",
                    "-out-crt",
                    f"{own}.crt",
                ]
            )
            config = host.directory / "nebula.yaml"
            config.write_text(json.dumps(_config(crt, str(own), str(hub.address4), index)))  # JSON is YAML
            ends.append(End(host, inner_address(index), (host.popen(["nebula", "-config", str(config)]),)))
        return Tunnel(ends[0], tuple(ends[1:]))


def _config(authority: str, own: str, hub: str, index: int) -> dict[str, Any]:
    anything = [{"port": "any", "proto": "any", "host": "any"}]
    lighthouse: dict[str, Any] = {"am_lighthouse": index == 0}
    if index:
        lighthouse["hosts"] = [inner_address(0)]
    return {
        "pki": {"ca": authority, "cert": f"{own}.crt", "key": f"{own}.key"},
        "static_host_map": {inner_address(0): [f"{hub}:{_PORT}"]} if index else {},
        "lighthouse": lighthouse,
        "listen": {"host": "0.0.0.0", "port": _PORT},
        "tun": {"dev": "vpn0"},
        "logging": {"level": "error"},
        "firewall": {"outbound": anything, "inbound": anything},
    }
