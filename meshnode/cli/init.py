"""`meshnode init`: found a network."""

from __future__ import annotations

import json

import click

from meshnode.cli.failure import Failure
from meshnode.cli.help import example
from meshnode.cli.names import check_network, node_name
from meshnode.cli.parameters import PORT, cidr, endpoints
from meshnode.cli.place import Place, at_place
from meshnode.crypto.primitives import SODIUM
from meshnode.edge import clock
from meshnode.edge.entropy import SystemEntropy
from meshnode.edge.store import Secret
from meshnode.proto.registrar import found_network
from meshnode.settings import HostPort
from meshnode.values import Prefix
from meshnode.wire.state import pack_state

SMALLEST_PREFIX = 29
"""Bits; a network of fewer than six addresses is a typing error."""


@click.command(
    epilog=example("meshnode init --net home", "meshnode init --net home --name alpha --port 5000")
)
@click.option(
    "--name", metavar="NAME", envvar="MESHNODE_NAME", help="This node's name.  [default: the host name]"
)
@click.option("--port", metavar="PORT", type=PORT, envvar="MESHNODE_PORT", help="UDP port.  [default: 4655]")
@click.option(
    "--ipv4",
    type=cidr,
    default="10.77.0.0/16",
    show_default=True,
    help="Where members get their IPv4 addresses.",
)
@click.option(
    "--advertise",
    metavar="HOST:PORT",
    callback=endpoints,
    multiple=True,
    envvar="MESHNODE_ADVERTISE",
    help="Where others reach this node, if it cannot see that itself; may be repeated.",
)
@at_place
def init(
    place: Place, name: str | None, port: int | None, ipv4: Prefix, advertise: tuple[HostPort, ...]
) -> None:
    """Found a network, with this node as its first member.

    Writes keys and state, and starts nothing: that is what `meshnode join` does.
    """
    if place.given is None:
        raise click.UsageError("name the network: --net home", click.get_current_context())
    check_network(place.net)
    if len(ipv4[0]) != 4 or ipv4[1] > SMALLEST_PREFIX:
        raise Failure(
            f"--ipv4 must be an IPv4 prefix of at most {SMALLEST_PREFIX} bits, such as 10.77.0.0/16"
        )
    chosen = node_name(name)
    _found(place, chosen, ipv4, _settings(port, advertise))
    click.echo(f"founded the network {place.net}; this node is {chosen}", err=True)
    click.echo(
        f"next: `meshnode join --net {place.net}` here, `meshnode invite --net {place.net}` for each other",
        err=True,
    )


def _found(place: Place, name: str, ipv4: Prefix, settings: str) -> None:
    """Make keys and state, all or nothing: the state comes last, and what failed before it is removed."""
    store, net = place.store, place.net
    if store.exists():
        raise Failure(f"the network {net} is here already: start it with `meshnode join --net {net}`")
    random = SystemEntropy()
    identity, static, root = (random.token(32) for _ in range(3))
    state = found_network(
        SODIUM, net, name, identity, SODIUM.public_key(static), root, ipv4, clock.now().wall
    )
    store.create()
    with store.lock():
        try:
            for secret, key in ((Secret.IDENTITY, identity), (Secret.STATIC, static), (Secret.ROOT, root)):
                store.write_secret(secret, key)
            place.kept_settings.write_text(settings)
            store.write_state(pack_state(state))
        except BaseException:
            place.kept_settings.unlink(missing_ok=True)
            store.remove()
            raise


def _settings(port: int | None, advertise: tuple[HostPort, ...]) -> str:
    """The options as a settings file: what `init` was told holds for every later `join`."""
    lines = [] if port is None else [f"port = {port}"]
    if advertise:
        lines.append(f"advertise = {json.dumps([str(each) for each in advertise])}")
    return "".join(f"{line}\n" for line in lines)
