"""`meshnode join`: enrols if it has to, then runs the node until it is told to stop.

Nothing is on disk before an enrolment has succeeded, and nothing of ours is left in the kernel when `main` returns.
"""

from __future__ import annotations

import logging
import pathlib
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any

import trio

from meshnode.crypto import suites
from meshnode.crypto.primitives import SODIUM
from meshnode.dataplane.config import COPY_DSCP, ZERO_DSCP, PlaneConfig
from meshnode.dataplane.plane import Plane
from meshnode.dataplane.vnet import Offload
from meshnode.edge import clock, control, netlink, preflight
from meshnode.edge.entropy import SystemEntropy
from meshnode.edge.errors import EdgeError
from meshnode.edge.mill import Mill
from meshnode.edge.monitor import Change, NetworkMonitor
from meshnode.edge.netlink import Interface
from meshnode.edge.operator import Operator
from meshnode.edge.priority import raise_priority
from meshnode.edge.routes import RouteKeeper
from meshnode.edge.saver import Saver
from meshnode.edge.status import node_status
from meshnode.edge.store import Secret, Store
from meshnode.edge.tun import LONGEST_NAME, Tun
from meshnode.edge.udp import UdpSocket, open_sockets
from meshnode.edge.underlay import MARK, Underlay
from meshnode.proto.context import NodeConfig
from meshnode.proto.joiner import Joiner
from meshnode.proto.node import Node
from meshnode.settings import HostPort, Settings
from meshnode.values import (
    BadPacket,
    Endpoint,
    Enrolled,
    EnrolmentRefused,
    Event,
    Goodbye,
    Hint,
    LimitRate,
    LinkChanged,
    LocalEndpoints,
    MembershipChanged,
    Notice,
    Path,
    PeerDown,
    PeerUp,
    Pong,
    SaveState,
    Suite,
)
from meshnode.wire.address import address_text
from meshnode.wire.state import pack_state, parse_state_untrusted
from meshnode.wire.token import Token

SETTLING_SECONDS = 0.1
"""A change of the network is followed when the kernel has said no more for this long."""

ENTROPY_PORTS = 4

MEASURING_SECONDS = 0.005
"""What each cipher suite gets to show its speed."""

RELOADABLE = ("advertise", "peers", "log_level", "rate", "peer_rates")
"""Settings that a running node follows; the others are read at start."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `join` was asked to do. `token` None: this machine is a member already.

    `read_settings` gives the settings as the files say now, for `meshnode reload`.
    """

    net: str
    state_dir: pathlib.Path
    runtime_dir: pathlib.Path
    settings: Settings
    token: Token | None
    name: str
    explicit_name: bool
    read_settings: Callable[[], Settings]


