"""How big everything is that a node remembers: the length of every table, by the way one gets to it.

Tables are found by walking the objects, so one that somebody adds tomorrow is watched, too.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

from meshnode.proto.constants import CANDIDATES_PER_PEER, JOINERS_AT_ONCE, SESSIONS_PER_PEER
from tests.sim.host import Host
from tests.sim.invariants import Broken

_TABLES = (dict, list, set, frozenset, tuple, deque)
_FIXED = {
    "Node._guard._unverified._buckets": 4096,
    "Node._guard._verified._buckets": 4096,
    "Plane._opener.opened": 4096,
}
"""Tables with a bound of their own that has nothing to do with how many members there are."""


def footprint(host: Host) -> Counter[str]:
    """Entries of all tables of a host's core and data plane, by name; things in tables share one: `peers[].paths`."""
    sizes: Counter[str] = Counter()
    seen: set[int] = set()
    assert host.node is not None
    assert host.plane is not None
    waiting: deque[tuple[str, object]] = deque([("Node", host.node), ("Plane", host.plane)])
    while waiting:
        name, thing = waiting.popleft()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, _TABLES):
            sizes[name] += len(thing)
            values = thing.values() if isinstance(thing, dict) else thing
            waiting.extend((f"{name}[]", value) for value in values if _is_ours(value))
        else:
            waiting.extend((f"{name}.{field}", value) for field, value in _fields(thing) if _is_ours(value))
    return sizes


def check_bounds(host: Host) -> None:
    """Raise Broken if a table is longer than the members and joiners that there can be account for."""
    assert host.node is not None
    members = len(host.node.membership.members) + 1
    per_peer = CANDIDATES_PER_PEER * 4 + SESSIONS_PER_PEER * 4 + 64
    bound = (members + JOINERS_AT_ONCE) * per_peer
    for name, size in footprint(host).items():
        if size > max(bound, _FIXED.get(name, 0)):
            raise Broken(f"{host.name} remembers too much: {name} has {size} entries")


def _is_ours(value: object) -> bool:
    return isinstance(value, _TABLES) or type(value).__module__.startswith("meshnode.")


def _fields(thing: object) -> Iterator[tuple[str, object]]:
    yield from getattr(thing, "__dict__", {}).items()
    for kind in type(thing).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if hasattr(thing, slot):
                yield slot, getattr(thing, slot)
