"""Keeps the kernel in line with the mesh: our addresses, and routes to the members that are up."""

from __future__ import annotations

from collections.abc import Callable

import trio

from meshnode.edge.errors import EdgeError
from meshnode.edge.netlink import Interface, Route
from meshnode.proto.node import Node


def member_routes(node: Node) -> list[Route]:
    """Device routes to the addresses of the members that are up: a route to one that is not would hide Babel's."""
    up = [peer for peer in node.peers.values() if peer.up]
    return [Route((address, 8 * len(address))) for peer in up for address in peer.member.addresses]


class RouteKeeper:
    """Runs the slow netlink calls in a thread, one at a time, always for the newest state."""

    def __init__(self, node: Node, interface: Interface, complain: Callable[[str], None]) -> None:
        self._node = node
        self._interface = interface
        self._complain = complain
        self._changed = trio.Event()

    def refresh(self) -> None:
        """Members or their state changed."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            own = self._node.own
            addresses = own.addresses if own is not None else ()
            try:
                await trio.to_thread.run_sync(self._apply, addresses, member_routes(self._node))
            except EdgeError as error:
                self._complain(str(error))

    def _apply(self, addresses: tuple[bytes, ...], routes: list[Route]) -> None:
        self._interface.replace_addresses(addresses)
        self._interface.replace_routes(routes)
