"""`meshnode join`: become a member if need be, then be one until told to stop."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from meshnode.cli.failure import Failure
from meshnode.cli.help import example
from meshnode.cli.names import node_name
from meshnode.cli.parameters import PORT, endpoints, interface_option
from meshnode.cli.place import Place, at_place
from meshnode.cli.quantities import seconds_text
from meshnode.cli.stopped import stored_network_id
from meshnode.edge import clock
from meshnode.edge.errors import EdgeError
from meshnode.settings import HostPort, Settings, SettingsError
from meshnode.values import SECOND, BadPacket
from meshnode.wire.token import MAX_TEXT, Token, parse_token_untrusted

BAD_TOKEN = {
    "not a token": "this is no meshnode token: it begins with mn1",
    "mistyped token": "the token is damaged or not complete: copy the whole line again",
    "token too new": "the token was made by a newer meshnode: update this one",
    "malformed token": "the token makes no sense: ask for a new one",
}
"""What to say for each reason of `parse_token_untrusted`."""


@click.command(
    epilog=example(
        "meshnode join --net home",
        "meshnode join mn1... --name beta",
        "meshnode invite --net home | ssh beta meshnode join -",
        "MESHNODE_TOKEN=file:/run/secrets/token MESHNODE_NET=home meshnode join",
    )
)
@click.argument("token", metavar="[TOKEN]", nargs=-1, envvar="MESHNODE_TOKEN")
@click.option(
    "--name", metavar="NAME", envvar="MESHNODE_NAME", help="Name to ask for.  [default: the host name]"
)
@click.option("--port", metavar="PORT", type=PORT, envvar="MESHNODE_PORT", help="UDP port.  [default: 4655]")
@click.option(
    "--advertise",
    metavar="HOST:PORT",
    callback=endpoints,
    multiple=True,
    envvar="MESHNODE_ADVERTISE",
    help="Where others reach this node, if it cannot see that itself; may be repeated.",
)
@click.option(
    "--interface",
    metavar="NAME",
    type=interface_option,
    envvar="MESHNODE_INTERFACE",
    help="Name of the interface.  [default: mesh-NET]",
)
@at_place
@click.pass_context
def join(
    context: click.Context,
    place: Place,
    token: tuple[str, ...],
    name: str | None,
    port: int | None,
    advertise: tuple[HostPort, ...],
    interface: str | None,
) -> None:
    """Join a network, and be a node of it.

    Runs in the foreground until SIGTERM, which says goodbye to the peers.

    TOKEN is the line that `meshnode invite` printed, - to read it from standard input, or file:PATH. It is needed
    once: a node that is a member already starts without it, and does not mind when it is given again.
    """
    if len(token) > 1:
        raise click.UsageError("give one token, as one word", context)
    place, invitation = _invitation(place, token)
    given = {"port": port, "advertise": advertise, "interface": interface}
    settings = _settings(place, given)
    asked = name or settings.name or None
    chosen = node_name(asked)

    from meshnode.edge import runner  # only here: netlink and mDNS take a while to import

    context.exit(
        runner.main(
            runner.RunOptions(
                net=place.net,
                state_dir=place.state_dir,
                runtime_dir=place.runtime_dir,
                settings=settings,
                token=invitation,
                name=chosen,
                explicit_name=asked is not None,
                read_settings=lambda: _settings_again(place, given),
            )
        )
    )


def _invitation(place: Place, given: Sequence[str]) -> tuple[Place, Token | None]:
    """The network to join, and the token if it has to be used. Raises Failure where it does not fit."""
    token: Token | None = None
    refusal: Failure | None = None
    if given:
        try:
            token = _read_token(given[0])
        except Failure as error:
            refusal = error
    if place.given is None and token is not None:
        place = place.named(token.name)
    if place.given is None and refusal is not None:
        raise refusal
    if place.store.exists():
        if token is not None and token.network_id != stored_network_id(place.store):
            raise Failure(
                f"the token is for another network than {place.net} here: `meshnode leave` that first"
            )
        return place, None
    if refusal is not None:
        raise refusal
    if token is None:
        raise Failure(
            f"no token, and this machine is not in {place.net} yet: an admin's `meshnode invite` prints one"
        )
    if token.name != place.net:
        raise Failure(f"the token is for the network {token.name}, not for {place.net}")
    late = clock.now().wall // SECOND - token.expires
    if late >= 0:
        raise Failure(
            f"the token expired {seconds_text(late)} ago by this machine's clock: ask for a new one"
        )
    return place, token


def _read_token(given: str) -> Token:
    """A token as such, from standard input (-) or from a file (file:PATH)."""
    try:
        return parse_token_untrusted(_text(given))
    except BadPacket as error:
        raise Failure(BAD_TOKEN[error.reason]) from error


def _text(given: str) -> str:
    if given == "-":
        return sys.stdin.read(MAX_TEXT)
    if not given.startswith("file:"):
        return given
    path = Path(given.removeprefix("file:"))
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            return file.read(MAX_TEXT)
    except OSError as error:
        raise Failure(
            f"cannot read the token from {path}: {(error.strerror or str(error)).lower()}"
        ) from error


def _settings_again(place: Place, given: Mapping[str, Any]) -> Settings:
    """For `meshnode reload`, whose caller is told what is wrong while the node goes on as it was."""
    try:
        return _settings(place, given)
    except SettingsError as error:
        raise EdgeError(str(error)) from error


def _settings(place: Place, given: Mapping[str, Any]) -> Settings:
    """Those of the files, and over them what options and environment have given."""
    return replace(place.settings(), **{name: value for name, value in given.items() if value})