def main(options: RunOptions) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code. Raises EdgeError with one line for the operator."""
    return trio.run(_run, options)


async def _run(options: RunOptions) -> int:
    log = Log(options.settings.log_level)
    store = Store(options.state_dir, options.net)
    if options.token is not None:
        await _enrol(options, options.token, store, log)
    with store.lock():
        await _Machine(options, store, log).run()
    return 0


class Log:
    """Lines on standard error, which is what systemd and container engines collect."""

    def __init__(self, level: str) -> None:
        self._logger = logging.getLogger("meshnode")
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("meshnode: %(levelname)s: %(message)s"))
        self._logger.handlers = [handler]
        self.set_level(level)

    def set_level(self, level: str) -> None:
        self._logger.setLevel(level.upper())

    def __call__(self, level: str, text: str) -> None:
        self._logger.log(logging.getLevelNamesMapping()[level.upper()], text)


# --- enrolment ----------------------------------------------------------------------------------------------------


async def _enrol(options: RunOptions, token: Token, store: Store, log: Log) -> None:
    """Redeem the token and store what it brings. Raises EdgeError; then nothing was written."""
    entropy = SystemEntropy()
    identity, static = entropy.token(32), entropy.token(32)
    endpoints = await _resolve(_host_ports(token.endpoints))
    if not endpoints:
        raise EdgeError("none of the token's host names can be resolved: check this machine's DNS")
    finding = preflight.check_state_dir(options.state_dir)
    if finding.level is preflight.Level.ERROR:
        raise EdgeError(f"{finding.text}: {finding.fix}")
    log("info", f"joining {token.name} at {', '.join(map(str, endpoints))}")
    with _sockets(options.settings.port) as sockets:
        joiner = Joiner(
            NodeConfig(identity, static),  # the mandatory suite does for two datagrams
            SODIUM,
            token,
            endpoints,
            options.name,
            options.explicit_name,
            entropy,
            clock.now(),
        )
        state = await _redeem(joiner, sockets)
    store.create()
    try:
        with store.lock():
            store.write_secret(Secret.IDENTITY, identity)
            store.write_secret(Secret.STATIC, static)
            store.write_state(state)
    except BaseException:
        store.remove()
        raise
    log("info", f"this machine is a member of {token.name} now")


async def _redeem(joiner: Joiner, sockets: list[UdpSocket]) -> bytes:
    outcome: list[Event] = []
    plane = Plane(PlaneConfig(), SystemEntropy(), clock.now())
    mill = Mill(joiner, plane, sockets, None, outcome.append)
    try:
        while not outcome:
            if mill.turn():
                await trio.lowlevel.checkpoint()
            else:
                await mill.park()
    finally:
        mill.close()
    result = outcome[0]
    if isinstance(result, EnrolmentRefused):
        raise EdgeError(result.reason)
    assert isinstance(result, Enrolled)
    return result.state


# --- the running node ---------------------------------------------------------------------------------------------


class _Machine:
    """The node with everything of this machine that it uses."""

    def __init__(self, options: RunOptions, store: Store, log: Log) -> None:
        self._options = options
        self._settings = options.settings
        self._store = store
        self._log = log
        self._node = _load_node(store, options.settings)
        self._started = clock.boot()
        self._stopping = trio.Event()
        self._reannounce = trio.Event()
        self._endpoints: tuple[Endpoint, ...] = ()

    async def run(self) -> None:
        self._ask_for_precedence()
        with ExitStack() as stack:
            self._open(stack)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_signal)
                nursery.start_soon(control.serve, self._listener, self._operator.handle)
                nursery.start_soon(self._saver.run)
                nursery.start_soon(self._routes.run)
                nursery.start_soon(self._follow_network)
                nursery.start_soon(self._follow_reloads)
                nursery.start_soon(self._mill_task)
                self._greet()
                await self._stopping.wait()
                self._say_goodbye()
                nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await self._saver.save()
        if self._mill.lost is not None:
            raise self._mill.lost

    def _open(self, stack: ExitStack) -> None:
        """Acquire in an order in which the commonest mistakes are told first; `stack` gives everything back."""
        settings = self._settings
        self._sockets = stack.enter_context(_sockets(settings.port, settings.udp_offload, _ports(settings)))
        name = settings.interface or f"mesh-{self._options.net}"[:LONGEST_NAME]
        self._tun = Tun.open(name, settings.mtu, settings.tun_offload)
        stack.callback(self._tun.close)
        own = self._node.own
        assert own is not None
        index = socket.if_nametoindex(name)
        self._interface = Interface(name, index)
        stack.callback(self._interface.close)
        for warning in self._interface.configure(settings.mtu, own.addresses, own.link_local):
            self._log("warning", warning)
        self._underlay = Underlay(index)
        stack.callback(self._underlay.close)
        self._underlay.protect()
        self._monitor = NetworkMonitor(frozenset({index}))
        stack.callback(self._monitor.close)
        self._listener = control.listen(self._options.runtime_dir, self._options.net)
        stack.callback(self._listener.close)
        self._plane = Plane(
            PlaneConfig(
                addresses=own.addresses,
                link_local=own.link_local,
                prefixes=own.prefixes,
                tun_mtu=settings.mtu,
                offload=_plane_offload(self._tun),
                own=self._node.id,
                relay=settings.relay,
                relay_rate=settings.relay_rate,
                queue=settings.queue,
                entropy=settings.entropy,
                dscp=COPY_DSCP if settings.dscp == "copy" else ZERO_DSCP,
                uplink_rate=settings.uplink_rate,
            ),
            SystemEntropy(),
            clock.now(),
        )
        self._mill = Mill(self._node, self._plane, self._sockets, self._tun, self._handle_event)
        stack.callback(self._mill.close)
        self._saver = Saver(self._store, self._snapshot, self._mill.command)
        self._routes = RouteKeeper(self._node, self._interface, lambda text: self._log("warning", text))
        self._operator = Operator(
            self._node,
            self._mill,
            self._saver,
            self.status,
            lambda: tuple(map(str, self._settings.advertise)),
            self._reload,
            self._stopping.set,
        )

    def _ask_for_precedence(self) -> None:
        refused = raise_priority() if self._settings.precedence else None
        if refused is not None:
            self._log("info", refused)

    def _greet(self) -> None:
        own = self._node.own
        if own is not None:
            addresses = ", ".join(map(address_text, own.addresses))
            self._log("info", f"{own.label} is up in {self._options.net}: {self._tun.name}, {addresses}")

    def _say_goodbye(self) -> None:
        self._mill.command(Goodbye())
        self._mill.turn()
        self._mill.flush()
        self._log("info", "stopped")

    def _snapshot(self) -> bytes:
        return pack_state(self._node.stored_state())

    # --- tasks ----------------------------------------------------------------------------------------------------

    async def _mill_task(self) -> None:
        await self._mill.run()
        self._stopping.set()  # the interface is gone: nothing is left to serve

    async def _until_signal(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                self._stopping.set()
                return

    async def _follow_network(self) -> None:
        """Tell the node where it can be reached, now and whenever the machine's network changes."""
        await self._announce()
        while True:
            await trio.lowlevel.wait_readable(self._monitor.fileno())
            change = self._monitor.drain()
            if not change & ~Change.OURS:
                continue
            with trio.move_on_after(SETTLING_SECONDS):  # changes come in bursts
                while True:
                    await trio.lowlevel.wait_readable(self._monitor.fileno())
                    change |= self._monitor.drain()
            await trio.to_thread.run_sync(self._underlay.synchronize)
            if await self._announce() or change & Change.LINK:
                self._mill.command(LinkChanged())

    async def _follow_reloads(self) -> None:
        while True:
            await self._reannounce.wait()
            self._reannounce = trio.Event()
            await self._announce()

    async def _announce(self) -> bool:
        """Tell the node its endpoints; whether they have changed (repeated router advertisements do not)."""
        port = self._sockets[0].port
        advertised = await _resolve(self._settings.advertise)
        local = await trio.to_thread.run_sync(netlink.local_endpoints, port)
        endpoints = (*advertised, *local)
        changed, self._endpoints = endpoints != self._endpoints, endpoints
        self._mill.command(LocalEndpoints(endpoints))
        await self._hint()
        return changed

    async def _hint(self) -> None:
        for known in self._settings.peers:
            member = self._node.membership.by_name(known.name)
            if member is None:
                continue
            for endpoint in await _resolve(known.endpoints):
                self._mill.command(Hint(member.peer, endpoint))

    # --- events of the core ---------------------------------------------------------------------------------------

    def _handle_event(self, event: Event) -> None:
        if isinstance(event, Notice):
            self._log(event.level, event.text)
        elif isinstance(event, SaveState):
            self._saver.request(event.ticket)
        elif isinstance(event, MembershipChanged):
            self._follow_membership()
        elif isinstance(event, PeerUp):
            peer = self._node.peers[event.peer]
            self._log("info", f"{peer.member.label} is up: {self._describe(peer.paths.active)}")
            self._routes.refresh()
        elif isinstance(event, PeerDown):
            known = self._node.peers.get(event.peer)
            name = known.member.label if known is not None else event.peer.hex()
            self._log("info", f"{name} is down: {event.reason}")
            self._routes.refresh()
        elif isinstance(event, Pong):
            self._operator.pong(event)

    def _describe(self, path: Path | None) -> str:
        """A path for people: relays by their names."""
        via = None if path is None or path.via is None else self._node.membership.members.get(path.via)
        return str(path) if via is None else f"relayed by {via.label}"

    def _apply_rates(self) -> None:
        """Tell the data plane the limits of the settings: the common one, and those of single peers."""
        for peer in self._node.peers.values():
            self._plane.apply(LimitRate(peer.id, self._rate_of(peer.member.label)), clock.now())

    def _rate_of(self, name: str) -> int | None:
        """The limit for what goes to the peer of that name."""
        return dict(self._settings.peer_rates).get(name, self._settings.rate)

    def _follow_membership(self) -> None:
        self._apply_rates()
        own = self._node.own
        if own is not None:
            self._plane.set_local(own.addresses, own.link_local, own.prefixes)
        self._routes.refresh()

    def _reload(self) -> Mapping[str, Any]:
        """Read the settings again; what cannot change at run time is named, not applied."""
        fresh = self._options.read_settings()
        changed = [f.name for f in fields(fresh) if getattr(fresh, f.name) != getattr(self._settings, f.name)]
        self._settings = fresh
        self._log.set_level(fresh.log_level)
        self._reannounce.set()
        self._apply_rates()
        return {
            "changed": [name for name in changed if name in RELOADABLE],
            "needs_restart": [name for name in changed if name not in RELOADABLE],
        }

    # --- status ---------------------------------------------------------------------------------------------------

    def status(self) -> Mapping[str, Any]:
        counters: Counter[str] = Counter()
        sources: Iterable[Mapping[str, int]] = (
            self._node.counters,
            self._plane.counters,
            self._mill.counters,
            self._tun.counters,
            *(s.counters for s in self._sockets),
        )
        for source in sources:
            counters.update(source)
        counters["tun ring dropped"] = self._tun.ring_drops()
        offloads = dict(self._tun.offloads)
        for udp in self._sockets:
            offloads |= udp.offloads
        return node_status(
            self._node,
            self._plane,
            self._tun.name,
            self._settings.mtu,
            self._sockets[0].port,
            offloads,
            counters,
            self._rate_of,
            self._started,
            clock.boot(),
        )


