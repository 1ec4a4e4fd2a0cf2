"""Members on the same LAN find each other by multicast DNS (RFC 6762, RFC 6763), whatever else they know.

zeroconf runs on an event loop in a thread of its own, and is started anew whenever the links or the day have changed.
What it hears comes back through a short queue. Discovery only helps: where there is no multicast, a line in the log
says so, and that is all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

import trio
from zeroconf import IPVersion, ServiceInfo, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from meshnode.edge import clock
from meshnode.edge.lan_hints import SERVICE_TYPE, Found, LanHints, day_of, service_txt
from meshnode.edge.netlink import LanLink, lan_links
from meshnode.values import BadPacket, Entropy, Hint, Now, PeerId

TICK_SECONDS = 600.0
"""How often it looks whether the day has changed, and whether records fit that did not fit before."""

MAX_WAITING = 1024
"""Records without a match that are kept, and records on their way between the threads: the newest."""

CHECK_SECONDS = 4.0
CPU_SHARE = 0.25
"""What it may take of a core, looked at every CHECK_SECONDS; a flood switches it off until the next tick."""

MAX_REQUESTS = 16
"""Records that are asked for at the same time because a part of them was not heard."""

_REQUEST_MS = 3000
_MAX_ADDRESSES = 16


class Advert(NamedTuple):
    """What an instance of the service depends on."""

    links: tuple[LanLink, ...]
    day: int


class LanDiscovery:
    """Announces this node and looks for members; `on_hint` is called in trio's thread. `counters`: records ignored.

    Only `run` waits. `log` takes a level and a line.
    """

    def __init__(
        self,
        network_id: bytes,
        own: PeerId,
        port: int,
        entropy: Entropy,
        on_hint: Callable[[Hint], None],
        log: Callable[[str, str], None],
        read_clock: Callable[[], Now] = clock.now,
    ) -> None:
        self._network_id = network_id
        self._own = own
        self._port = port
        self._instance = entropy.token(8).hex()
        self._on_hint = on_hint
        self._log = log
        self._read_clock = read_clock
        self.counters: Counter[str] = Counter()
        self._hints = LanHints(network_id)
        self._changed = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._heard: deque[tuple[str, Found]] = deque(maxlen=MAX_WAITING)
        self._waiting: dict[str, Found] = {}
        self._told = ""

    def set_members(self, members: Iterable[PeerId]) -> None:
        """Whom to look for; also among those who were heard already."""
        self._hints.set_members(member for member in members if member != self._own)
        self._try_waiting()

    def refresh(self) -> None:
        """The machine's links or addresses may have changed."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled; nothing that goes wrong ends it."""
        self._token = trio.lowlevel.current_trio_token()
        while True:
            advert = await self._advert()
            self._hints.set_links(advert.links)
            if not advert.links:
                self._tell("LAN discovery waits for an interface with multicast")
                await self._until_other(advert, None)
                continue
            responder = Responder(self._service(advert), advert.links, self._hear)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._respond, responder)
                try:
                    await self._until_other(advert, responder)
                finally:
                    responder.stop()

    async def _respond(self, responder: Responder) -> None:
        with trio.CancelScope(shield=True):  # it ends soon after `stop`
            await trio.to_thread.run_sync(responder.run)
        self.counters["lan responder errors"] += responder.errors
        if responder.failure is not None:
            self._tell(f"no LAN discovery: {responder.failure}")

    async def _until_other(self, advert: Advert, responder: Responder | None) -> None:
        """Until another advert is due, or it is time to try again."""
        while True:
            with trio.move_on_after(TICK_SECONDS):
                await self._changed.wait()
            self._changed = trio.Event()
            failed = responder is not None and responder.failure is not None
            if failed or await self._advert() != advert:
                return
            self._try_waiting()

    async def _advert(self) -> Advert:
        try:
            links = await trio.to_thread.run_sync(lan_links)
        except Exception as error:  # netlink has errors of its own
            self._tell(f"no LAN discovery: {error}")
            links = ()
        return Advert(links, day_of(self._read_clock().wall))

    def _service(self, advert: Advert) -> ServiceInfo:
        return ServiceInfo(
            SERVICE_TYPE,
            f"{self._instance}.{SERVICE_TYPE}",
            port=self._port,
            properties=service_txt(self._network_id, self._own, self._port, self._read_clock().wall),
            server=f"{self._instance}.local.",
            addresses=[each.packed for link in advert.links for each in link.addresses],
        )

    def _hear(self, name: str, found: Found) -> None:
        """Called in the responder's thread."""
        self._heard.append((name, found))
        assert self._token is not None
        try:
            self._token.run_sync_soon(self._drain, idempotent=True)
        except trio.RunFinishedError:
            pass  # nobody is left to be told

    def _drain(self) -> None:
        while self._heard:
            name, found = self._heard.popleft()
            if not self._match(found):
                self._waiting.pop(name, None)
                self._waiting[name] = found
                if len(self._waiting) > MAX_WAITING:
                    del self._waiting[next(iter(self._waiting))]

    def _try_waiting(self) -> None:
        self._waiting = {name: found for name, found in self._waiting.items() if not self._match(found)}

    def _match(self, found: Found) -> bool:
        try:
            hints = self._hints.match_untrusted(found, self._read_clock())
        except BadPacket as bad:
            self.counters[bad.reason] += 1
            return False
        for hint in hints:
            self._on_hint(hint)
        return True

    def _tell(self, line: str) -> None:
        if line != self._told:
            self._told = line
            self._log("info", line)


