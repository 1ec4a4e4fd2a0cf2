"""`meshnode ping`: round-trip times inside a session, below IP."""

from __future__ import annotations

import time
from typing import Any

import click

from meshnode.cli.failure import Failure
from meshnode.cli.help import example
from meshnode.cli.place import Place, at_place
from meshnode.cli.quantities import milliseconds_text
from meshnode.cli.status import path_text

ANSWER_TIMEOUT = 10.0


@click.command(epilog=example("meshnode ping --net home beta", "meshnode ping --net home beta --count 1"))
@click.argument("peer")
@click.option(
    "--count",
    "-c",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=4,
    show_default=True,
    help="How many probes.",
)
@click.option(
    "--interval",
    "-i",
    metavar="SECONDS",
    type=click.FloatRange(0.2, 60),
    default=1.0,
    show_default=True,
    help="Seconds between them.",
)
@at_place
def ping(place: Place, peer: str, count: int, interval: float) -> None:
    """Measure the round trip to PEER inside its session.

    Each line says on which path the probe went.
    It works while firewalls, routes or the peer's own network stack do not let an ordinary ping through.
    """
    times: list[float] = []
    for number in range(count):
        if number:
            time.sleep(interval)
        reply: dict[str, Any] = place.ask("ping", {"peer": peer, "count": 1}, ANSWER_TIMEOUT)
        if reply["rtt_ms"] is None:
            click.echo(f"{peer}: no answer over {path_text(reply['path'])}")
        else:
            times.append(reply["rtt_ms"])
            click.echo(f"{peer}: {milliseconds_text(reply['rtt_ms'])} over {path_text(reply['path'])}")
    if not times:
        raise Failure(f"{peer} did not answer: `meshnode peers` shows how it is reached")
    best, worst, mean = min(times), max(times), sum(times) / len(times)
    spread = " / ".join(milliseconds_text(each) for each in (best, mean, worst))
    click.echo(f"{len(times)} of {count} answered; least / mean / most {spread}")
