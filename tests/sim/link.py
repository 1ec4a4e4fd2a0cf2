"""One direction of a link: a value that says what it does to packets, and the pipe that does it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

from meshnode.values import MILLISECOND, SECOND, Endpoint, Nanos


class UdpPacket(NamedTuple):
    """A UDP datagram on its way. `origin` is who really sent it: the world knows, nobody in it may look.

    `forged` marks what an attacker made or touched.
    """

    source: Endpoint
    destination: Endpoint
    data: bytes
    ecn: int = 0
    origin: str = ""
    forged: bool = False

    @property
    def size(self) -> int:
        """Bytes on the wire from the IP header on."""
        return len(self.data) + (48 if ":" in self.destination.host else 28)


@dataclass(frozen=True, slots=True)
class Link:
    """What one direction does. Fractions are of packets; `rate` is in bits per second, behind a FIFO of
    `backlog` time.

    `corruption` flips one bit and lets the packet through, as if the UDP checksum had been off. A packet
    longer than `mtu` vanishes, unless `tells_too_big`: then the sender gets EMSGSIZE (only meant for a host's
    own interface).
    """

    latency: Nanos = 5 * MILLISECOND
    jitter: Nanos = 0
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    corruption: float = 0.0
    mtu: int = 1500
    tells_too_big: bool = False
    rate: int | None = None
    backlog: Nanos = 1 * SECOND


WIRE_SPEED = Link(latency=0, mtu=65_535)
"""A line that does nothing at all to packets."""


class Pipe:
    """Carries packets over a `Link`. Replace `link` at any time to change the weather."""

    def __init__(self, link: Link, dice: random.Random) -> None:
        self.link = link
        self._dice = dice
        self._free_at: Nanos = 0
        self._last_arrival: Nanos = 0

    def carry(self, packet: UdpPacket, time: Nanos) -> list[tuple[Nanos, UdpPacket]]:
        """When and as what `packet`, entering at `time`, comes out: nothing, once, or twice."""
        link = self.link
        if packet.size > link.mtu or self._happens(link.loss):
            return []
        leaves = self._serialise(packet, time)
        if leaves is None:
            return []
        if self._happens(link.corruption):
            packet = self._flip(packet)
        arrivals = [(self._arrival(leaves), packet)]
        if self._happens(link.duplication):
            arrivals.append((self._arrival(leaves), packet))
        return arrivals

    def _happens(self, chance: float) -> bool:
        return chance > 0 and self._dice.random() < chance

    def _serialise(self, packet: UdpPacket, time: Nanos) -> Nanos | None:
        """When the last bit is on the line, or None if the FIFO is full."""
        if self.link.rate is None:
            return time
        begins = max(time, self._free_at)
        if begins - time > self.link.backlog:
            return None
        self._free_at = begins + packet.size * 8 * SECOND // self.link.rate
        return self._free_at

    def _arrival(self, leaves: Nanos) -> Nanos:
        """Jitter keeps the order, as a FIFO's does; only `reordering` lets a packet be overtaken."""
        link = self.link
        arrival = leaves + link.latency
        if link.jitter:
            arrival += self._dice.randrange(link.jitter)
        if self._happens(link.reordering):
            return arrival + self._dice.randrange(1, max(2, link.latency * 2))
        self._last_arrival = max(arrival, self._last_arrival)
        return self._last_arrival

    def _flip(self, packet: UdpPacket) -> UdpPacket:
        if not packet.data:
            return packet
        bit = self._dice.randrange(len(packet.data) * 8)
        spoiled = bytearray(packet.data)
        spoiled[bit // 8] ^= 1 << bit % 8
        return packet._replace(data=bytes(spoiled), forged=True)
