"""The answer to `meshnode status --json`: DESIGN section 9 names its keys, and they are stable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from meshnode import __version__
from meshnode.dataplane.api import PeerStatus, QueueStatus
from meshnode.dataplane.plane import Plane
from meshnode.proto.node import Node
from meshnode.proto.peer import Peer
from meshnode.values import MILLISECOND, SECOND, Nanos, PathKind
from meshnode.wire.address import address_text

Json = dict[str, Any]


def node_status(
    node: Node,
    plane: Plane,
    interface: str,
    mtu: int,
    udp_port: int,
    offloads: Mapping[str, bool],
    counters: Mapping[str, int],
    rates: Callable[[str], int | None],
    started: Nanos,
    now: Nanos,
) -> Json:
    """Everything; what is not built yet is null."""
    own = node.own
    revoked = [
        {**_nobody(), "id": peer.hex(), "state": "revoked", "name": peer.hex()[:8], "why": reason}
        for peer, reason in node.membership.revoked.items()
        if peer != node.id
    ]
    return {
        "version": __version__,
        "net": node.membership.genesis.name,
        "node": own.label if own is not None else "",
        "id": node.id.hex(),
        "addresses": [address_text(a) for a in own.addresses] if own is not None else [],
        "lost": list(own.lost) if own is not None else [],
        "expires_s": own.not_after if own is not None and own.not_after else None,
        "member": own is not None,
        "interface": interface,
        "mtu": mtu,
        "listen": {"udp": udp_port, "tcp": None},
        "endpoints": [str(e) for e in node.endpoints()],
        "uptime_s": (now - started) // SECOND,
        "offloads": dict(offloads),
        "peers": [
            peer_status(node, peer, plane.status(peer.id), rates(peer.member.label), now)
            for peer in node.peers.values()
        ]
        + revoked,
        "counters": {name: count for name, count in sorted(counters.items()) if count},
    }


def peer_status(node: Node, peer: Peer, plane: PeerStatus | None, rate: int | None, now: Nanos) -> Json:
    """One member other than ourselves."""
    member = peer.member
    session = peer.sessions.sealing()
    return {
        **_nobody(),
        "name": member.label,
        "id": peer.id.hex(),
        "addresses": [address_text(a) for a in member.addresses],
        "lost": list(member.lost),
        "state": "up" if peer.up else ("connecting" if peer.in_flight else "down"),
        "since_s": (now - peer.since) // SECOND,
        "path": _path(node, peer),
        "session": None
        if session is None
        else {
            "suite": session.keys.suite.name.lower().replace("_", "-"),
            "age_s": (now - session.born) // SECOND,
        },
        "rate": {"mode": "off" if rate is None else "static", "bps": rate, "yielding": False, "why": ""},
        "queue": None if plane is None else _queue(plane.queue),
        "queue_in": None if plane is None else _queue(plane.queue_in),
        "tx": None if plane is None else {"packets": plane.sent_packets, "bytes": plane.sent_bytes},
        "rx": None if plane is None else {"packets": plane.received_packets, "bytes": plane.received_bytes},
    }


def _nobody() -> Json:
    return {
        "name": "",
        "id": "",
        "addresses": [],
        "state": "down",
        "since_s": 0,
        "path": None,
        "session": None,
        "queue": None,
        "queue_in": None,
        "rate": None,
        "tx": None,
        "rx": None,
    }


def _path(node: Node, peer: Peer) -> Json | None:
    active = peer.paths.find(peer.paths.active) if peer.paths.active is not None else None
    if active is None:
        return None if peer.up else {**_no_path(), "why": peer.why}
    via = active.path.via
    member = None if via is None else node.membership.members.get(via)
    return {
        **_no_path(),
        "kind": active.path.kind.value,
        "remote": str(active.path.remote) if active.path.kind is not PathKind.RELAY else "",
        "via": None if member is None else member.label,
        "rtt_ms": round(active.rtt / MILLISECOND, 3) if active.rtt else None,
        "mtu": peer.quality.mtu if peer.quality is not None else None,
        "ecn": peer.quality.ecn if peer.quality is not None else None,
    }


def _no_path() -> Json:
    return {"kind": None, "remote": "", "via": None, "rtt_ms": None, "mtu": None, "ecn": None, "why": ""}


def _queue(queue: QueueStatus) -> Json:
    return {
        "backlog_packets": queue.backlog_packets,
        "backlog_bytes": queue.backlog_bytes,
        "flows": queue.flows,
        "drops": queue.drops,
        "marks": queue.marks,
        "sojourn_ms_p50": round(queue.sojourn_p50 / MILLISECOND, 3),
        "sojourn_ms_p95": round(queue.sojourn_p95 / MILLISECOND, 3),
        "sojourn_ms_p99": round(queue.sojourn_p99 / MILLISECOND, 3),
    }
