"""Our own datagrams never enter the tunnel, whatever routes a routing daemon or an operator puts there.

Our sockets mark what they send (SO_MARK). A rule ahead of the machine's own sends marked datagrams to a table of ours,
which is the main table without the ways into the mesh, and a second rule ends the search there. So a default route
into the mesh, in any table, is never even looked at, and the machine's own default stays in use for us although
another one hides it.

The price: policy routing of the machine does not apply to our datagrams, and of several next hops the first is used.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from meshnode.edge.errors import EdgeError
from meshnode.edge.netlink import PROTOCOL, mesh_links

MARK = 0x4D00_0000
"""SO_MARK of our sockets. In the high bits, clear of what Docker, Kubernetes, Tailscale and WireGuard use."""
TABLE = 4077
PREFERENCE = 1
"""Right after the local table: whatever rules the machine has, they come later."""
MAX_ROUTES = 4096
"""A machine with more carries an Internet table: then only its connected and its default routes are copied."""

Way = tuple[tuple[str, Any], ...]
"""A route as sorted pairs of pyroute2's names and values: hashable, so that tables can be compared."""

_MAIN_TABLE = 254
_UNICAST = 1
_ONLINK = 4
_DEAD = 1 | 16  # RTNH_F_DEAD, RTNH_F_LINKDOWN
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_REFUSED = (errno.EPERM, errno.EACCES)
_NOT_SUPPORTED = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)


class Underlay:
    """The rules and the table. Nodes of several networks on one machine share them; the last one takes them away."""

    def __init__(self, own_index: int, mark: int = MARK) -> None:
        self._own_index = own_index
        self._mark = mark

    def protect(self) -> None:
        """Make table and rules, whatever was left of them before. Raises EdgeError."""
        self.synchronize()

    def synchronize(self) -> None:
        """Follow the machine: call it after a change of routes, rules or links. Raises EdgeError."""
        with _kernel() as kernel:
            inside = {self._own_index, *mesh_links(kernel)}
            for family in _FAMILIES:
                with _where_supported():
                    _copy_routes(kernel, family, inside)
                    for rule in self._rules(family):
                        _tolerate(errno.EEXIST, kernel.rule, "add", **rule)

    def close(self) -> None:
        """Remove rules and table, unless another node of this machine needs them. Raises EdgeError."""
        with _kernel() as kernel:
            if mesh_links(kernel) - {self._own_index}:
                return
            for family in _FAMILIES:
                with _where_supported():
                    for rule in self._rules(family):
                        _tolerate(errno.ENOENT, kernel.rule, "del", **rule)
                    for way in _ways(kernel, family, TABLE):
                        _tolerate(errno.ESRCH, kernel.route, "del", **_request(way))

    def _rules(self, family: int) -> list[dict[str, Any]]:
        marked = {"family": family, "fwmark": self._mark, "fwmask": 0xFFFF_FFFF}
        look_up = {**marked, "priority": PREFERENCE, "table": TABLE}
        end = {**marked, "priority": PREFERENCE + 1, "action": "unreachable"}
        return [look_up, end]


def _copy_routes(kernel: Any, family: int, inside: set[int]) -> None:
    """Bring our table in line with the main one. `inside` are the interfaces that lead into a mesh."""
    wanted = _ways(kernel, family, _MAIN_TABLE, inside)
    if len(wanted) > MAX_ROUTES:
        wanted = {way: None for way in wanted if _is_basic(way)}
    present = _ways(kernel, family, TABLE)
    # Those without a gateway first: a gateway has to be reachable when its route is made.
    for way in sorted((way for way in wanted if way not in present), key=_has_gateway):
        try:
            kernel.route("append", **_request(way))
        except NetlinkError as error:
            if error.code in (*_REFUSED, *_NOT_SUPPORTED):
                raise
            # Its interface went down a moment ago: the message about that brings us here again.
    for way in present:
        if way not in wanted:
            _tolerate(errno.ESRCH, kernel.route, "del", **_request(way))


def _ways(kernel: Any, family: int, table: int, inside: Collection[int] = ()) -> dict[Way, None]:
    """The usable routes of a table that do not lead `inside`, in the kernel's order."""
    ways: dict[Way, None] = {}
    for message in kernel.route("dump", family=family, table=table):
        if message.get("table") != table or message["type"] != _UNICAST:
            continue
        for hop in message.get("multipath") or [message]:
            if hop.get("oif") not in (None, *inside) and not hop["flags"] & _DEAD:
                ways[_way(message, hop)] = None
                break
    return ways


def _way(message: Any, hop: Any) -> Way:
    fields = {name: message.get(name) for name in ("dst", "src", "prefsrc", "priority")}
    fields |= {name: message[name] for name in ("family", "type", "dst_len", "src_len", "scope")}
    fields |= {"oif": hop.get("oif"), "gateway": hop.get("gateway"), "flags": hop["flags"] & _ONLINK}
    fields["via"] = (hop.get("via") or {}).get("addr")
    return tuple(sorted((name, value) for name, value in fields.items() if value is not None))


def _request(way: Way) -> dict[str, Any]:
    fields = dict(way)
    if "via" in fields:
        fields["via"] = {"family": socket.AF_INET6, "addr": fields["via"]}
    return fields | {"proto": PROTOCOL, "table": TABLE}


def _has_gateway(way: Way) -> bool:
    return any(name in ("gateway", "via") for name, _ in way)


def _is_basic(way: Way) -> bool:
    return dict(way)["dst_len"] == 0 or not _has_gateway(way)


def _tolerate(expected: int, call: Callable[..., Any], *args: Any, **fields: Any) -> None:
    """`call`, for which `expected` says that things are already as they should be."""
    try:
        call(*args, **fields)
    except NetlinkError as error:
        if error.code != expected:
            raise


@contextmanager
def _where_supported() -> Iterator[None]:
    """A kernel without IPv6, or without policy routing, has nothing to protect this way."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in _NOT_SUPPORTED:
            raise


@contextmanager
def _kernel() -> Iterator[Any]:
    try:
        with IPRoute(strict_check=True) as kernel:
            yield kernel
    except NetlinkError as error:
        what = "cannot keep our own datagrams out of the tunnel"
        fix = (
            "run as root, or give CAP_NET_ADMIN"
            if error.code in _REFUSED
            else f"look at `ip rule` {PREFERENCE}"
        )
        raise EdgeError(f"{what} ({error.args[1]}): {fix}") from error
