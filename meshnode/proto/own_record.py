"""Our own record: where we can be reached, signed by ourselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from meshnode.proto.membership import Membership
from meshnode.proto.paths import usable_endpoint
from meshnode.values import Endpoint, Now, PeerId
from meshnode.wire.header import VERSION
from meshnode.wire.statement import MAX_ENDPOINTS, Record

OBSERVED_IN_RECORD = 4
"""Reflexive endpoints worth telling: a NAT that gives each peer another would fill the record with noise."""


class OwnRecord:
    """Collects our endpoints: local ones in the order given, then what most peers see us as."""

    def __init__(self, membership: Membership, own: PeerId, identity_seed: bytes, relay: bool) -> None:
        self._membership = membership
        self._own = own
        self._seed = identity_seed
        self._relay = relay
        self._local: tuple[Endpoint, ...] = ()
        self._observed: tuple[Endpoint, ...] = ()

    def endpoints(self) -> tuple[Endpoint, ...]:
        """At most 16, best first, without repetitions."""
        return tuple(dict.fromkeys((*self._local, *self._observed)))[:MAX_ENDPOINTS]

    def set_local(self, endpoints: Iterable[Endpoint]) -> bool:
        """What our machine knows of itself; True when the record has to be signed anew."""
        before = self.endpoints()
        self._local = tuple(e for e in endpoints if usable_endpoint(*e) and "%" not in e.host)
        return self.endpoints() != before

    def set_observed(self, seen: Iterable[Endpoint]) -> bool:
        """How peers see us; True when the record has to be signed anew."""
        before = self.endpoints()
        local = set(self._local)
        counted = Counter(e for e in seen if e not in local and usable_endpoint(*e))
        ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
        self._observed = tuple(endpoint for endpoint, _ in ranked[:OBSERVED_IN_RECORD])
        return self.endpoints() != before

    def sign(self, now: Now) -> bytes:
        """The record as of now, newer than any before it."""
        held = self._membership.record(self._own)
        sequence = max(now.wall, held.sequence + 1 if held is not None else 0)
        record = Record(
            sequence=sequence, relays=self._relay, versions=(VERSION,), endpoints=self.endpoints()
        )
        return self._membership.sign(record, self._seed)
