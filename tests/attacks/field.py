"""The ground on which attacks are tried: a small mesh that is up, somebody who listens, and somebody who lies."""

from __future__ import annotations

from dataclasses import dataclass

from meshnode.crypto.primitives import SODIUM, keyed_hash
from meshnode.proto.guard import mac1_key
from meshnode.values import SECOND, Endpoint, Path, SendFrames
from meshnode.wire.address import network_id
from meshnode.wire.control import ControlMessage, pack_control
from meshnode.wire.frames import FrameType, pack_frame
from meshnode.wire.handshake import split_macs
from meshnode.wire.state import parse_state_untrusted
from meshnode.wire.statement import parse_statement_untrusted
from tests.sim.attacker import Attacker
from tests.sim.footprint import check_bounds
from tests.sim.host import Host
from tests.sim.link import UdpPacket
from tests.sim.mesh import Mesh

INITIATION, RESPONSE, COOKIE, DATA = 1, 2, 3, 4


@dataclass(slots=True)
class Field:
    """A mesh of honest hosts and an attacker, called mallory."""

    mesh: Mesh
    mallory: Attacker

    def host(self, name: str) -> Host:
        return self.mesh.hosts[name]

    @property
    def alpha(self) -> Host:
        return self.mesh.hosts["alpha"]

    @property
    def beta(self) -> Host:
        return self.mesh.hosts["beta"]

    def run(self, seconds: float) -> None:
        self.mesh.run_for(int(seconds * SECOND))

    def works(self, within: int = 5) -> bool:
        """Whether everybody still pings everybody, and remembers no more than it may."""
        try:
            self.mesh.everybody_pings(within * SECOND)
        except AssertionError:
            return False
        for host in self.mesh.hosts.values():
            if host.running:
                check_bounds(host)
        return True


def settled(*names: str, seed: int = 1, mesh: Mesh | None = None, families: str = "4") -> Field:
    """Hosts of these names (alpha and beta by default), all up for a while, IPv4 only: one path is easier to hold."""
    mesh = mesh or Mesh(seed)
    mallory = mesh.add_attacker()
    hosts = [mesh.add_host(name, families=families) for name in names or ("alpha", "beta")]
    mesh.found(hosts[0])
    for host in hosts[1:]:
        mesh.enrol(host, hosts[0])
    mesh.wait_all_up(10 * SECOND)
    mesh.run_for(5 * SECOND)
    return Field(mesh, mallory)


def at(host: Host) -> Endpoint:
    """Where a host listens."""
    return host.endpoints()[0]


def state_of(host: Host) -> object:
    """What an attacker may wish to move: sessions, paths, timestamps, members. Equal where nothing has."""
    node = host.node
    assert node is not None
    peers = [
        (
            peer.id,
            peer.up,
            peer.paths.active,
            peer.paths.proven(),
            tuple(c.path for c in peer.paths.candidates()),
            tuple((s.local_index, s.confirmed) for s in peer.sessions),
            peer.greatest_timestamp,
        )
        for peer in node.peers.values()
    ]
    return peers, sorted(node.membership.everything())


def recorded(field: Field, *plugs: Host) -> list[UdpPacket]:
    """Everything that passes while beta restarts, all messages of a handshake and traffic both ways."""
    for host in plugs or (field.beta,):
        field.mallory.tap(host.plug)
    field.beta.restart()
    field.mesh.wait_all_up(10 * SECOND)
    for _ in range(20):
        field.alpha.applications.send(field.beta.member.ipv6, b"down")
        field.beta.applications.send(field.alpha.member.ipv6, b"up")
        field.run(0.1)
    for host in plugs or (field.beta,):
        field.mallory.release(host.plug)
    return list(field.mallory.overheard)


def with_right_macs(data: bytes, receiver: Host) -> bytes:
    """A handshake message with mac1 made anew, as anybody can who knows the receiver's public key; mac2 is zero."""
    secret, state = receiver.disk.read("static.key"), receiver.disk.read("state")
    assert secret is not None
    assert state is not None
    genesis = parse_statement_untrusted(parse_state_untrusted(state).genesis)
    body, _, _ = split_macs(data)
    key = mac1_key(network_id(genesis.signer), SODIUM.public_key(secret))
    return body + keyed_hash(key, body, 16) + bytes(16)


def push(host: Host, data: bytes, source: Endpoint) -> None:
    """Hand `data` to a host at once, as if the network had brought it from `source`."""
    host.plug.receive(UdpPacket(source, at(host), data, origin="mallory", forged=True))


def with_flipped_bit(data: bytes, bit: int) -> bytes:
    spoiled = bytearray(data)
    spoiled[bit // 8] ^= 1 << bit % 8
    return bytes(spoiled)


def say(insider: Host, to: Host, *frames: bytes, path: Path | None = None) -> None:
    """A member seals whatever it likes: `frames` as they are."""
    assert insider.process is not None
    assert insider.plane is not None
    order = SendFrames(to.member.peer, b"".join(frames), path)
    insider.plane.send_frames(order, insider.clock.now())
    insider.process.settle()


def control(message: ControlMessage | bytes) -> bytes:
    """A control frame; bytes go in as they are."""
    return pack_frame(FrameType.CONTROL, message if isinstance(message, bytes) else pack_control(message))
