"""The group of all verbs, and the one place where errors become lines and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from meshnode import __version__
from meshnode.cli.demo import demo
from meshnode.cli.failure import Failure
from meshnode.cli.init import init
from meshnode.cli.invite import invite
from meshnode.cli.join import join
from meshnode.cli.leave import leave
from meshnode.cli.ping import ping
from meshnode.cli.reload import reload
from meshnode.cli.revoke import revoke
from meshnode.cli.status import peers, status
from meshnode.edge.errors import EdgeError
from meshnode.lab import LabError
from meshnode.proto.invitations import Refusal
from meshnode.settings import SettingsError

DONE, FAILED, USAGE = 0, 1, 2
"""Exit codes: done; failed, with one line on standard error that says what to do; called in a wrong way."""

EXPECTED = (Failure, EdgeError, SettingsError, Refusal, LabError, OSError)
"""Errors whose text was written for people. Anything else is a bug and keeps its traceback."""


class Verbs(click.Group):
    """The verbs in the order in which one needs them, not in that of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=Verbs,
    commands=[init, invite, join, status, peers, ping, revoke, reload, leave, demo],
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def meshnode(context: click.Context) -> None:
    """A mesh VPN node whose latency stays flat under load.

    \b
    Example, on the first machine:
      meshnode init --net home
      meshnode join --net home &
      meshnode invite --net home
    and on each other one, with the line that `invite` printed:
      meshnode join mn1...
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def run(arguments: Sequence[str] | None = None) -> None:
    """The console script. Ends the process with one of the exit codes above."""
    sys.exit(main(arguments))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (None: the process's own) and return its exit code."""
    try:
        status = meshnode.main(arguments, prog_name="meshnode", standalone_mode=False)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "meshnode"
        return _complain(f"{error.format_message()} (see {where} --help)", USAGE)
    except click.ClickException as error:
        return _complain(error.format_message(), FAILED)
    except (click.Abort, KeyboardInterrupt):
        return _complain("stopped", FAILED)
    except BrokenPipeError:
        # Whoever read our output has had enough; Python must not try to flush it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except EXPECTED as error:
        return _complain(str(error), FAILED)
    return status if isinstance(status, int) else DONE


def _complain(line: str, code: int) -> int:
    click.echo(f"meshnode: {' '.join(line.split())}", err=True)
    return code
