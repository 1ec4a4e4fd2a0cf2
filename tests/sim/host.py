"""A simulated machine: a plug in a network, two clocks, a disk, applications, and at most one running node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

from meshnode.crypto.primitives import SODIUM, Ciphers
from meshnode.crypto.suites import aead
from meshnode.dataplane.config import PlaneConfig
from meshnode.dataplane.plane import Plane
from meshnode.dataplane.session import AeadFactory
from meshnode.proto.context import NodeConfig
from meshnode.proto.invitations import InvitationTerms
from meshnode.proto.joiner import Joiner
from meshnode.proto.membership import Member
from meshnode.proto.node import Node
from meshnode.proto.registrar import found_network
from meshnode.values import (
    SECOND,
    Endpoint,
    Enrolled,
    EnrolmentRefused,
    Goodbye,
    LinkChanged,
    LocalEndpoints,
    MembershipChanged,
    Notice,
    Output,
    Path,
    PathKind,
    PeerDown,
    PeerId,
    PeerUp,
    SaveState,
    StateSaved,
)
from meshnode.wire.state import pack_state, parse_state_untrusted
from meshnode.wire.token import Token, parse_token_untrusted
from tests.sim.applications import Applications
from tests.sim.disk import Disk, DiskFull
from tests.sim.invariants import Broken, Invariants
from tests.sim.link import UdpPacket
from tests.sim.network import Network, Plug, describe, family
from tests.sim.process import Process
from tests.sim.world import Event, HostClock, World

PORT = 4655


ANYBODY = InvitationTerms()
"""One use, a week, any name."""


class Power(Enum):
    """What the machine is doing. Suspended, its boot clock goes on and nothing else does."""

    ON = "on"
    SUSPENDED = "suspended"


@dataclass(slots=True)
class Weather:
    """What befalls all hosts at once: partitions (groups of names), a family that is blocked everywhere (4 or
    6).

    `sent` counts by the first byte what hosts have sent.
    """

    groups: list[frozenset[str]] = field(default_factory=list)
    blocked_family: int = 0
    sent: Counter[int] = field(default_factory=Counter)

    def parts(self, sender: str, receiver: str) -> bool:
        """Whether a partition runs between the two. Who is in no group is with everybody."""
        sides = [
            next((i for i, group in enumerate(self.groups) if n in group), None) for n in (sender, receiver)
        ]
        return None not in sides and sides[0] != sides[1]


@dataclass(slots=True)
class Equipment:
    """What all hosts of a world share."""

    world: World
    weather: Weather = field(default_factory=Weather)
    invariants: Invariants = field(default_factory=Invariants)
    ciphers: Ciphers = SODIUM
    aead: AeadFactory = aead


class Host:
    """One machine. Everything that a person or fate can do to it is a method."""

    def __init__(self, equipment: Equipment, name: str, network: Network, plug: Plug) -> None:
        self.world = equipment.world
        self.equipment = equipment
        self.name = name
        self.network = network
        self.plug = plug
        self.power = Power.ON
        self.clock = HostClock(self.world, name)
        self.disk = Disk()
        self.applications = Applications(name, self.world, equipment.invariants.inner, self._write_tun)
        self.process: Process | None = None
        self.node: Node | None = None
        self.plane: Plane | None = None
        self.notices: list[Notice] = []
        self.refused: str | None = None
        self.tolerates_errors = False
        """Set by tests that provoke a failure which the node must report as an error."""
        self.sends_nowhere = 0
        self.relay = True
        """`relay` of the settings, for nodes that start from now on."""
        self.saves: dict[int, str | None] = {}
        self._entropy = self.world.entropy(name)
        self._alarm: Event | None = None
        self._port = PORT
        plug.receive = self._receive

    # --- the operator's commands --------------------------------------------------------------------

    def init(self, net: str = "home") -> None:
        """Found a network, as `meshnode init` does."""
        root = self._entropy.token(32)
        self.disk.write("root.key", root)
        config = self._make_keys()
        static = self.equipment.ciphers.public_key(config.static_secret)
        state = found_network(
            self.equipment.ciphers,
            net,
            self.name,
            config.identity_seed,
            static,
            root,
            (bytes((10, 77, 0, 0)), 16),
            self.clock.now().wall,
        )
        self.disk.write("state", pack_state(state))

    def invite(self, terms: InvitationTerms = ANYBODY, endpoints: Sequence[Endpoint] = ()) -> Token:
        """Make a token, as `meshnode invite` does on a running node: the token is shown once it is on disk."""
        assert self.node is not None
        assert self.process is not None
        reachable = endpoints or self.endpoints()
        token, ticket = self.node.invite(terms, tuple(map(str, reachable)), self.clock.now())
        self._settle()
        self.world.wait_until(lambda: ticket in self.saves, SECOND, f"{self.name} saves the invitation")
        if self.saves[ticket] is not None:
            raise DiskFull(self.saves[ticket])
        return parse_token_untrusted(token.encode())

    def revoke(self, other: str, keep: bool = False) -> None:
        """Revoke a member by name, as `meshnode revoke` does on a running node."""
        assert self.node is not None
        ticket = self.node.revoke(other, keep, self.clock.now())
        self._settle()
        self.world.wait_until(lambda: ticket in self.saves, SECOND, f"{self.name} saves the revocation")

    def join(self, token: Token, name: str | None = None) -> None:
        """Enrol with a token, then run, as `meshnode join` does. An explicit `name` must be free."""
        self.refused = None
        config = self._make_keys()
        now = self.clock.now()
        endpoints = [_parse_endpoint(text) for text in token.endpoints]
        joiner = Joiner(
            config,
            self.equipment.ciphers,
            token,
            endpoints,
            name or self.name,
            name is not None,
            self._entropy,
            now,
        )
        self._run(joiner, None)

    def start(self) -> None:
        """Run the node with what is on the disk."""
        config = self._read_keys()
        stored = self.disk.read("state")
        assert config is not None
        assert stored is not None
        now = self.clock.now()
        state = parse_state_untrusted(stored)
        node = Node(config, state, self.equipment.ciphers, self._entropy, now)
        self._run(node, node)
        self._apply_membership()
        self._tell_endpoints()

    def stop(self) -> None:
        """SIGTERM: say goodbye, save, and go."""
        if self.process is not None and self.node is not None:
            self.process.command(Goodbye())
            self.disk.write("state", pack_state(self.node.stored_state()))
        self._end("stopped")

    def crash(self) -> None:
        """kill -9, or the power goes."""
        self._end("crashed")

    def restart(self, wipe: bool = False, reboot: bool = False) -> None:
        """Crash and start again; without its disk (`wipe`) it has keys no more and only waits for a `join`."""
        self.crash()
        if reboot:
            self.clock.reboot()
        if wipe:
            self.disk.wipe()
        else:
            self.start()

    # --- what fate does -----------------------------------------------------------------------------

    def suspend(self) -> None:
        """Close the lid: nothing runs, nothing is received, the boot clock goes on."""
        self._note("fault", "suspended")
        self.power = Power.SUSPENDED

    def resume(self) -> None:
        """Open it. The edge notices the gap between its clocks and says so."""
        self._note("fault", "resumed")
        self.power = Power.ON
        if self.process is not None:
            self.process.command(LinkChanged())
            self._set_alarm()

    def move_to(self, network: Network, families: str = "46") -> None:
        """Roam to another network."""
        self.network.unplug(self.plug)
        self.network = network
        self.plug = network.plug_in(self.name, self._receive, families=families)
        self._note("fault", f"moved to {network.name}")
        self._tell_change()

    def renumber(self) -> None:
        """Get other addresses in the same network."""
        self.network.renumber(self.plug)
        self._note("fault", f"addresses are now {', '.join(self.plug.addresses)}")
        self._tell_change()

    # --- what can be seen ---------------------------------------------------------------------------

    def endpoints(self) -> list[Endpoint]:
        """The addresses of its interface with the port of the node."""
        return [Endpoint(address, PORT) for address in self.plug.addresses]

    @property
    def member(self) -> Member:
        """What its own grant says, as it knows it."""
        assert self.node is not None
        own = self.node.own
        assert own is not None
        return own

    @property
    def running(self) -> bool:
        """Whether it is a member and its node runs."""
        return self.node is not None and self.power is Power.ON

    def up(self) -> list[str]:
        """The names of the peers that it takes for up, in order."""
        assert self.node is not None
        return sorted(peer.member.label for peer in self.node.peers.values() if peer.up)

    def path_to(self, other: Host) -> Path | None:
        """The path that it uses to `other`."""
        assert self.node is not None
        peer = self.node.peers.get(other.member.peer)
        return None if peer is None or not peer.up else peer.paths.active

    # --- the inside ---------------------------------------------------------------------------------

    def _make_keys(self) -> NodeConfig:
        """The keys on the disk, made first where there are none."""
        for name in ("identity.key", "static.key"):
            if self.disk.read(name) is None:
                self.disk.write(name, self._entropy.token(32))
        config = self._read_keys()
        assert config is not None
        return config

    def _read_keys(self) -> NodeConfig | None:
        identity, static = self.disk.read("identity.key"), self.disk.read("static.key")
        if identity is None or static is None:
            return None
        return NodeConfig(identity, static, self.disk.read("root.key"), relay=self.relay)

    def _run(self, core: Node | Joiner, node: Node | None) -> None:
        self._end("replaced")
        self.saves.clear()
        equipment = self.equipment
        factory = equipment.invariants.nonces.watch(equipment.aead)
        own = node.id if node is not None else PeerId(b"")
        self.plane = Plane(PlaneConfig(own=own, relay=self.relay), self._entropy, self.clock.now(), factory)
        self.node = node
        self.process = Process(
            self.name, core, self.plane, self.clock.now, self._send, self._deliver, self._told
        )
        self._note("event", "node starts" if node is not None else "joiner starts")
        self.process.settle()
        self._set_alarm()

    def _end(self, how: str) -> None:
        if self.process is not None:
            self._note("event", how)
        self.process = self.node = self.plane = None
        self.applications.addresses = ()

    def _receive(self, packet: UdpPacket) -> None:
        if packet.destination.port != self._port or self.power is not Power.ON or self.process is None:
            self._note("lost", f"nobody listens: {describe(packet)}")
            return
        weather = self.equipment.weather
        if weather.parts(packet.origin, self.name) or weather.blocked_family == family(packet.source.host):
            self._note("lost", f"partition: {describe(packet)}")
            return
        self._note("arrive", describe(packet), data=packet.data, sender=packet.origin)
        honest = packet.origin in self.world.honest and not packet.forged
        self.equipment.invariants.addresses.arrived(self.name, packet, honest)
        self.process.receive(packet.data, Path(PathKind.UDP, packet.source), packet.ecn)
        self._set_alarm()

    def _send(self, path: Path, data: bytes, ecn: int) -> None:
        address = next((a for a in self.plug.addresses if family(a) == family(path.remote.host)), None)
        if address is None:
            self.sends_nowhere += 1
            return
        packet = UdpPacket(Endpoint(address, self._port), path.remote, data, ecn, origin=self.name)
        self.equipment.invariants.addresses.sent(self.name, packet)
        self.equipment.weather.sent[data[0]] += 1
        self._note("send", describe(packet), data=data)
        self.plug.send(packet)

    def _write_tun(self, packet: bytes) -> None:
        if self.process is not None and self.power is Power.ON:
            self.process.write_tun(packet)
            self._set_alarm()

    def _deliver(self, packet: bytes) -> None:
        # The kernel answers later, not inside the node's own call.
        self.world.at(self.world.time, partial(self.applications.deliver, packet))

    def _told(self, output: Output) -> None:
        match output:
            case SaveState():
                self._save(output)
            case MembershipChanged():
                self._apply_membership()
            case Enrolled():
                self.disk.write("state", output.state)
                self._afterwards(self.start)
            case EnrolmentRefused():
                self.refused = output.reason
                self._note("event", f"refused: {output.reason}")
                self._afterwards(partial(self._end, "gave up"))
            case PeerUp() | PeerDown():
                self._note("event", self._describe_peer(output))
            case Notice():
                self._hear(output)

    def _afterwards(self, action: Callable[[], None]) -> None:
        """When the process that runs now has finished its call, unless another one runs by then."""
        process = self.process
        self.world.at(self.world.time, lambda: action() if self.process is process else None)

    def _hear(self, notice: Notice) -> None:
        self.notices.append(notice)
        self._note("notice", f"{notice.level}: {notice.text}")
        if notice.level == "error" and not self.tolerates_errors:
            raise Broken(f"{self.name} reports an error: {notice.text}")

    def _save(self, order: SaveState) -> None:
        """Write now, be durable a little later; a crash in between loses it."""
        assert self.node is not None
        data = pack_state(self.node.stored_state())
        process = self.process

        def finish() -> None:
            if self.process is not process or process is None:
                return
            try:
                self.disk.write("state", data)
                error = None
            except DiskFull as full:
                error = str(full)
            self.saves[order.ticket] = error
            process.command(StateSaved(order.ticket, error))
            self._set_alarm()

        self.world.after(self.disk.delay, finish)

    def _apply_membership(self) -> None:
        """Give the interface the addresses of our grant."""
        own = None if self.node is None else self.node.own
        if self.plane is None or own is None:
            return
        self.plane.set_local(own.addresses, own.link_local, own.prefixes)
        self.applications.addresses = (*own.addresses, own.link_local)

    def _tell_endpoints(self) -> None:
        for endpoint in self.endpoints():
            self.equipment.invariants.addresses.vouch(endpoint)
        if self.process is not None and self.node is not None:
            self.process.command(LocalEndpoints(tuple(self.endpoints())))
            self._set_alarm()

    def _tell_change(self) -> None:
        """The edge hears from the kernel that addresses have changed."""
        self._tell_endpoints()
        if self.process is not None and self.node is not None:
            self.process.command(LinkChanged())
            self._set_alarm()

    def _settle(self) -> None:
        """After a direct call on the node."""
        assert self.process is not None
        self.process.settle()
        self._set_alarm()

    def _set_alarm(self) -> None:
        """Wake the node at its next deadline, and at no other time."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        due = self.process.deadline() if self.process is not None else None
        if due is None or self.power is not Power.ON:
            return
        self._alarm = self.world.at(self.clock.world_time(due), self._wake)

    def _wake(self) -> None:
        self._alarm = None
        if self.process is None or self.power is not Power.ON:
            return
        self.process.wake()
        due = self.process.deadline() if self.process is not None else None
        if due is not None and due <= self.clock.now().boot:
            raise Broken(f"{self.name} wants to be woken again at once")
        self._set_alarm()

    def _describe_peer(self, event: PeerUp | PeerDown) -> str:
        member = self.node.membership.members.get(event.peer) if self.node is not None else None
        who = event.peer.hex()[:8] if member is None else member.label
        return f"{who} is up" if isinstance(event, PeerUp) else f"{who} is down: {event.reason}"

    def _note(self, kind: str, text: str, *, data: bytes = b"", sender: str = "") -> None:
        if sender:
            self.world.note(sender, kind, text, to=self.name, data=data)
        else:
            self.world.note(self.name, kind, text, data=data)


def _parse_endpoint(text: str) -> Endpoint:
    host, _, port = text.rpartition(":")
    return Endpoint(host.strip("[]"), int(port))
