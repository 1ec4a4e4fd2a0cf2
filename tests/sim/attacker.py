"""Who wishes the mesh ill, with the powers that a threat model gives: to send anything from any address, to
listen, and on some lines to drop, delay and change. Never to know a key, unless a test hands one over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from meshnode.values import Endpoint, Nanos
from tests.sim.link import WIRE_SPEED, UdpPacket
from tests.sim.network import Internet, Plug


@dataclass(slots=True)
class Attacker:
    """Sits on the internet. `received` is what was sent to its own address; `overheard` what its taps saw."""

    internet: Internet
    name: str = "mallory"
    received: list[UdpPacket] = field(default_factory=list)
    overheard: list[UdpPacket] = field(default_factory=list)
    plug: Plug = field(init=False)

    def __post_init__(self) -> None:
        self.plug = self.internet.plug_in(self.name, self.received.append, WIRE_SPEED, WIRE_SPEED)

    def endpoint(self, family: int = 4, port: int = 4655) -> Endpoint:
        """One of our own addresses, at which answers arrive."""
        return Endpoint(next(a for a in self.plug.addresses if (":" in a) == (family == 6)), port)

    def send(self, data: bytes, to: Endpoint, source: Endpoint | None = None) -> None:
        """Send `data` to `to`; from `source`, which need not be ours (no network here filters that)."""
        if source is None:
            source = self.endpoint(6 if ":" in to.host else 4)
        self.plug.send(UdpPacket(source, to, data, origin=self.name, forged=True))

    def tap(self, plug: Plug) -> None:
        """Listen to all that passes `plug`, both ways."""
        self.hold(plug, lambda packet: (packet,))

    def hold(self, plug: Plug, decide: Callable[[UdpPacket], Iterable[UdpPacket]]) -> None:
        """Be on the path of `plug`: `decide` says what goes on instead of each honest packet."""

        def on_path(packet: UdpPacket) -> Iterable[UdpPacket]:
            if packet.origin == self.name:
                return (packet,)
            self.overheard.append(packet)
            return decide(packet)

        plug.on_path = on_path

    def release(self, plug: Plug) -> None:
        """Leave the line alone."""
        plug.on_path = None

    def replay(self, packets: Iterable[UdpPacket], gap: Nanos = 1_000_000) -> None:
        """Send overheard packets again as they were, one every `gap`."""
        world = self.internet.world
        for number, packet in enumerate(packets):
            copy = packet._replace(origin=self.name)
            world.after(number * gap, partial(self.plug.send, copy))
