"""`meshnode reload`: read the settings again."""

from __future__ import annotations

import click

from meshnode.cli.help import example
from meshnode.cli.place import Place, at_place


@click.command(epilog=example("meshnode reload --net home"))
@at_place
def reload(place: Place) -> None:
    """Make the running node read its settings again.

    What can change at once does; the reply names the keys that wait for a restart.
    """
    place.settings()  # a mistake in the file is told here, and the node goes on as it was
    reply = place.ask("reload")
    click.echo(f"changed: {_keys(reply['changed'])}")
    if reply["needs_restart"]:
        click.echo(f"only after a restart: {_keys(reply['needs_restart'])}")


def _keys(names: list[str]) -> str:
    """As they are spelt in the file."""
    return ", ".join(name.replace("_", "-") for name in names) or "nothing"
