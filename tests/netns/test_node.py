"""Three hosts behind routers become one network: real processes, real TUN, real traffic."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meshnode.lab import Lab, Nat, lan, sites, wait_until
from meshnode.lab.counters import snmp
from meshnode.lab.iperf3 import Load, measure
from meshnode.lab.ping import ping, wait_until_reachable
from tests.netns.mesh import NET, MeshNode, found, join, run_python, wait_for_mesh

pytestmark = pytest.mark.netns

SCHEMA = Path(__file__).with_name("status_keys.json")


def mesh(lab: Lab, names: tuple[str, ...] = ("alpha", "beta", "gamma")) -> list[MeshNode]:
    nodes = [MeshNode(host) for host in sites(lab, names, nat=Nat.NONE).hosts]
    found(nodes[0])
    for node in nodes[1:]:
        join(nodes[0], node)
    wait_for_mesh(nodes)
    return nodes


def test_every_pair_pings_and_status_shows_it(lab: Lab) -> None:
    nodes = mesh(lab)
    for one in nodes:
        for other in nodes:
            for address in other.addresses() if one is not other else ():
                wait_until_reachable(one.host, address)
                assert ping(one.host, address, count=3, interval=0.05).loss == 0
    for node in nodes:
        reply = node.status()
        assert reply is not None
        assert missing_keys(json.loads(SCHEMA.read_text()), reply) == []
        assert {p["path"]["kind"] for p in reply["peers"]} == {"udp"}
        assert {p["session"]["suite"] for p in reply["peers"]} <= {"chacha20-poly1305", "aes-256-gcm"}


def missing_keys(wanted: object, got: object, at: str = "") -> list[str]:
    """Where `got` lacks keys that DESIGN section 9 promises; null stands for what is not there."""
    if isinstance(wanted, dict) and got is not None:
        assert isinstance(got, dict), at
        lacking = [f"{at}.{key}" for key in wanted if key not in got]
        return lacking + [
            m for key in wanted if key in got for m in missing_keys(wanted[key], got[key], f"{at}.{key}")
        ]
    if isinstance(wanted, list) and wanted and isinstance(got, list):
        return [m for item in got for m in missing_keys(wanted[0], item, f"{at}[]")]
    return []


def test_tcp_udp_and_a_file_arrive_whole(lab: Lab, require: Callable[..., None]) -> None:
    require("iperf3")
    alpha, beta, _ = mesh(lab)
    wait_until_reachable(alpha.host, beta.addresses()[0])
    for address in beta.addresses():
        assert measure(alpha.host, beta.host, address, Load(seconds=2)).received_mbit > 1
        assert measure(alpha.host, beta.host, address, Load(seconds=2, reverse=True)).received_mbit > 1
    udp = measure(alpha.host, beta.host, beta.addresses()[0], Load(seconds=2, udp_mbit=5, size=1200))
    assert udp.lost_packets == 0
    copy_and_compare(alpha, beta, 100_000_000)
    for node in (alpha, beta):
        assert snmp(node.host)["Tcp"]["InCsumErrors"] == 0
        assert snmp(node.host)["Udp"]["InCsumErrors"] == 0


def copy_and_compare(source: MeshNode, sink: MeshNode, size: int) -> None:
    """Send `size` bytes over TCP through the tunnel; both ends hash what they saw."""
    address = sink.addresses()[0]
    server = sink.host.popen([sys.executable, "-c", RECEIVER, address])
    server.wait_for_output("listening")
    sent = run_python(source.host, SENDER.format(address=address, size=size), timeout=120).stdout.strip()
    wait_until(lambda: "hash" in server.output, "the receiver to be done", timeout=60)
    assert f"hash {sent}" in server.output


RECEIVER = """
import hashlib, socket, sys
s = socket.create_server((sys.argv[1], 7001)); print("listening", flush=True)
c, _ = s.accept(); h = hashlib.sha256()
while chunk := c.recv(1 << 20): h.update(chunk)
print("hash", h.hexdigest(), flush=True)
"""
SENDER = """
import hashlib, random, socket
r = random.Random(7); block = r.randbytes(1 << 20); h = hashlib.sha256(); left = {size}
c = socket.create_connection(("{address}", 7001), timeout=30)
while left:
    piece = block[:min(left, len(block))]; c.sendall(piece); h.update(piece); left -= len(piece)