def _load_node(store: Store, settings: Settings) -> Node:
    """The node as it was stored. Raises EdgeError where the state cannot be used."""
    identity, static = store.read_secret(Secret.IDENTITY), store.read_secret(Secret.STATIC)
    data = store.read_state()
    if identity is None or static is None or data is None:
        raise EdgeError("the stored state is not complete: `meshnode leave` and join anew")
    chosen = settings.suites or measured_suites()
    root = store.read_secret(Secret.ROOT)
    config = NodeConfig(
        identity,
        static,
        root,
        suites=chosen,
        relay=settings.relay,
        tun_mtu=settings.mtu,
        ports=_ports(settings),
    )
    try:
        return Node(config, parse_state_untrusted(data), SODIUM, SystemEntropy(), clock.now())
    except BadPacket as error:
        raise EdgeError(
            f"the stored state cannot be used ({error.reason}): restore it, or leave and join anew"
        ) from error
    except ValueError as error:
        raise EdgeError(f"{error}: it was revoked or has expired; `meshnode leave` and join anew") from error


@contextmanager
def _sockets(port: int, offload: bool = True, ports: int = 1) -> Iterator[list[UdpSocket]]:
    """One UDP socket per family on one port, closed at the end. `ports`: IPv4 sockets in all, the others anywhere."""
    opened = open_sockets(port, MARK)
    try:
        opened += [UdpSocket(socket.AF_INET, 0, local, MARK) for local in range(1, ports)]
        if not offload:
            for udp in opened:
                udp.set_offload(False)
        yield opened
    finally:
        for udp in opened:
            udp.close()


