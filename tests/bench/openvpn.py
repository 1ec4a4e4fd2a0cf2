"""OpenVPN 2.6 without its kernel module: TLS, certificates known by fingerprint, AES-256-GCM."""

from collections.abc import Sequence

from meshnode.lab import Host
from meshnode.lab.command import run
from tests.bench.vpn import End, Tunnel, Vpn, first_line, inner_address

_PORT = 1194


class OpenVpn(Vpn):
    name = "openvpn"
    tools = ("openvpn", "openssl")

    def version(self) -> str:
        return " ".join(first_line(["openvpn", "--version"]).split()[:2])

    def start(self, hub: Host, spokes: Sequence[Host]) -> Tunnel:
        hosts = (hub, *spokes)
        fingerprints = [_certificate(host, index) for index, host in enumerate(hosts)]
        addresses = hub.directory / "openvpn-clients"
        addresses.mkdir()
        ends = []
        for index, host in enumerate(hosts):
            if index:
                text = _client(str(hub.address4), fingerprints[0])
                (addresses / f"node{index}").write_text(f"ifconfig-push {inner_address(index)} 255.255.0.0\n")
            else:
                text = _server(str(addresses), fingerprints[1:])
            config = host.directory / "openvpn.conf"
            own = host.directory / "openvpn"
            config.write_text(f"{text}{_COMMON}cert {own}.crt\nkey {own}.key\n")
            ends.append(End(host, inner_address(index), (host.popen(["openvpn", "--config", str(config)]),)))
        return Tunnel(ends[0], tuple(ends[1:]))


_COMMON = """dev vpn0
dev-type tun
topology subnet
data-ciphers AES-256-GCM:CHACHA20-POLY1305
disable-dco
verb 1
"""


def _server(client_directory: str, fingerprints: Sequence[str]) -> str:
    known = "\n".join(fingerprints)
    return (
        f"port {_PORT}\nproto udp4\nmode server\ntls-server\ndh none\nkeepalive 10 60\n"
        f'ifconfig {inner_address(0)} 255.255.0.0\npush "topology subnet"\n'
        f"client-config-dir {client_directory}\nccd-exclusive\n"
        f"<peer-fingerprint>\n{known}\n</peer-fingerprint>\n"
    )


def _client(server: str, fingerprint: str) -> str:
    return f"client\nproto udp4\nremote {server} {_PORT}\nnobind\npeer-fingerprint {fingerprint}\n"


def _certificate(host: Host, index: int) -> str:
    """Make a key and a self-signed certificate; its fingerprint."""
    own = host.directory / "openvpn"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run([*make, "-days", "30", "-subj", f"/CN=node{index}", "-keyout", f"{own}.key", "-out", f"{own}.crt"])
    shown = run(["openssl", "x509", "-in", f"{own}.crt", "-noout", "-fingerprint", "-sha256"]).stdout
    return shown.strip().partition("=")[2]
