"""LAN discovery without a LAN: what it does when nothing works, and with records that come too early."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_interface
from itertools import count
from typing import Any

import pytest
import trio

from meshnode.edge import mdns
from meshnode.edge.entropy import SystemEntropy
from meshnode.edge.lan_hints import DAY, Found, service_txt
from meshnode.edge.mdns import LanDiscovery, Responder
from meshnode.edge.netlink import LanLink
from meshnode.values import Endpoint, Hint, Now, PeerId

NETWORK = bytes(range(32))
OWN, PEER = PeerId(b"o" * 16), PeerId(b"p" * 16)
LINKS = (LanLink(7, (ip_interface("192.168.1.5/24"),)),)
WALL = 19_000 * DAY
TXT = {key.encode(): value for key, value in service_txt(NETWORK, PEER, 4655, WALL).items()}
RECORD = Found(TXT, 4655, ("192.168.1.9",))


class World:
    """A discovery whose links, responder and hints are in the test's hands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.links: tuple[LanLink, ...] | OSError = LINKS
        self.wall = WALL
        self.hints: list[Hint] = []
        self.lines: list[str] = []
        self.responders: list[Any] = []
        self.discovery = LanDiscovery(
            NETWORK,
            OWN,
            4655,
            SystemEntropy(),
            self.hints.append,
            lambda level, line: self.lines.append(f"{level}: {line}"),
            lambda: Now(0, self.wall),
        )
        monkeypatch.setattr(mdns, "lan_links", self._links)
        monkeypatch.setattr(mdns, "TICK_SECONDS", 0.01)

    def _links(self) -> tuple[LanLink, ...]:
        if isinstance(self.links, OSError):
            raise self.links
        return self.links

    def run(self, until: Callable[[], object]) -> None:
        """Run discovery until something has come to pass, then cancel it."""

        async def main() -> None:
            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.discovery.run)
                    while not until():  # noqa: ASYNC110, for what comes to pass may be anything
                        await trio.sleep(0.005)
                    nursery.cancel_scope.cancel()

        trio.run(main)


class SilentResponder:
    """Stands in for zeroconf: it hears one record."""

    def __init__(self, service: Any, links: Any, on_record: Callable[[str, Found], None]) -> None:
        self.failure: str | None = None
        self.errors = 2
        self.service = service
        self.running = trio.Event()
        self._on_record = on_record

    def run(self) -> None:
        self._on_record("peer", RECORD)
        trio.from_thread.run(self.running.wait)

    def stop(self) -> None:
        self.running.set()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.fixture
def quiet(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world without zeroconf."""

    def make(*arguments: Any) -> SilentResponder:
        world.responders.append(SilentResponder(*arguments))
        responder: SilentResponder = world.responders[-1]
        return responder

    monkeypatch.setattr(mdns, "Responder", make)
    return world


def test_without_links_it_waits_and_says_so_once(world: World) -> None:
    world.links = ()
    turns = count()
    world.run(lambda: next(turns) > 10)
    assert world.lines == ["info: LAN discovery waits for an interface with multicast"]


def test_without_netlink_it_waits(world: World) -> None:
    world.links = OSError(1, "not allowed")
    world.run(lambda: len(world.lines) >= 2)
    assert "not allowed" in world.lines[0]


def test_where_zeroconf_fails_a_line_says_why_and_it_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def refuse(**_: object) -> None:
        tries.append(1)
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(mdns, "AsyncZeroconf", refuse)
    world.run(lambda: len(tries) >= 3)
    assert world.lines == ["info: no LAN discovery: [Errno 98] Address already in use"]


def test_it_is_started_anew_when_the_links_or_the_day_change(quiet: World) -> None:
    quiet.run(lambda: quiet.responders)
    quiet.responders.clear()

    def change() -> bool:
        if len(quiet.responders) == 1:
            quiet.links = (*LINKS, LanLink(8, (ip_interface("10.0.0.1/8"),)))
            quiet.discovery.refresh()
        if len(quiet.responders) == 2:
            quiet.wall = WALL + DAY
        return len(quiet.responders) == 3

    quiet.run(change)
    first, second, third = (each.service for each in quiet.responders)
    assert first.addresses != second.addresses == third.addresses
    assert first.properties == second.properties != third.properties
    assert first.name == third.name
    assert quiet.discovery.counters["lan responder errors"] == 8


def test_a_record_gives_a_hint(quiet: World) -> None:
    quiet.discovery.set_members([OWN, PEER])
    quiet.run(lambda: quiet.hints)
    assert quiet.hints == [Hint(PEER, Endpoint("192.168.1.9", 4655))]


def test_a_record_of_somebody_who_becomes_a_member_later(quiet: World) -> None:
    quiet.discovery.set_members([OWN])
    quiet.run(lambda: quiet.discovery.counters["lan unknown node"])
    assert quiet.hints == []
    quiet.discovery.set_members([OWN, PEER])
    assert quiet.hints == [Hint(PEER, Endpoint("192.168.1.9", 4655))]
    quiet.discovery.set_members([OWN, PEER])
    assert len(quiet.hints) == 1


def test_only_so_many_records_are_kept(quiet: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdns, "MAX_WAITING", 3)

    for number in range(10):
        quiet.discovery._heard.append((str(number), RECORD))
        quiet.discovery._drain()
    assert list(quiet.discovery._waiting) == ["7", "8", "9"]


def test_our_own_record_is_not_a_hint(quiet: World) -> None:
    quiet.discovery.set_members([OWN, PEER])
    quiet.discovery._hints.set_links(LINKS)
    own = Found(
        {key.encode(): value for key, value in service_txt(NETWORK, OWN, 4655, WALL).items()},
        4655,
        ("192.168.1.9",),
    )
    assert not quiet.discovery._match(own)


def test_a_responder_may_be_stopped_after_its_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdns, "AsyncZeroconf", lambda **_: 1 / 0)
    service = world.discovery._service(mdns.Advert(LINKS, 0))
    responder = Responder(service, LINKS, lambda *_: None)
    responder.run()
    responder.stop()
    assert responder.failure == "division by zero"
