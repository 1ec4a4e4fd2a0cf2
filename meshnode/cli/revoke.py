"""`meshnode revoke`: put somebody out."""

from __future__ import annotations

import click

from meshnode.cli.help import example
from meshnode.cli.place import Place, at_place
from meshnode.cli.stopped import stopped_node
from meshnode.edge import clock
from meshnode.edge.errors import NotRunning


@click.command(
    epilog=example("meshnode revoke --net home old-laptop", "meshnode revoke --net home boss --keep")
)
@click.argument("node")
@click.option("--keep", is_flag=True, help="Sign anew for those whom only this admin had let in.")
@at_place
def revoke(place: Place, node: str, keep: bool) -> None:
    """End the membership of NODE, for good.

    NODE is a name, or the beginning of an id. Its key is refused everywhere as soon as the word has spread; its
    name and addresses are free again. Members whom only a revoked admin had let in are out with it, unless
    --keep signs for them first.
    """
    try:
        revoked = place.call("revoke", {"node": node, "keep": keep})["revoked"]
    except NotRunning:
        revoked = _revoke_stopped(place, node, keep)
    click.echo(f"revoked {revoked}", err=True)


def _revoke_stopped(place: Place, name: str, keep: bool) -> str:
    with stopped_node(place.store) as node:
        member, wall = node.member(name), clock.now().wall
        for statement in node.registrar.revoke(member, keep, wall):
            node.membership.add_untrusted(statement, wall)
        node.save()
        return member.label
