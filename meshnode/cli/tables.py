"""Tables for people: with colours on a terminal, plain aligned columns into a file or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import click


class Column(NamedTuple):
    """`right` for numbers; `colours` gives some cells their own colour."""

    title: str
    right: bool = False
    colours: Mapping[str, str] = {}


def show_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print one line of titles and one line for each row, nothing cut off in a pipe."""
    if sys.stdout.isatty():
        _show_rich(columns, rows)
    else:
        click.echo("\n".join(plain_lines(columns, rows)))


def plain_lines(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """The table as text, its columns two blanks apart."""
    table = [[column.title for column in columns], *rows]
    widths = [max(len(row[index]) for row in table) for index in range(len(columns))]
    return [
        "  ".join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ).rstrip()
        for row in table
    ]


def _show_rich(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console  # only here: it costs 60 ms, and the container asks for its health often
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
    for row in rows:
        cells = zip(row, columns, strict=True)
        table.add_row(*(Text(cell, style=column.colours.get(cell, "")) for cell, column in cells))
    # Wider than the terminal is better than cut off: a path that wraps can still be read and copied.
    needed = max(map(len, plain_lines(columns, rows)))
    Console(width=max(Console().width, needed)).print(table)
