"""What changes in the kernel's network configuration, from a netlink socket of our own."""

from __future__ import annotations

from enum import Flag, auto


class Change(Flag):
    """What changed since the last drain. `Change(0)` is false: nothing.

    OURS is whatever happened on our own interface (Babel's routes, our own): next hops may be other ones, but the
    machine's way to its peers is as it was. The other kinds are about the rest of the machine.
    """

    LINK = auto()
    ADDRESS = auto()
    ROUTE = auto()
    RULE = auto()
    OURS = auto()


EVERYTHING = Change.LINK | Change.ADDRESS | Change.ROUTE | Change.RULE | Change.OURS


class NetworkMonitor:
    """A non-blocking netlink socket. `own` are the indexes of our interfaces."""

    def __init__(self, own: frozenset[int]) -> None:
        raise NotImplementedError

    def fileno(self) -> int:
        raise NotImplementedError

    def drain(self) -> Change:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
