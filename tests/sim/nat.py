"""A NAT as a value: `NatKind` says how it behaves (in terms of RFC 4787), `Nat` is the table that does so.

A mapping joins one inside endpoint to one outside port. How many mappings an inside endpoint gets is the
mapping behaviour (section 4.1); who may send to a mapping is the filtering behaviour (section 5).
`Dependence` is the scale of both.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import IntEnum

from meshnode.values import SECOND, Endpoint, Nanos

_FIRST_PORT = 1024
_PORTS = 65_536 - _FIRST_PORT


class Dependence(IntEnum):
    """On how much of the remote endpoint a behaviour depends. Greater is harder to traverse."""

    INDEPENDENT = 0
    ADDRESS = 1
    ADDRESS_AND_PORT = 2

    def part(self, remote: Endpoint) -> tuple[str | int, ...]:
        """As much of `remote` as matters."""
        if self is Dependence.INDEPENDENT:
            return ()
        return (remote.host,) if self is Dependence.ADDRESS else (remote.host, remote.port)


@dataclass(frozen=True, slots=True)
class NatKind:
    """How a NAT behaves: mapping and filtering, and for how long a mapping that nobody uses lives.

    `inbound_refreshes`: packets from outside keep a mapping alive, too (RFC 4787 REQ-6 allows both).
    `hairpin`: two inside hosts may meet at the NAT's outside address (REQ-9).
    `preserves_ports`: the outside port equals the inside port where that is free (section 4.2.1).
    """

    mapping: Dependence = Dependence.INDEPENDENT
    filtering: Dependence = Dependence.ADDRESS_AND_PORT
    expiry: Nanos = 120 * SECOND
    inbound_refreshes: bool = True
    hairpin: bool = False
    preserves_ports: bool = True


FULL_CONE = NatKind(filtering=Dependence.INDEPENDENT)
RESTRICTED_CONE = NatKind(filtering=Dependence.ADDRESS)
PORT_RESTRICTED = NatKind()
"""What Linux masquerade is."""
SYMMETRIC = NatKind(mapping=Dependence.ADDRESS_AND_PORT, preserves_ports=False)
"""What Linux masquerade with `fully-random` is."""


@dataclass(slots=True)
class _Mapping:
    inside: Endpoint
    port: int
    key: tuple[Endpoint, tuple[str | int, ...]]
    used: Nanos
    contacts: dict[tuple[str | int, ...], Nanos] = field(default_factory=dict)


class Nat:
    """The table of one NAT with the outside address `address`."""

    def __init__(self, kind: NatKind, address: str, dice: random.Random) -> None:
        self.kind = kind
        self.address = address
        self._dice = dice
        self._by_inside: dict[tuple[Endpoint, tuple[str | int, ...]], _Mapping] = {}
        self._by_port: dict[int, _Mapping] = {}

    def __len__(self) -> int:
        return len(self._by_port)

    def outbound(self, inside: Endpoint, remote: Endpoint, now: Nanos) -> Endpoint:
        """The outside endpoint from which a packet from `inside` to `remote` goes on."""
        key = (inside, self.kind.mapping.part(remote))
        mapping = self._by_inside.get(key)
        if mapping is None or self._is_stale(mapping, now):
            self._forget(mapping)
            mapping = self._open(key, now)
        mapping.used = now
        mapping.contacts[self.kind.filtering.part(remote)] = now
        return Endpoint(self.address, mapping.port)

    def inbound(self, port: int, remote: Endpoint, now: Nanos) -> Endpoint | None:
        """The inside endpoint that gets a packet from `remote` to our `port`, or None: dropped."""
        mapping = self._by_port.get(port)
        if mapping is None:
            return None
        if self._is_stale(mapping, now):
            self._forget(mapping)
            return None
        part = self.kind.filtering.part(remote)
        contact = mapping.contacts.get(part)
        if contact is None or now - contact > self.kind.expiry:
            return None
        if self.kind.inbound_refreshes:
            mapping.used = now
            mapping.contacts[part] = now
        return mapping.inside

    def flush(self) -> None:
        """Forget everything, as after a reboot."""
        self._by_inside.clear()
        self._by_port.clear()

    def move(self, address: str) -> None:
        """The provider gave us another address: mappings made with the old one are void."""
        self.flush()
        self.address = address

    def _is_stale(self, mapping: _Mapping, now: Nanos) -> bool:
        return now - mapping.used > self.kind.expiry

    def _open(self, key: tuple[Endpoint, tuple[str | int, ...]], now: Nanos) -> _Mapping:
        inside = key[0]
        wanted = inside.port if self.kind.preserves_ports else self._some_port()
        while (holder := self._by_port.get(wanted)) is not None and not self._is_stale(holder, now):
            wanted = self._some_port()
        self._forget(holder)
        mapping = _Mapping(inside, wanted, key, now)
        self._by_inside[key] = mapping
        self._by_port[wanted] = mapping
        return mapping

    def _some_port(self) -> int:
        return _FIRST_PORT + self._dice.randrange(_PORTS)

    def _forget(self, mapping: _Mapping | None) -> None:
        if mapping is not None:
            self._by_inside.pop(mapping.key, None)
            self._by_port.pop(mapping.port, None)
