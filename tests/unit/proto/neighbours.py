"""A few nodes in one process and in virtual time, joined by a table of addresses instead of a network.

Each has a data plane of a dozen lines that knows keys and paths and seals nothing: what it sends carries its key, and
who does not hold the same key cannot open it. Enough to watch the core; `tests/sim` has the true plane and true faults.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from meshnode.crypto.primitives import SODIUM
from meshnode.proto.context import NodeConfig
from meshnode.proto.invitations import InvitationTerms
from meshnode.proto.joiner import Joiner
from meshnode.proto.node import Node
from meshnode.proto.registrar import found_network
from meshnode.values import (
    MILLISECOND,
    SECOND,
    AdmitPeer,
    Command,
    Ecn,
    Endpoint,
    Enrolled,
    EnrolmentRefused,
    Goodbye,
    InstallSession,
    LimitRate,
    LocalEndpoints,
    Nanos,
    Notice,
    Now,
    Opened,
    Output,
    Path,
    PathKind,
    PeerId,
    ProvePaths,
    RawFrame,
    RemovePeer,
    RetireSession,
    SaveState,
    SendFrames,
    SessionKeys,
    StateSaved,
    TrafficNote,
    Unsendable,
    UsePath,
    UseSession,
)
from meshnode.wire.frames import (
    FrameType,
    pack_frame,
    pack_transmit_time,
    parse_relay_untrusted,
    split_frames_untrusted,
)
from meshnode.wire.header import MINIMUM_DATA
from meshnode.wire.state import pack_state, parse_state_untrusted
from meshnode.wire.token import Token
from tests.unit.proto.entropy import Dice
from tests.unit.proto.people import ROOT, WALL, Person

BOOT = 1000 * SECOND
LATENCY = 10 * MILLISECOND
PORT = 4655


@dataclass(frozen=True)
class Parcel:
    """One datagram on its way: a handshake message, or sealed frames with the keys that sealed them."""

    source: Endpoint
    target: Endpoint
    data: bytes
    keys: SessionKeys | None = None
    user: bool = False
    ecn: int = Ecn.NOT_ECT
    via: Station | None = None
    """Who relays it; a relay is never seen to lose anything that the way to it does not lose."""

    @property
    def size(self) -> int:
        return len(self.data) if self.keys is None else MINIMUM_DATA + len(self.data)


@dataclass
class FakePlane:
    """What the core has told the data plane."""

    sessions: dict[int, tuple[PeerId, SessionKeys]] = field(default_factory=dict)
    using: dict[PeerId, int] = field(default_factory=dict)
    paths: dict[PeerId, Path] = field(default_factory=dict)
    proven: dict[PeerId, tuple[Path, ...]] = field(default_factory=dict)
    admitted: dict[PeerId, AdmitPeer] = field(default_factory=dict)
    counters: dict[int, int] = field(default_factory=dict)
    lost: int = 0

    def apply(self, command: Output) -> bool:
        """Whether it was a command for the data plane."""
        match command:
            case InstallSession(peer, keys):
                assert keys.local_index not in self.sessions
                self.sessions[keys.local_index] = (peer, keys)
            case UseSession(peer, index):
                assert self.sessions[index][0] == peer
                self.using[peer] = index
            case RetireSession(peer, index):
                assert self.sessions.pop(index)[0] == peer
                if self.using.get(peer) == index:
                    del self.using[peer]
            case UsePath(peer, None):
                self.paths.pop(peer, None)
            case UsePath(peer, path):
                assert path is not None
                self.paths[peer] = path
            case ProvePaths(peer, paths):
                self.proven[peer] = paths
            case AdmitPeer(peer):
                self.admitted[peer] = command
            case RemovePeer(peer):
                assert not [i for i, (owner, _) in self.sessions.items() if owner == peer]
                for table in (self.using, self.paths, self.proven, self.admitted):
                    table.pop(peer, None)
            case LimitRate():
                pass
            case _:
                return False
        return True


class Station:
    """One machine: a node or a joiner, its plane, its disk, and the address where it listens."""

    def __init__(self, street: Street, person: Person, endpoint: Endpoint, root: bool = False) -> None:
        self.street = street
        self.person = person
        self.endpoint = endpoint
        self.config = NodeConfig(person.seed, person.static_secret, ROOT.seed if root else None)
        self.core: Node | Joiner | None = None
        self.plane = FakePlane()
        self.disk = b""
        self.disk_error: str | None = None
        self.disk_delay: Nanos = 0
        self.told: list[Output] = []
        self.outcome: str | None = None
        self.wall_offset = 0
        self.starts = 0

    # --- what a person does -------------------------------------------------------------------------------------------

    @property
    def node(self) -> Node:
        assert isinstance(self.core, Node)
        return self.core

    @property
    def now(self) -> Now:
        return Now(self.street.time, WALL + self.street.time - BOOT + self.wall_offset)

    def start(self) -> None:
        """Run the node with what is on the disk, and tell it its address."""
        self._run(Node(self.config, parse_state_untrusted(self.disk), SODIUM, self._dice(), self.now))
        self.command(LocalEndpoints((self.endpoint,)))

    def join(self, token: Token, name: str | None = None, endpoints: Sequence[Endpoint] = ()) -> None:
        where = list(endpoints) or [_endpoint(text) for text in token.endpoints]
        label = name or self.person.name
        explicit = name is not None
        self._run(Joiner(self.config, SODIUM, token, where, label, explicit, self._dice(), self.now))

    def stop(self) -> None:
        self.command(Goodbye())
        self.disk = pack_state(self.node.stored_state())
        self.core = None

    def crash(self) -> None:
        self.core = None

    def invite(self, terms: InvitationTerms | None = None) -> Token:
        token, _ = self.node.invite(terms or InvitationTerms(), (str(self.endpoint),), self.now)
        self.settle()
        return token

    def command(self, command: Command) -> None:
        self.node.handle_command(command, self.now)
        self.settle()

    def frames(self, other: Station, payload: bytes) -> None:
        """Send these frames to a peer, as a member that does not keep to the rules would."""
        self._send_frames(SendFrames(other.person.id, payload))

    def talk(self, other: Station, count: int = 1) -> None:
        """User traffic to a peer."""
        peer = other.person.id
        for _ in range(count):
            if peer not in self.plane.using or peer not in self.plane.paths:
                self.node.handle_traffic([Unsendable(peer)], self.now)
            else:
                self._send_frames(SendFrames(peer, b""), user=True)
        self.settle()

    # --- what can be seen ---------------------------------------------------------------------------------------------

    def up(self) -> list[str]:
        """The labels of the peers that are up."""
        return sorted(p.member.label for p in self.node.peers.values() if p.up)

    def events(self, kind: type[Output]) -> list[Output]:
        return [output for output in self.told if isinstance(output, kind)]

    def notices(self) -> list[str]:
        return [output.text for output in self.told if isinstance(output, Notice)]

    def path_to(self, other: Station) -> Path | None:
        return self.plane.paths.get(other.person.id)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _dice(self) -> Dice:
        self.starts += 1
        return Dice(f"{self.person.name} {self.starts} {self.street.name}")

    def _run(self, core: Node | Joiner) -> None:
        self.core = core
        self.plane = FakePlane()
        self.settle()

    def receive(self, parcel: Parcel) -> None:
        core = self.core
        if core is None:
            return
        path = Path(PathKind.UDP, parcel.source)
        if parcel.via is not None:
            far = self.street.stations[parcel.source].person.id
            path = Path(PathKind.RELAY, via=parcel.via.person.id, far=far)
        if parcel.keys is None:
            core.handle_datagram(parcel.data, path, self.now)
        else:
            held = self.plane.sessions.get(parcel.keys.remote_index)
            if held is None or held[1].receive_key != parcel.keys.send_key:
                self.plane.lost += 1
                return
            peer, keys = held
            _, frames = split_frames_untrusted(pack_transmit_time(0) + parcel.data)
            frames = [frame for frame in frames if not self._forward(frame)]
            if frames:
                opened = Opened(
                    peer, keys.local_index, path, self.now.boot, parcel.ecn, parcel.size, tuple(frames)
                )
                core.handle_frames(opened, self.now)
            note = TrafficNote(peer, keys.local_index, path, received=1, received_bytes=parcel.size)
            core.handle_traffic([replace(note, received_data=int(parcel.user))], self.now)
        self.settle()

    def _forward(self, frame: RawFrame) -> bool:
        """Pass on a relayed handshake datagram that is for another, as the data plane does."""
        if frame.type != FrameType.RELAY or parse_relay_untrusted(frame.body).destination == self.person.id:
            return False
        destination = parse_relay_untrusted(frame.body).destination
        self._send_frames(SendFrames(destination, pack_frame(FrameType.RELAY, frame.body)))
        return True

    def settle(self) -> None:
        core = self.core
        while core is not None and core is self.core:
            transmit, output = core.poll_transmit(), core.poll_event()
            if transmit is None and output is None:
                return
            if transmit is not None:
                self.street.post(Parcel(self.endpoint, transmit.path.remote, transmit.data))
            if isinstance(output, SendFrames):
                self._send_frames(output)
            elif output is not None and not self.plane.apply(output):
                self._told(output)

    def _send_frames(self, order: SendFrames, user: bool = False) -> None:
        index = order.local_index if order.local_index is not None else self.plane.using.get(order.peer)
        path = order.path or self.plane.paths.get(order.peer)
        if index not in self.plane.sessions or path is None or self.core is None:
            self.plane.lost += 1
            return
        assert index is not None
        keys = self.plane.sessions[index][1]
        target, via = path.remote, None
        if path.kind is PathKind.RELAY:
            via = self.street.of(path.via)
            target = self.street.of(path.far).endpoint
        parcel = Parcel(self.endpoint, target, order.payload, keys, user, order.ecn, via)
        self.street.post(parcel)
        counter = self.plane.counters[index] = self.plane.counters.get(index, 0) + 1
        note = TrafficNote(order.peer, index, path, sent=1, sent_data=int(user), sent_bytes=parcel.size)
        self.core.handle_traffic([replace(note, highest_sent=counter)], self.now)

    def _told(self, output: Output) -> None:
        self.told.append(output)
        if isinstance(output, SaveState):
            self._save(output.ticket)
        elif isinstance(output, Enrolled):
            self.outcome, self.disk = "enrolled", output.state
            self.street.later(0, self.start)
        elif isinstance(output, EnrolmentRefused):
            self.outcome = output.reason

    def _save(self, ticket: int) -> None:
        core, data = self.core, pack_state(self.node.stored_state())

        def finish() -> None:
            if self.core is core:
                if self.disk_error is None:
                    self.disk = data
                self.command(StateSaved(ticket, self.disk_error))

        self.street.later(self.disk_delay, finish)


class Street:
    """Virtual time, and the addresses of everybody."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.time: Nanos = BOOT
        self.stations: dict[Endpoint, Station] = {}
        self.parcels: list[Parcel] = []
        """All that was ever sent."""
        self.drops: Callable[[Parcel], bool] = lambda parcel: False
        self._agenda: list[tuple[Nanos, int, Callable[[], None]]] = []
        self._planned = 0

    # --- setting up ---------------------------------------------------------------------------------------------------

    def station(self, name: str, root: bool = False) -> Station:
        endpoint = Endpoint(f"192.0.2.{len(self.stations) + 1}", PORT)
        station = Station(self, Person(name), endpoint, root)
        self.stations[endpoint] = station
        return station

    def found(self, name: str = "ann") -> Station:
        """The first node of a network, which holds the root's key."""
        station = self.station(name, root=True)
        person = station.person
        prefix = (bytes((10, 77, 0, 0)), 16)
        state = found_network(
            SODIUM, "home", name, person.seed, person.static, ROOT.seed, prefix, station.now.wall
        )
        station.disk = pack_state(state)
        station.start()
        return station

    def enrol(self, name: str, inviter: Station, terms: InvitationTerms | None = None) -> Station:
        station = self.station(name)
        station.join(inviter.invite(terms))
        self.run_until(lambda: isinstance(station.core, Node), 30 * SECOND)
        return station

    def grow(self, *names: str) -> list[Station]:
        """Members, all up with each other; the first is the founder."""
        founder = self.found(names[0])
        stations = [founder, *(self.enrol(name, founder) for name in names[1:])]
        self.run_until(lambda: all(len(s.up()) == len(stations) - 1 for s in stations), 30 * SECOND)
        return stations

    def of(self, peer: PeerId | None) -> Station:
        """Where somebody lives."""
        return next(s for s in self.stations.values() if s.person.id == peer)

    # --- time ---------------------------------------------------------------------------------------------------------

    def later(self, delay: Nanos, action: Callable[[], None]) -> None:
        self._planned += 1
        self._agenda.append((self.time + delay, self._planned, action))

    def post(self, parcel: Parcel) -> None:
        self.parcels.append(parcel)
        target = self.stations.get(parcel.target)
        if target is None or self.drops(parcel):
            return
        if parcel.via is None:
            self.later(LATENCY, lambda: target.receive(parcel))
        elif parcel.via.core is not None:
            self.later(2 * LATENCY, lambda: target.receive(parcel))

    def run(self, duration: Nanos) -> None:
        end = self.time + duration
        self.run_until(lambda: False, duration, expected=False)
        self.time = end

    def run_until(self, condition: Callable[[], bool], within: Nanos, expected: bool = True) -> None:
        end = self.time + within
        while not condition():
            due = self._next()
            if due > end:
                assert not expected, "it did not happen"
                return
            self.time = max(self.time, due)
            self._step()

    def _next(self) -> Nanos:
        times = [when for when, _, _ in self._agenda]
        for station in self.stations.values():
            deadline = station.core.poll_timeout() if station.core is not None else None
            if deadline is not None:
                times.append(deadline[0])
        return min(times, default=1 << 62)

    def _step(self) -> None:
        """Serve whatever is due now, deadlines first."""
        for station in list(self.stations.values()):
            core = station.core
            deadline = core.poll_timeout() if core is not None else None
            if core is not None and deadline is not None and deadline[0] <= self.time:
                core.handle_timeout(station.now)
                after = core.poll_timeout()
                assert after is None or after[0] > self.time, after
                station.settle()
        due = sorted(entry for entry in self._agenda if entry[0] <= self.time)
        self._agenda = [entry for entry in self._agenda if entry[0] > self.time]
        for _, _, action in due:
            action()


def _endpoint(text: str) -> Endpoint:
    host, _, port = text.rpartition(":")
    return Endpoint(host, int(port))
