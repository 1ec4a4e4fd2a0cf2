"""Asking the machine's gateways to pass our port on: PCP and NAT-PMP (docs/decisions/0005-port-mapping.md).

The conversation is `mapping_client`; here are its sockets, one for each gateway and connected, so that only datagrams
from its address and port arrive. Nothing depends on a mapping: where there is none, peers punch holes or relay.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, NamedTuple

import trio
from pyroute2 import IPRoute, NetlinkError

from meshnode.edge import clock
from meshnode.edge.mapping_client import MappingClient
from meshnode.edge.netlink import lan_links, mesh_links
from meshnode.edge.pcp import GATEWAY_PORT
from meshnode.values import SECOND, BadPacket, Endpoint, Entropy, Now

MAX_GATEWAYS = 4
LONGEST_WAIT = 60.0
"""Seconds. trio's clock stops while the machine sleeps, and a mapping does not."""

RELEASE_SECONDS = 0.25
"""What a gateway gets to confirm that a mapping is deleted, twice."""

_READ_SIZE = 2048
_MAIN_TABLE = 254
_UNICAST = 1


class Gateway(NamedTuple):
    """Where to ask, and from which address of ours (empty: the kernel chooses)."""

    host: str
    source: str = ""
    port: int = GATEWAY_PORT