class Responder:
    """zeroconf, announcing one service and browsing for others of its type. `run` in a thread; `stop` from any.

    `failure` says what ended it, `errors` counts what strangers' packets made go wrong inside.
    """

    def __init__(
        self, service: ServiceInfo, links: Iterable[LanLink], on_record: Callable[[str, Found], None]
    ) -> None:
        self.failure: str | None = None
        self.errors = 0
        self._service = service
        self._interfaces = list(_interfaces(links))
        self._on_record = on_record
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda *_: self._count_error())
        self._stopped = asyncio.Event()
        self._requests: set[asyncio.Task[None]] = set()

    def run(self) -> None:
        """Until stopped. Raises nothing: see `failure`."""
        logging.getLogger("zeroconf").setLevel(logging.CRITICAL)  # anybody on the LAN could fill our log
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._main())
        except Exception as error:  # whatever the network does to it, the node lives without
            self.failure = str(error) or type(error).__name__

    def stop(self) -> None:
        """Say goodbye and end, within about half a second."""
        try:
            self._loop.call_soon_threadsafe(self._stopped.set)
        except RuntimeError:
            pass  # it has ended by itself

    async def _main(self) -> None:
        has_ipv6 = any(isinstance(each, int) for each in self._interfaces)
        versions = IPVersion.All if has_ipv6 else IPVersion.V4Only
        service = AsyncZeroconf(interfaces=self._interfaces, ip_version=versions)
        try:
            browser = AsyncServiceBrowser(service.zeroconf, SERVICE_TYPE, handlers=[self._changed])
            announcing = self._loop.create_task(self._announce(service))
            await self._until_stopped()
            tasks = [announcing, *self._requests]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await browser.async_cancel()
            await service.async_unregister_all_services()
        finally:
            await service.async_close()

    async def _until_stopped(self) -> None:
        """Until `stop`, or until it has become too expensive."""
        while not self._stopped.is_set():
            before = time.thread_time()
            try:
                await asyncio.wait_for(self._stopped.wait(), CHECK_SECONDS)
            except TimeoutError:
                if time.thread_time() - before > CPU_SHARE * CHECK_SECONDS:
                    self.failure = "somebody floods this LAN with multicast DNS"
                    return

    async def _announce(self, service: AsyncZeroconf) -> None:
        try:
            await (await service.async_register_service(self._service))
        except Exception:  # the others can still be found
            self._count_error()

    def _changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if name == self._service.name or state_change is ServiceStateChange.Removed:
            return
        try:
            info = AsyncServiceInfo(service_type, name)
            if info.load_from_cache(zeroconf):
                self._on_record(name, _found(info))
            elif len(self._requests) < MAX_REQUESTS:
                task = self._loop.create_task(self._request(zeroconf, info))
                self._requests.add(task)
                task.add_done_callback(self._requests.discard)
        except Exception:  # a name or a record that zeroconf itself takes for impossible
            self._count_error()

    async def _request(self, zeroconf: Zeroconf, info: AsyncServiceInfo) -> None:
        try:
            if await info.async_request(zeroconf, _REQUEST_MS):
                self._on_record(info.name, _found(info))
        except Exception:
            self._count_error()

    def _count_error(self) -> None:
        self.errors += 1


def _found(info: ServiceInfo) -> Found:
    addresses = tuple(islice(info.parsed_scoped_addresses(IPVersion.All), _MAX_ADDRESSES))
    return Found(dict(info.properties), info.port or 0, addresses)


def _interfaces(links: Iterable[LanLink]) -> Iterable[str | int]:
    """In zeroconf's words: IPv4 addresses, and the indexes of interfaces that have IPv6."""
    for link in links:
        versions = {each.version for each in link.addresses}
        if 4 in versions:
            yield next(str(each.ip) for each in link.addresses if each.version == 4)
        if 6 in versions:
            yield link.interface
