"""`meshnode invite`: let somebody in."""

from __future__ import annotations

import sys
from typing import Any

import click

from meshnode.cli.failure import Failure
from meshnode.cli.help import example
from meshnode.cli.names import node_name
from meshnode.cli.parameters import cidr, duration
from meshnode.cli.place import Place, at_place
from meshnode.cli.stopped import stopped_node
from meshnode.edge import clock
from meshnode.edge.entropy import SystemEntropy
from meshnode.edge.errors import NotRunning
from meshnode.edge.netlink import local_endpoints
from meshnode.proto.invitations import InvitationTerms
from meshnode.values import SECOND, Prefix
from meshnode.wire.address import prefix_text
from meshnode.wire.statement import Role
from meshnode.wire.token import MAX_ENDPOINTS


@click.command(
    epilog=example(
        "meshnode invite --net home", "meshnode invite --net home --name beta --prefix 192.168.7.0/24"
    )
)
@click.option("--name", metavar="NAME", help="The newcomer's name.  [default: as it asks]")
@click.option(
    "--uses",
    metavar="N",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    help="How many may join with it.",
)
@click.option(
    "--expires", type=duration, default="7d", show_default=True, help="How long the token may be used."
)
@click.option("--admin", is_flag=True, help="The newcomer may invite and revoke.")
@click.option("--router", is_flag=True, help="The newcomer may forward packets of others.")
@click.option(
    "--prefix", "prefixes", type=cidr, multiple=True, help="A network behind the newcomer; may be repeated."
)
@click.option("--valid", type=duration, help="How long its membership lasts.  [default: for ever]")
@at_place
def invite(
    place: Place,
    name: str | None,
    uses: int,
    expires: int,
    admin: bool,
    router: bool,
    prefixes: tuple[Prefix, ...],
    valid: int | None,
) -> None:
    """Print a token that lets a machine join. Works with the node running or stopped.

    The token is the only line on standard output. Whoever has it can join: hand it over as you would a key.
    """
    if name is not None:
        node_name(name)
    terms = InvitationTerms(
        name=name,
        uses=uses,
        expires=expires * SECOND,
        roles=(Role.ADMIN if admin else Role(0)) | (Role.ROUTER if router else Role(0)),
        prefixes=prefixes,
        valid_seconds=valid or 0,
    )
    try:
        token = place.call("invite", _arguments(terms))["token"]
    except NotRunning:
        token = _invite_stopped(place, terms)
    click.echo(token)
    if sys.stderr.isatty():
        click.echo("on the other machine: meshnode join TOKEN", err=True)


def _arguments(terms: InvitationTerms) -> dict[str, Any]:
    """The terms as the control socket takes them."""
    return {
        "name": terms.name,
        "uses": terms.uses,
        "expires_s": terms.expires // SECOND,
        "admin": bool(terms.roles & Role.ADMIN),
        "router": bool(terms.roles & Role.ROUTER),
        "prefixes": [prefix_text(each) for each in terms.prefixes],
        "valid_s": terms.valid_seconds,
    }


def _invite_stopped(place: Place, terms: InvitationTerms) -> str:
    """As the running node would do it. Raises Failure, EdgeError or Refusal; then no invitation is open."""
    settings = place.settings()
    endpoints = dict.fromkeys(map(str, (*settings.advertise, *local_endpoints(settings.port))))
    if not endpoints:
        raise Failure("no address to put into the token: say where this node is reached with `advertise`")
    with stopped_node(place.store) as node:
        where = tuple(endpoints)[:MAX_ENDPOINTS]
        token = node.registrar.invite(terms, node.static, where, SystemEntropy(), clock.now().wall)
        node.save()
    return token.encode()
