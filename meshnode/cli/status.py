"""`meshnode status` and `meshnode peers`: what the running node says of itself and of the others."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from meshnode.cli.failure import Failure
from meshnode.cli.help import example
from meshnode.cli.place import Place, at_place
from meshnode.cli.quantities import UNKNOWN, bytes_text, milliseconds_text, seconds_text
from meshnode.cli.tables import Column, show_table

Status = Mapping[str, Any]
"""The node's reply; its keys are listed in docs/operations.md."""

EXPIRY_WARNING_S = 7 * 86_400

STATE_COLOURS = {"up": "green", "connecting": "yellow", "down": "red", "revoked": "dim"}
WHO = (Column("PEER"), Column("STATE", colours=STATE_COLOURS))
STATUS_COLUMNS = (
    *WHO,
    Column("RTT", right=True),
    Column("SENT", right=True),
    Column("RECEIVED", right=True),
    Column("QUEUE P95", right=True),
    Column("DROPS", right=True),
    Column("MARKS", right=True),
    Column("PATH"),
)
PEERS_COLUMNS = (*WHO, Column("SINCE", right=True), Column("PATH"), Column("ADDRESSES"))


@click.command(
    epilog=example(
        "meshnode status --net home",
        "meshnode status --net home --json | jq '.peers[] | {name, state}'",
        "meshnode status --net home --check ready",
    )
)
@click.option("--json", "as_json", is_flag=True, help="The node's whole reply, for programs.")
@click.option(
    "--check",
    type=click.Choice(["live", "ready"]),
    help="Say nothing, and exit with 0 if the node answers (live), or if it can carry traffic, too (ready).",
)
@at_place
def status(place: Place, as_json: bool, check: str | None) -> None:
    """Show the node, its peers, and what waits in its queues.

    A node is ready when its interface is up and a peer is up, or no other member is known yet.
    """
    reply: Status = place.ask("status")
    if as_json:
        click.echo(json.dumps(reply, indent=2))
    if check == "ready" and (why := not_ready(reply)):
        raise Failure(f"not ready: {why}")
    if not as_json and check is None:
        show_status(reply)


@click.command(epilog=example("meshnode peers --net home"))
@click.option("--json", "as_json", is_flag=True, help="The peers of `status --json`.")
@at_place
def peers(place: Place, as_json: bool) -> None:
    """List the other members, and how each is reached."""
    listed: Sequence[Status] = place.ask("status")["peers"]
    if as_json:
        click.echo(json.dumps(listed, indent=2))
    elif not listed:
        click.echo("no other member is known: `meshnode invite` lets one in", err=True)
    else:
        show_table(PEERS_COLUMNS, [_peers_row(each) for each in listed])


def not_ready(reply: Status) -> str | None:
    """Why the node cannot carry traffic, None when it can."""
    if not reply["interface"]:
        return "the interface is not up"
    others = [each for each in reply["peers"] if each["state"] != "revoked"]
    if others and not any(each["state"] == "up" for each in others):
        return (
            f"none of {len(others)} peers is up"
            if len(others) > 1
            else f"the only peer, {others[0]['name']}, is not up"
        )
    return None


def show_status(reply: Status) -> None:
    """Two lines about the node itself, and a table of its peers."""
    listen = ", ".join(f"{kind} {port}" for kind, port in reply["listen"].items() if port)
    up = seconds_text(reply["uptime_s"])
    click.echo(f"{reply['net']}: node {reply['node']} ({reply['id'][:8]}), up {up}, {listen}")
    click.echo(f"{reply['interface']}: {', '.join(reply['addresses'])}, MTU {reply['mtu']}")
    for warning in warnings(reply, time.time()):
        click.echo(click.style(f"warning: {warning}", fg="yellow"))
    if reply["peers"]:
        click.echo()
        show_table(STATUS_COLUMNS, [_status_row(peer) for peer in reply["peers"]])


def warnings(reply: Status, now: float) -> list[str]:
    """What is wrong with our own membership, one line each. `now` is seconds since 1970."""
    if not reply.get("member", True):
        return ["this node is no member any more, it was revoked or has expired: leave, and join anew"]
    lines = [f"lost the {what} to an older claim: leave, and join anew" for what in reply.get("lost", ())]
    expires = reply.get("expires_s")
    if expires is not None and expires - now < EXPIRY_WARNING_S:
        lines.append(f"the membership ends in {seconds_text(expires - now)}: an admin that is up renews it")
    return lines


def _who(peer: Status) -> list[str]:
    return [peer["name"], peer["state"]]


def _status_row(peer: Status) -> list[str]:
    """What goes to and comes from a peer, and what its queue does: delay, drops, ECN marks."""
    queue = peer["queue"] or {}
    return [
        *_who(peer),
        milliseconds_text((peer["path"] or {}).get("rtt_ms")),
        bytes_text((peer["tx"] or {}).get("bytes")),
        bytes_text((peer["rx"] or {}).get("bytes")),
        milliseconds_text(queue.get("sojourn_ms_p95")),
        _count(queue.get("drops")),
        _count(queue.get("marks")),
        path_text(peer["path"]),
    ]


def _peers_row(peer: Status) -> list[str]:
    return [*_who(peer), seconds_text(peer["since_s"]), path_text(peer["path"]), " ".join(peer["addresses"])]


def path_text(path: Status | None) -> str:
    """How a peer is reached: `udp 192.0.2.7:4655`, or through whom."""
    if not path or not path.get("kind"):
        return UNKNOWN
    return f"relay via {path['via']}" if path["kind"] == "relay" else f"{path['kind']} {path['remote']}"


def _count(number: int | None) -> str:
    return UNKNOWN if number is None else str(number)
