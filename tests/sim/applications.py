"""What runs above a node's TUN: a kernel that answers pings, and programs that ping and send UDP messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from meshnode.values import Nanos
from tests.sim import inner
from tests.sim.invariants import InnerLedger
from tests.sim.world import World


@dataclass(slots=True)
class Ping:
    """One echo request; `rtt` is None until it is answered."""

    sent: Nanos
    rtt: Nanos | None = None

    @property
    def answered(self) -> bool:
        return self.rtt is not None


class Applications:
    """The inner side of one host. `addresses` are those of its TUN, link-local included; `inject` writes to
    it."""

    def __init__(self, name: str, world: World, ledger: InnerLedger, inject: Callable[[bytes], None]) -> None:
        self.name = name
        self.addresses: tuple[bytes, ...] = ()
        self.inbox: list[inner.Inner] = []
        self.other: list[inner.Inner] = []
        self.too_big: list[inner.Inner] = []
        self._world = world
        self._ledger = ledger
        self._inject = inject
        self._pings: dict[tuple[int, int], Ping] = {}

    def source_for(self, destination: bytes) -> bytes:
        """Our own address to talk to `destination` from: same family, link-local to link-local."""
        local = destination[:2] in (b"\xfe\x80", b"\xff\x02")
        for address in self.addresses:
            if len(address) == len(destination) and (address[:2] == b"\xfe\x80") == local:
                return address
        raise LookupError(f"{self.name} has no address to reach {destination.hex()} from")

    def ping(self, destination: bytes, size: int = 56) -> Ping:
        """Send an echo request with `size` bytes of payload."""
        number = self._ledger.number(self.name)
        key = (number >> 16 & 0xFFFF, number & 0xFFFF)
        ping = self._pings[key] = Ping(self._world.time)
        self.put(inner.echo_request(self.source_for(destination), destination, *key, bytes(size)))
        return ping

    def send(
        self, destination: bytes, data: bytes, ports: tuple[int, int] = (7000, 7000), ecn: int = 0
    ) -> None:
        """Send a UDP message; a number in front of `data` makes it different from all others."""
        stamp = self._ledger.number(self.name).to_bytes(8, "big")
        self.put(inner.udp(self.source_for(destination), destination, ports, stamp + data, ecn))

    def put(self, packet: bytes) -> None:
        """Write any inner packet to the TUN."""
        self._ledger.sent(self.name, packet)
        self._inject(packet)

    def messages(self) -> list[bytes]:
        """What the UDP messages in the inbox say, without their numbers."""
        return [packet.body[16:] for packet in self.inbox]

    def deliver(self, packet: bytes) -> None:
        """The node gives us an inner packet."""
        parts = inner.parse(packet)
        if inner.is_too_big(parts):
            # Only our own node says so to us: it is no packet of another host.
            self.too_big.append(parts)
            return
        self._ledger.arrived(self.name, packet)
        if parts.destination not in self.addresses and parts.destination[0] not in (0xFF, 0xE0):
            self.other.append(parts)
        elif (answered := inner.echo_answered(parts)) is not None:
            ping = self._pings.get(answered)
            if ping is not None and ping.rtt is None:
                ping.rtt = self._world.time - ping.sent
        elif (reply := inner.echo_reply(parts)) is not None:
            self.put(reply)
        else:
            self.inbox.append(parts)