def _ports(settings: Settings) -> int:
    """How many IPv4 sockets flows are spread over."""
    return ENTROPY_PORTS if settings.entropy == "ports" else 1


def measured_suites() -> tuple[Suite, ...]:
    """All suites that this machine has, fastest first; takes a few milliseconds for each."""
    speeds = {suite: suites.measure(suite, clock.boot, MEASURING_SECONDS) for suite in suites.available()}
    return suites.preference(speeds)


def _plane_offload(tun: Tun) -> Offload:
    """What the kernel granted, in the data plane's words."""
    granted = tun.offloads
    return Offload(granted["tun_checksum"], granted["tun_tso4"] and granted["tun_tso6"], granted["tun_uso4"])


def _host_ports(texts: Iterable[str]) -> list[HostPort]:
    pairs = (text.rpartition(":") for text in texts)
    return [HostPort(host.strip("[]"), int(port)) for host, _, port in pairs]


async def _resolve(names: Iterable[HostPort]) -> list[Endpoint]:
    """Numeric endpoints of all that can be resolved, in order."""
    found: list[Endpoint] = []
    for name in names:
        try:
            answers = await trio.socket.getaddrinfo(name.host, name.port, type=socket.SOCK_DGRAM)
        except OSError:
            continue
        found += [Endpoint(str(address[0]), name.port) for *_, address in answers]
    return list(dict.fromkeys(found))