class PortMapping:
    """Keeps `port` mapped at every gateway. `on_endpoints` hears of every change: where the gateways pass UDP on from.

    `findings` says for each gateway what became of the last attempt, `counters` counts answers not believed. What is
    mapped is given back when `run` is cancelled. See MappingClient for `nonce_key`.
    """

    def __init__(
        self,
        port: int,
        with_tcp: bool,
        nonce_key: bytes,
        mark: int | None,
        entropy: Entropy,
        on_endpoints: Callable[[tuple[Endpoint, ...]], None],
        read_clock: Callable[[], Now] = clock.now,
        find_gateways: Callable[[], tuple[Gateway, ...]] | None = None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._port = port
        self._with_tcp = with_tcp
        self._nonce_key = nonce_key
        self._mark = mark
        self._entropy = entropy
        self._on_endpoints = on_endpoints
        self._read_clock = read_clock
        self._find_gateways = find_gateways or default_gateways
        self._changed = trio.Event()
        self._clients: dict[Gateway, MappingClient] = {}
        self._waits: dict[Gateway, trio.CancelScope] = {}
        self._told: tuple[Endpoint, ...] = ()

    @property
    def findings(self) -> dict[str, str]:
        return {gateway.host: client.finding for gateway, client in self._clients.items()}

    def refresh(self) -> None:
        """The machine's network may have changed: look for gateways, and ask them anew."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        gateways = await self._gateways()
        while True:
            async with trio.open_nursery() as nursery:
                for gateway in gateways:
                    nursery.start_soon(self._serve, gateway)
                gateways = await self._until_others(gateways)
                nursery.cancel_scope.cancel()

    async def _gateways(self) -> tuple[Gateway, ...]:
        try:
            return (await trio.to_thread.run_sync(self._find_gateways))[:MAX_GATEWAYS]
        except (OSError, NetlinkError):
            return ()

    async def _until_others(self, gateways: tuple[Gateway, ...]) -> tuple[Gateway, ...]:
        """Until there are other gateways; those that stay are asked again at every change of the network."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            found = await self._gateways()
            if found != gateways:
                return found
            for gateway, client in self._clients.items():
                client.refresh(self._read_clock().boot)
                if gateway in self._waits:
                    self._waits[gateway].cancel()

    async def _serve(self, gateway: Gateway) -> None:
        """One gateway, until cancelled."""
        try:
            channel, own = self._connect(gateway)
        except OSError:
            return  # no way there any more: that is a change, which starts all anew
        now = self._read_clock().boot
        client = MappingClient(own, self._port, self._with_tcp, self._nonce_key, self._entropy, now)
        self._clients[gateway] = client
        with channel:
            try:
                while True:
                    await self._talk(gateway, client, channel)
            finally:
                del self._clients[gateway]
                self._waits.pop(gateway, None)
                self._publish()
                with trio.CancelScope(shield=True):
                    await _release(client, channel)

    async def _talk(self, gateway: Gateway, client: MappingClient, channel: trio.socket.SocketType) -> None:
        """Send what is due, then wait for one answer or for the next thing to do."""
        now = self._read_clock().boot
        client.handle_timeout(now)
        self._publish()
        while (request := client.poll_transmit()) is not None:
            try:
                await channel.send(request)
            except OSError:
                client.handle_refused(now)
        ahead = min(max(client.poll_timeout() - now, 0) / SECOND, LONGEST_WAIT)
        with trio.move_on_after(ahead) as self._waits[gateway]:
            try:
                answer = await channel.recv(_READ_SIZE)
            except OSError:
                client.handle_refused(self._read_clock().boot)
                return
            try:
                client.handle_answer_untrusted(answer, self._read_clock().boot)
            except BadPacket as bad:
                self.counters[bad.reason] += 1
            self._publish()

    def _connect(self, gateway: Gateway) -> tuple[trio.socket.SocketType, str]:
        """A socket that hears this gateway alone, and our address on the way there. Raises OSError."""
        host, _, scope = gateway.host.partition("%")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        plain = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            if self._mark is not None:
                _try_mark(plain, self._mark)
            if gateway.source:
                plain.bind((gateway.source, 0))
            scoped = (host, gateway.port, 0, int(scope or 0))
            plain.connect(scoped if family == socket.AF_INET6 else scoped[:2])
            plain.setblocking(False)
            return trio.socket.from_stdlib_socket(plain), str(plain.getsockname()[0])
        except OSError:
            plain.close()
            raise

    def _publish(self) -> None:
        now = self._read_clock().boot
        found = [client.endpoint(now) for client in self._clients.values()]
        endpoints = tuple(dict.fromkeys(each for each in found if each is not None))
        if endpoints != self._told:
            self._told = endpoints
            self._on_endpoints(endpoints)


def default_gateways() -> tuple[Gateway, ...]:
    """The gateways of the machine's own default routes, best first; those of IPv6 with the addresses to open there."""
    with IPRoute() as kernel:
        inside = mesh_links(kernel)
        routes = [
            message
            for family in (socket.AF_INET, socket.AF_INET6)
            for message in kernel.route("dump", family=family)
            if _is_default(message) and message.get("oif") not in (None, *inside)
        ]
    routes.sort(key=lambda message: message.get("priority") or 0)
    public = _public_ipv6()
    found: list[Gateway] = []
    for route in routes:
        host, link = str(route.get("gateway")), route.get("oif")
        if ":" not in host:
            found.append(Gateway(host))
        elif link in public:
            found.append(Gateway(f"{host}%{link}" if ip_address(host).is_link_local else host, public[link]))
    return tuple(dict.fromkeys(found))


def _is_default(message: Any) -> bool:
    main = message.get("table") == _MAIN_TABLE and message["type"] == _UNICAST
    return bool(main and message["dst_len"] == 0 and message.get("gateway"))


def _public_ipv6() -> dict[int, str]:
    """For each interface the address that others reach us at."""
    return {
        link.interface: str(each.ip)
        for link in lan_links()
        for each in link.addresses
        if each.version == 6 and each.ip.is_global
    }


def _try_mark(channel: socket.socket, mark: int) -> None:
    try:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    except OSError:
        pass  # without CAP_NET_ADMIN there is no tunnel to keep out of


async def _release(client: MappingClient, channel: trio.socket.SocketType) -> None:
    """Give back what is held; nobody waits for long."""
    requests = client.release()
    for _ in range(2):
        with trio.move_on_after(RELEASE_SECONDS):
            try:
                for request in requests:
                    await channel.send(request)
                while requests:
                    await channel.recv(_READ_SIZE)
                    requests.pop()
            except OSError:
                return
