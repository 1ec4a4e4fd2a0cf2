"""What all machines of one node share: keys, settings, the clockwork, and the place for their output."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from meshnode.crypto.primitives import Ciphers
from meshnode.proto.constants import MAX_HOPS, TIMESTAMP_BLOCK, TIMESTAMP_TOLERANCE
from meshnode.proto.handshake import Secrets
from meshnode.proto.timers import TimerTable
from meshnode.values import (
    SECOND,
    Capability,
    Ecn,
    Entropy,
    Nanos,
    Notice,
    Now,
    Output,
    Path,
    PathKind,
    PeerId,
    SendFrames,
    Suite,
    Transmit,
)
from meshnode.wire.address import peer_id
from meshnode.wire.control import ControlMessage, pack_control
from meshnode.wire.frames import FrameType, Relay, pack_frame
from meshnode.wire.handshake import prologue
from meshnode.wire.header import CONTROL_TAG

ALL_CAPABILITIES = (
    Capability.ECN | Capability.PARTIAL_CHECKSUM | Capability.SEGMENT | Capability.FRAGMENT | Capability.RELAY
)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What a node is given at start. Seeds and secrets are 32 bytes and are never shown.

    `suites` are offered in this order. `relay` says whether other members may relay through us, `tun_mtu` how big inner
    packets are at most: paths are searched for what carries one. `ports` is the number of our IPv4 sockets (more than
    one with entropy = "ports").
    """

    identity_seed: bytes
    static_secret: bytes
    root_seed: bytes | None = None
    suites: tuple[Suite, ...] = (Suite.CHACHA20_POLY1305,)
    capabilities: Capability = ALL_CAPABILITIES
    relay: bool = True
    tun_mtu: int = 1380
    ports: int = 1

    def __repr__(self) -> str:
        return f"NodeConfig(suites={self.suites}, relay={self.relay})"


class Context:
    """One per node. Machines call `send`, `tell` and `count`; the node hands the output on."""

    def __init__(self, config: NodeConfig, ciphers: Ciphers, network_id: bytes, entropy: Entropy) -> None:
        self.config = config
        self.id = peer_id(ciphers.identity_key(config.identity_seed))
        self.ciphers = ciphers
        self.network_id = network_id
        self.entropy = entropy
        self.static = ciphers.public_key(config.static_secret)
        self.secrets = Secrets(ciphers, prologue(network_id), config.static_secret)
        self.timers = TimerTable()
        self.counters: Counter[str] = Counter()
        self.transmits: deque[Transmit] = deque()
        self.outputs: deque[Output] = deque()
        self.indices: dict[int, object] = {}
        self.turns: deque[tuple[PeerId, bool]] = deque()

    def transmit(self, path: Path, data: bytes) -> None:
        """Put a handshake datagram on a path; through a relay it travels inside our session with it."""
        if path.kind is not PathKind.RELAY:
            self.transmits.append(Transmit(path, data))
        elif path.via is not None and path.far is not None:
            relay = Relay(self.id, path.far, MAX_HOPS, Ecn.NOT_ECT, CONTROL_TAG, data)
            self.outputs.append(SendFrames(path.via, pack_frame(FrameType.RELAY, relay.pack())))

    def tell(self, output: Output) -> None:
        """Hand something to the edge or the data plane."""
        self.outputs.append(output)

    def notice(self, level: str, text: str) -> None:
        self.outputs.append(Notice(level, text))

    def turned(self, peer: PeerId, up: bool) -> None:
        """A peer came up or went down: the node follows at the end of the call."""
        self.turns.append((peer, up))

    def count(self, name: str, amount: int = 1) -> None:
        self.counters[name] += amount

    def send_control(
        self,
        peer: PeerId,
        message: ControlMessage,
        path: Path | None = None,
        local_index: int | None = None,
    ) -> None:
        """Send one control message to `peer`, on its active path and session unless told otherwise."""
        payload = pack_frame(FrameType.CONTROL, pack_control(message))
        self.outputs.append(SendFrames(peer, payload, path, local_index))

    def new_index(self, owner: object) -> int:
        """A random session index that belongs to `owner` until `free_index`."""
        while True:
            index = int.from_bytes(self.entropy.token(4), "big")
            if index and index not in self.indices:
                self.indices[index] = owner
                return index

    def free_index(self, index: int) -> None:
        self.indices.pop(index, None)

    def jitter(self, upper: Nanos) -> Nanos:
        """A random duration below `upper`."""
        return int.from_bytes(self.entropy.token(6), "big") * upper >> 48


class TimestampClock:
    """Our initiation timestamps: always forward, also over restarts with a clock set back.

    `promised` is what the disk says; it is kept ahead of the clock by TIMESTAMP_BLOCK. Every start begins at the
    promise of the one before, so where that is ahead already it grows only by what can be used up: a node that
    restarts all day must not run away from its clock, or others refuse it (TIMESTAMP_TOLERANCE).

    A clock that was far ahead once leaves timestamps that others refuse when it is right again; a clock that is far
    behind gives such that others have outlived. Here the two look alike, so retries take turns between both.
    """

    def __init__(self, promised: int) -> None:
        self.promised = promised
        self._last = promised
        self._by_clock = 0
        self._wall = 0

    def next(self, now: Now, tries: int = 0) -> int:
        """The timestamp of an initiation that was sent `tries` times before in vain."""
        self._wall = now.wall
        self._last = max(self._last + 1, now.wall)
        if tries % 2 == 0 or self._last - now.wall <= TIMESTAMP_TOLERANCE:
            return self._last
        self._by_clock = max(self._by_clock + 1, now.wall)
        return self._by_clock

    def must_promise(self) -> bool:
        """Whether `promised` has to be raised and saved."""
        return self._last >= self.promised

    def promise(self) -> int:
        self.promised = max(self._wall + TIMESTAMP_BLOCK, self._last + SECOND)
        return self.promised
