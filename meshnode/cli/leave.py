"""`meshnode leave`: give up this node's part in a network."""

from __future__ import annotations

import time

import click

from meshnode.cli.failure import Failure
from meshnode.cli.help import example
from meshnode.cli.place import Place, at_place
from meshnode.edge.errors import NotRunning, StoreBusy
from meshnode.edge.store import StoreLock

GOODBYE_TIMEOUT = 10.0
"""Seconds for a running node to say goodbye and let go of its state."""


@click.command(epilog=example("meshnode leave --net home", "meshnode leave --net home --yes"))
@click.option("--yes", is_flag=True, help="Do not ask.")
@at_place
def leave(place: Place, yes: bool) -> None:
    """Remove this node from a network.

    It says goodbye to its peers and stops, and its keys and state are deleted from this machine.

    To come back it needs a new invitation. Its name stays taken until an admin revokes it.
    """
    store = place.store
    if not store.exists():
        raise Failure(f"this machine has no part in the network {place.net}")
    if not yes:
        click.confirm(f"Remove the keys of network {place.net} from {place.state_dir}?", abort=True)
    try:
        place.call("leave")
    except NotRunning:
        pass  # nobody to say goodbye for us
    with _lock_when_free(place):
        place.kept_settings.unlink(missing_ok=True)
        store.remove()
    click.echo(f"left {place.net}; an admin frees the name with `meshnode revoke`", err=True)


def _lock_when_free(place: Place) -> StoreLock:
    deadline = time.monotonic() + GOODBYE_TIMEOUT
    while True:
        try:
            return place.store.lock()
        except StoreBusy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
