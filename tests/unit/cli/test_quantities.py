"""Numbers and tables as people read them, and what people type."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.cli.failure import shown
from meshnode.cli.parameters import cidr, duration
from meshnode.cli.quantities import bytes_text, milliseconds_text, seconds_text
from meshnode.cli.tables import Column, plain_lines


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (-1, "0 s"),
        (0.9, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (185, "3 min 5 s"),
        (7300, "2 h 1 min"),
        (86_400, "1 d"),
        (270_000, "3 d 3 h"),
    ],
)
def test_seconds(seconds: float | None, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9949, "9.9 kB"),
        (9960, "10 kB"),
        (999_600, "1.0 MB"),
        (3e16, "30000 TB"),
    ],
)
def test_bytes(size: float | None, text: str) -> None:
    assert bytes_text(size) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(None, "-"), (0, "0.00 ms"), (0.123, "0.12 ms"), (12.34, "12.3 ms"), (250.4, "250 ms")],
)
def test_milliseconds(milliseconds: float | None, text: str) -> None:
    assert milliseconds_text(milliseconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43_200), ("7d", 604_800), ("4w", 2_419_200)]
)
def test_durations(text: str, seconds: int) -> None:
    assert duration(text) == seconds


@given(st.text(max_size=12))
def test_any_text_as_a_duration_or_prefix_is_read_or_refused(text: str) -> None:
    for parse in (duration, cidr):
        refusal = ""
        try:
            parse(text)
        except click.BadParameter as error:
            refusal = error.message
        assert "\n" not in refusal


def test_what_somebody_typed_stays_one_short_line() -> None:
    assert shown("a\nb\x1b[0m") == '"a\\nb\\x1b[0m"'
    assert shown("x" * 300) == f'"{"x" * 40}…"'


def test_a_plain_table() -> None:
    columns = [Column("NAME"), Column("N", right=True)]
    assert plain_lines(columns, [["a", "10"], ["longer", "9"]]) == ["NAME     N", "a       10", "longer   9"]
