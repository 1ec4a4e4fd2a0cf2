"""Port mapping over loopback: a gateway that works, one that is not there, several, and what others send."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from meshnode.edge import port_mapping
from meshnode.edge.entropy import SystemEntropy
from meshnode.edge.port_mapping import MAX_GATEWAYS, PortMapping, default_gateways
from meshnode.values import Endpoint
from tests.unit.edge import gateway as fake
from tests.unit.edge.gateway import EXTERNAL

HERE = Endpoint(EXTERNAL, 4655)


@dataclass
class Server:
    """A gateway that listens on loopback. It can also send, from its own port or from another."""

    behaviour: fake.Gateway
    socket: trio.socket.SocketType
    clients: list[tuple[str, int]] = field(default_factory=list)

    @property
    def place(self) -> port_mapping.Gateway:
        host, port = self.socket.getsockname()
        return port_mapping.Gateway(host, "", port)

    async def run(self) -> None:
        while True:
            request, client = await self.socket.recvfrom(2048)
            self.clients.append(client)
            answer = self.behaviour.answer(request)
            if answer:
                await self.socket.sendto(b"\1garbage", client)
                await self.socket.sendto(answer, client)


class Setting:
    """Port mapping in a nursery, with gateways that the test may change."""

    def __init__(self) -> None:
        self.gateways: tuple[port_mapping.Gateway, ...] = ()
        self.told: list[tuple[Endpoint, ...]] = []
        self.mapping = PortMapping(
            4655,
            True,
            bytes(32),
            None,
            SystemEntropy(),
            self.told.append,
            find_gateways=lambda: self.gateways,
        )

    def change(self, *gateways: port_mapping.Gateway) -> None:
        self.gateways = gateways
        self.mapping.refresh()


async def until(done: Callable[[], object]) -> None:
    with trio.fail_after(10):
        while not done():  # noqa: ASYNC110, for it may be anything
            await trio.sleep(0.002)


@asynccontextmanager
async def served(*behaviours: fake.Gateway) -> AsyncIterator[list[Server]]:
    async with trio.open_nursery() as nursery:
        servers = []
        for behaviour in behaviours:
            listening = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            await listening.bind(("127.0.0.1", 0))
            servers.append(Server(behaviour, listening))
            nursery.start_soon(servers[-1].run)
        yield servers
        nursery.cancel_scope.cancel()
    for server in servers:
        server.socket.close()


@asynccontextmanager
async def mapping(*gateways: port_mapping.Gateway) -> AsyncIterator[Setting]:
    setting = Setting()
    setting.gateways = gateways
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting.mapping.run)
        yield setting
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("pcp", [True, False], ids=["pcp", "nat-pmp"])
def test_a_port_is_mapped_told_and_given_back(pcp: bool) -> None:
    async def main() -> None:
        async with served(fake.Gateway(pcp=pcp)) as (server,):
            async with mapping(server.place) as setting:
                await until(lambda: len(server.behaviour.mappings) == 2)
                await until(lambda: setting.told)
                assert setting.told == [(HERE,)]
                assert setting.mapping.counters["mapping version"] >= 2
                name = "PCP" if pcp else "NAT-PMP"
                await until(lambda: setting.mapping.findings == {"127.0.0.1": f"{name} maps {HERE}"})
            assert server.behaviour.mappings == {}
            assert setting.told == [(HERE,), ()]
            assert setting.mapping.findings == {}

    trio.run(main)


def test_where_nobody_listens_it_says_so_and_waits() -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
            closed.bind(("127.0.0.1", 0))
            place = port_mapping.Gateway("127.0.0.1", "", closed.getsockname()[1])
        async with mapping(place) as setting:
            await until(lambda: setting.mapping.findings == {"127.0.0.1": "it maps no ports"})
        assert setting.told == []

    trio.run(main)


def test_only_the_gateway_itself_is_heard() -> None:
    """The right answer, from the right host, but from another port."""

    async def main() -> None:
        behaviour = fake.Gateway()
        silent = fake.Gateway(pcp=False, nat_pmp=False)
        async with served(silent) as (server,), mapping(server.place) as setting:
            await until(lambda: server.clients)
            forged = behaviour.answer(silent.heard[0])
            assert forged is not None
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.bind(("127.0.0.1", 0))
                other.sendto(forged, server.clients[0])
            await server.socket.sendto(b"\1a word from the right one", server.clients[0])
            await until(lambda: setting.mapping.counters)
            assert setting.mapping.counters == {"mapping version": 1}
            assert setting.told == []
            await server.socket.sendto(forged, server.clients[0])
            await until(lambda: setting.told)

    trio.run(main)


def test_when_the_network_changes_gateways_are_asked_anew() -> None:
    async def main() -> None:
        async with served(fake.Gateway(), fake.Gateway(external="198.51.100.9")) as (first, second):
            async with mapping(first.place) as setting:
                await until(lambda: setting.told)
                await until(lambda: len(first.behaviour.mappings) == 2)
                asked = len(first.behaviour.heard)
                setting.change(first.place)
                await until(lambda: len(first.behaviour.heard) >= asked + 2)
                setting.change(second.place)
                await until(lambda: setting.told[-1] == (Endpoint("198.51.100.9", 4655),))
                assert first.behaviour.mappings == {}
                setting.change()
                await until(lambda: setting.told[-1] == ())
            assert second.behaviour.mappings == {}

    trio.run(main)


def test_there_may_be_several_gateways_but_not_any_number() -> None:
    async def main() -> None:
        gateways = [fake.Gateway(external=f"198.51.100.{number}") for number in range(1, MAX_GATEWAYS + 3)]
        async with served(*gateways) as servers, mapping(*(server.place for server in servers)) as setting:
            await until(lambda: setting.told and len(setting.told[-1]) == MAX_GATEWAYS)
        assert [bool(gateway.heard) for gateway in gateways] == [True] * MAX_GATEWAYS + [False] * 2

    trio.run(main)


def test_a_gateway_to_which_there_is_no_way() -> None:
    async def main() -> None:
        async with served(fake.Gateway()) as (server,):
            nowhere = port_mapping.Gateway("127.0.0.1", "198.51.100.1")
            async with mapping(nowhere, server.place) as setting:
                await until(lambda: setting.told)
                assert setting.told == [(HERE,)]

    trio.run(main)


def test_netlink_that_fails_is_no_gateway() -> None:
    def fail() -> tuple[port_mapping.Gateway, ...]:
        raise OSError(1, "not allowed")

    async def main() -> None:
        setting = Setting()
        setting.mapping._find_gateways = fail
        with trio.move_on_after(0.05):
            await setting.mapping.run()
        assert setting.told == []

    trio.run(main)


def test_the_gateways_of_this_machine_are_numeric() -> None:
    for each in default_gateways():
        family = socket.AF_INET6 if ":" in each.host else socket.AF_INET
        socket.inet_pton(family, each.host.partition("%")[0])
        assert each.port == 5351