c.close(); print(h.hexdigest())
"""


def test_a_killed_node_rejoins_within_seconds(lab: Lab) -> None:
    alpha, beta, _ = mesh(lab)
    address = beta.addresses()[0]
    beta.kill()
    beta.start("--net", NET)
    began = time.monotonic()
    wait_until_reachable(alpha.host, address, timeout=20)
    print(f"reachable again {time.monotonic() - began:.1f} s after kill -9 and start")


def test_a_restart_needs_no_inviter(lab: Lab) -> None:
    alpha, beta, gamma = mesh(lab)
    alpha.stop()
    for node in (beta, gamma):
        node.stop()
        node.start("--net", NET)
    wait_for_mesh([beta, gamma])
    wait_until_reachable(beta.host, gamma.addresses()[1])


def test_a_member_that_was_away_meets_a_new_one_without_the_inviter(lab: Lab) -> None:
    nodes = [MeshNode(host) for host in sites(lab, ("alpha", "beta", "gamma"), nat=Nat.NONE).hosts]
    alpha, beta, gamma = nodes
    found(alpha)
    join(alpha, beta)
    wait_for_mesh([alpha, beta])
    beta.stop()
    join(alpha, gamma)
    wait_for_mesh([alpha, gamma])
    alpha.stop()
    beta.start("--net", NET)
    wait_for_mesh([beta, gamma])
    wait_until_reachable(beta.host, gamma.addresses()[0])


def test_a_second_join_leaves_the_first_alone(lab: Lab) -> None:
    (host,) = lan(lab, ("alpha",))
    node = MeshNode(host)
    found(node)
    code, text = node.attempt("join", "--net", NET)
    assert code == 1
    assert "runs" in text or "running" in text
    assert len(text.splitlines()) == 1
    assert node.status() is not None


def test_leave_and_revoke(lab: Lab) -> None:
    alpha, beta, gamma = mesh(lab)
    alpha.cli("revoke", "--net", NET, "gamma")
    wait_until(lambda: alpha.peers_up() == {"beta"} and beta.peers_up() == {"alpha"}, "gamma to be cut off")
    code, text = alpha.attempt("revoke", "--net", NET, "nobody")
    assert (code, len(text.splitlines())) == (1, 1)
    beta.cli("leave", "--net", NET, "--yes")
    assert beta.process is not None
    beta.process.wait(10)
    assert not (beta.host.directory / "state" / NET).exists()
    wait_until(lambda: alpha.peers_up() == set(), "beta to be gone")
    # Who has lost everything is let in again with a new token, under a new key.
    gamma.stop()
    gamma.cli("leave", "--net", NET, "--yes")
    join(alpha, gamma)
    wait_for_mesh([alpha, gamma])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda t: t[: len(t) // 2], "damaged"),
        (lambda t: t[:-3] + ("AAA" if t[-3:] != "AAA" else "BBB"), "damaged"),
        (lambda t: "hello", "no meshnode token"),
    ],
)
def test_bad_tokens_write_nothing(lab: Lab, damage: Callable[[str], str], says: str) -> None:
    alpha, beta = (MeshNode(host) for host in lan(lab, ("alpha", "beta")))
    found(alpha)
    token = alpha.cli("invite", "--net", NET)
    code, text = beta.attempt("join", "--net", NET, damage(token))
    assert code == 1
    assert says in text
    assert len(text.splitlines()) == 1
    assert not (beta.host.directory / "state" / NET).exists()


def test_used_tokens_and_taken_names_are_refused(lab: Lab) -> None:
    alpha, beta, gamma = (MeshNode(host) for host in lan(lab, ("alpha", "beta", "gamma")))
    found(alpha)
    token = alpha.cli("invite", "--net", NET)
    taken = alpha.cli("invite", "--net", NET)
    beta.start(token, "--name", "beta")
    wait_for_mesh([alpha, beta])
    for given, name, says in ((token, "gamma", "used"), (taken, "beta", "taken")):
        code, text = gamma.attempt("join", "--net", NET, given, "--name", name)
        assert code == 1
        assert says in text
        assert not (gamma.host.directory / "state" / NET).exists()
    gamma.start(taken, "--name", "gamma")  # a refusal costs no use
    wait_for_mesh([alpha, beta, gamma])


def test_a_stranger_hears_nothing(lab: Lab) -> None:
    """Every type byte at many lengths, random bytes, and recorded real traffic replayed: not one byte comes back."""
    hosts = lan(lab, ("alpha", "beta", "eve"))
    alpha, beta = MeshNode(hosts[0]), MeshNode(hosts[1])
    eve = hosts[2]
    found(alpha)
    join(alpha, beta)
    wait_for_mesh([alpha, beta])
    done = run_python(eve, STRANGER.format(target=hosts[0].address4, port=4655), timeout=120)
    sent, received = map(int, done.stdout.split())
    assert sent > 5_000
    assert received == 0
    assert alpha.peers_up() == {"beta"}
    reply = alpha.status()
    assert reply is not None
    assert sum(n for name, n in reply["counters"].items() if "drop" in name or "in " in name) > 0


STRANGER = """
import random, select, socket
r = random.Random(3); s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("0.0.0.0", 0)); s.setblocking(False)
sent = received = 0
def drain(wait):
    global received
    while select.select([s], [], [], wait)[0]:
        s.recv(65535); received += 1
