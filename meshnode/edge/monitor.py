"""What changes in the kernel's network configuration, from a netlink socket of our own (rtnetlink(7)).

The messages are only sorted by what they are about. Nothing is mirrored: who wants to know the new state asks for it,
so a message that was lost does no harm once it is known that one was.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from enum import Flag, auto
from typing import NamedTuple

from meshnode.edge.netlink import PROTOCOL

_GROUPS = (
    0x1  # RTMGRP_LINK
    | 0x10  # RTMGRP_IPV4_IFADDR
    | 0x40  # RTMGRP_IPV4_ROUTE
    | 0x80  # RTMGRP_IPV4_RULE
    | 0x100  # RTMGRP_IPV6_IFADDR
    | 0x400  # RTMGRP_IPV6_ROUTE
    | 1 << 18  # RTNLGRP_IPV6_RULE
    | 1 << 31  # RTNLGRP_NEXTHOP
)
_READ_SIZE = 65_536
_RECEIVE_BUFFER = 1 << 20
_MESSAGE = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_INDEX = struct.Struct("=I")
_ROUTE_SIZE = 12
_RTM_PROTOCOL = 5
_RTA_OIF = 4
_NO_INDEX = 0


class Change(Flag):
    """What changed since the last drain; `Change(0)`, which is false, for nothing.

    OURS is whatever happened on our own interfaces, and our own routes: next hops may be others now, but the machine's
    way to its peers is as it was. The other kinds are about the rest of the machine.
    """

    LINK = auto()
    ADDRESS = auto()
    ROUTE = auto()
    RULE = auto()
    OURS = auto()


EVERYTHING = Change.LINK | Change.ADDRESS | Change.ROUTE | Change.RULE | Change.OURS

_KINDS = {
    16: Change.LINK,  # RTM_NEWLINK
    17: Change.LINK,
    20: Change.ADDRESS,  # RTM_NEWADDR
    21: Change.ADDRESS,
    24: Change.ROUTE,  # RTM_NEWROUTE
    25: Change.ROUTE,
    32: Change.RULE,  # RTM_NEWRULE
    33: Change.RULE,
    104: Change.ROUTE,  # RTM_NEWNEXTHOP
    105: Change.ROUTE,
}


class NetworkMonitor:
    """A non-blocking netlink socket. `own` are the indexes of our interfaces.

    Taking an interface down deletes its IPv4 routes without a message about any of them: LINK means routes, too.
    """

    def __init__(self, own: frozenset[int] = frozenset()) -> None:
        self._own = own
        flags = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, flags, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._socket.bind((0, _GROUPS))

    def fileno(self) -> int:
        """The descriptor, for polling."""
        return self._socket.fileno()

    def drain(self) -> Change:
        """What has changed since the last call; never blocks. EVERYTHING when the kernel had more than fits."""
        changes = Change(0)
        while True:
            try:
                data = self._socket.recv(_READ_SIZE)
            except BlockingIOError:
                return changes
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changes |= EVERYTHING
                continue
            for message in _messages(data):
                changes |= self._classify(message)

    def close(self) -> None:
        """Stop watching."""
        self._socket.close()

    def _classify(self, message: _Message) -> Change:
        kind = _KINDS.get(message.type, Change(0))
        index = _NO_INDEX
        if kind in (Change.LINK, Change.ADDRESS) and len(message.body) >= 8:
            (index,) = _INDEX.unpack_from(message.body, 4)
        elif kind is Change.ROUTE and message.type in (24, 25):
            if message.body[_RTM_PROTOCOL : _RTM_PROTOCOL + 1] == bytes([PROTOCOL]):
                return Change.OURS
            index = _outgoing(message.body)
        return Change.OURS if index in self._own else kind


class _Message(NamedTuple):
    type: int
    body: bytes


def _messages(data: bytes) -> Iterator[_Message]:
    at = 0
    while at + _MESSAGE.size <= len(data):
        length, kind, *_ = _MESSAGE.unpack_from(data, at)
        if length < _MESSAGE.size:
            return
        yield _Message(kind, data[at + _MESSAGE.size : at + length])
        at += (length + 3) & ~3


def _outgoing(body: bytes) -> int:
    """The interface a route leads to; _NO_INDEX for none or several."""
    at = _ROUTE_SIZE
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if kind == _RTA_OIF and length == _ATTRIBUTE.size + _INDEX.size:
            (index,) = _INDEX.unpack_from(body, at + _ATTRIBUTE.size)
            return int(index)
        if length < _ATTRIBUTE.size:
            break
        at += (length + 3) & ~3
    return _NO_INDEX
