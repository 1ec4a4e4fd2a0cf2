"""What the control socket can ask of a running node."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from meshnode.edge import clock
from meshnode.edge.errors import EdgeError
from meshnode.edge.mill import Mill
from meshnode.edge.saver import Saver
from meshnode.proto.invitations import InvitationTerms, Refusal
from meshnode.proto.node import Node
from meshnode.values import MILLISECOND, SECOND, Pong, Prefix
from meshnode.wire.statement import Role
from meshnode.wire.token import MAX_ENDPOINTS

Arguments = Mapping[str, Any]

PING_TIMEOUT = 3.0


class Operator:
    """Serves the commands of the CLI. Works on the core between two turns of the mill, so nothing races."""

    def __init__(
        self,
        node: Node,
        mill: Mill,
        saver: Saver,
        status: Callable[[], Mapping[str, Any]],
        advertised: Callable[[], tuple[str, ...]],
        reload: Callable[[], Mapping[str, Any]],
        stop: Callable[[], None],
    ) -> None:
        self._node = node
        self._mill = mill
        self._saver = saver
        self._status = status
        self._advertised = advertised
        self._reload = reload
        self._stop = stop
        self._pongs: dict[bytes, trio.MemorySendChannel[Pong]] = {}
        self._commands: dict[str, Callable[[Arguments], Awaitable[Any]]] = {
            "status": self._answer_status,
            "invite": self._invite,
            "revoke": self._revoke,
            "ping": self._ping,
            "reload": self._answer_reload,
            "leave": self._leave,
        }

    async def handle(self, command: str, arguments: Arguments) -> Any:
        """One command. Raises EdgeError with the line for the person who asked."""
        serve = self._commands.get(command)
        if serve is None:
            raise EdgeError(f"this node knows no command {command!r}: is it of another version?")
        try:
            return await serve(arguments)
        except Refusal as refusal:
            raise EdgeError(str(refusal)) from refusal
        except (KeyError, TypeError, ValueError) as error:
            raise EdgeError(f"{command}: the arguments do not fit: {error}") from error

    def pong(self, pong: Pong) -> None:
        """The core reports an answer to one of our pings."""
        waiting = self._pongs.get(pong.token)
        if waiting is not None:
            waiting.send_nowait(pong)

    async def _answer_status(self, _: Arguments) -> Mapping[str, Any]:
        return self._status()

    async def _answer_reload(self, _: Arguments) -> Mapping[str, Any]:
        return self._reload()

    async def _leave(self, _: Arguments) -> None:
        self._stop()

    async def _invite(self, arguments: Arguments) -> Mapping[str, Any]:
        terms = InvitationTerms(
            name=arguments["name"],
            uses=int(arguments["uses"]),
            expires=int(arguments["expires_s"]) * SECOND,
            roles=_roles(arguments),
            prefixes=tuple(_prefix(text) for text in arguments["prefixes"]),
            valid_seconds=int(arguments["valid_s"]),
        )
        endpoints = dict.fromkeys((*self._advertised(), *map(str, self._node.endpoints())))
        if not endpoints:
            raise EdgeError(
                "no address to put into the token: say where this node is reached with --advertise"
            )
        token, ticket = self._node.invite(terms, tuple(endpoints)[:MAX_ENDPOINTS], clock.now())
        self._mill.wake()
        await self._saver.wait(ticket)
        return {"token": token.encode()}

    async def _revoke(self, arguments: Arguments) -> Mapping[str, Any]:
        member = self._node.membership.by_name(arguments["node"])
        ticket = self._node.revoke(arguments["node"], bool(arguments["keep"]), clock.now())
        self._mill.wake()
        await self._saver.wait(ticket)
        return {"revoked": member.label if member is not None else arguments["node"]}

    async def _ping(self, arguments: Arguments) -> Mapping[str, Any]:
        member = self._node.membership.by_name(arguments["peer"])
        if member is None or member.peer not in self._node.peers:
            raise EdgeError(f"there is no other member {arguments['peer']}: `meshnode peers` lists them")
        path = self._described_path(member.label)
        token = self._node.ping(member.peer, clock.now())
        if token is None:
            return {"rtt_ms": None, "path": path}
        send, receive = trio.open_memory_channel[Pong](1)
        self._pongs[token] = send
        self._mill.wake()
        try:
            with trio.move_on_after(PING_TIMEOUT):
                pong = await receive.receive()
                return {"rtt_ms": round(pong.rtt / MILLISECOND, 3), "path": path}
        finally:
            del self._pongs[token]
        return {"rtt_ms": None, "path": path}

    def _described_path(self, name: str) -> Any:
        return next((p["path"] for p in self._status()["peers"] if p["name"] == name), None)


def _roles(arguments: Arguments) -> int:
    admin = Role.ADMIN if arguments["admin"] else Role(0)
    router = Role.ROUTER if arguments["router"] else Role(0)
    return int(admin | router)


def _prefix(text: str) -> Prefix:
    network = ipaddress.ip_network(text)
    return network.network_address.packed, network.prefixlen