for kind in range(256):
    for size in (0, 1, 4, 16, 35, 36, 64, 100, 101, 148, 152, 153, 200, 600, 1199, 1200, 1201, 1472):
        body = bytes([kind, 1, 0, 0])[:size] + r.randbytes(max(size - 4, 0))
        s.sendto(body, ("{target}", {port})); sent += 1
    if kind % 16 == 0: drain(0.0)
for size in range(1, 1473):
    s.sendto(bytes([1 + size % 4, 1, 0, 0])[:size] + r.randbytes(max(size - 4, 0)), ("{target}", {port})); sent += 1
drain(1.5)
print(sent, received)
"""


def test_recorded_traffic_is_of_no_use_to_a_stranger(lab: Lab) -> None:
    """Handshakes, control and data as they were on the wire, sent again by a third host: not one byte comes back."""
    hosts = lan(lab, ("alpha", "beta", "eve"))
    alpha, beta = MeshNode(hosts[0]), MeshNode(hosts[1])
    eve = hosts[2]
    found(alpha)
    tape = alpha.host.directory / "tape"
    recorder = alpha.host.popen([sys.executable, "-c", RECORDER, str(tape)])
    recorder.wait_for_output("recording")
    join(alpha, beta)
    wait_for_mesh([alpha, beta])
    wait_until_reachable(alpha.host, beta.addresses()[0])
    ping(alpha.host, beta.addresses()[0], count=5, interval=0.05)
    beta.kill()
    beta.start("--net", NET)
    wait_for_mesh([alpha, beta])
    recorder.stop()
    assert {line[:2] for line in tape.read_text().split()} >= {"01", "02", "04"}

    done = run_python(
        eve, REPLAYER.format(tape=tape, targets=[str(h.address4) for h in hosts[:2]]), timeout=60
    )
    sent, received = map(int, done.stdout.split())
    assert sent > 40
    assert received == 0
    assert alpha.peers_up() == {"beta"}
    assert ping(alpha.host, beta.addresses()[0], count=3, interval=0.05).duplicates == 0


RECORDER = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
print("recording", flush=True)
with open(sys.argv[1], "w") as tape:
    while True:
        packet, (interface, *_) = s.recvfrom(65535)
        v6 = packet[0] >> 4 == 6
        at = 40 if v6 else (packet[0] & 15) * 4
        protocol = packet[6] if v6 else packet[9]
        if interface != "mesh-home" and protocol == 17 and packet[at:at + 2] == packet[at + 2:at + 4] == b"\\x12\\x2f":
            print(packet[at + 8:].hex(), file=tape, flush=True)
"""
REPLAYER = """
import select, socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("0.0.0.0", 0))
sent = received = 0
for line in open("{tape}").read().split():
    for target in {targets}:
        s.sendto(bytes.fromhex(line)[:65000], (target, 4655)); sent += 1
end = time.monotonic() + 1.5
while (left := end - time.monotonic()) > 0 and select.select([s], [], [], left)[0]:
    s.recv(65535); received += 1
print(sent, received)
"""


def test_sigterm_says_goodbye_and_leaves_nothing_in_the_kernel(lab: Lab) -> None:
    alpha, beta, gamma = mesh(lab)
    assert "mesh-home" in beta.host.run(["ip", "-o", "link"]).stdout
    beta.stop()
    assert "mesh-home" not in beta.host.run(["ip", "-o", "link"]).stdout
    assert "4077" not in beta.host.run(["ip", "rule"]).stdout
    wait_until(
        lambda: "beta" not in alpha.peers_up() | gamma.peers_up(), "the goodbye to be heard", timeout=3
    )
