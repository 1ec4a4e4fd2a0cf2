"""Where a peer's datagrams may come from to be queued as the peer's: paths that it has answered on, while they behave.

A header can be made up by anybody who has seen one, and only opening shows it. So datagrams from elsewhere wait in a
small queue of their own, and so do those of a source most of whose tags were wrong lately.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshnode.values import SECOND, Nanos, Path

WINDOW: Nanos = 1 * SECOND
"""Tags are counted for so long, and so long a demotion lasts."""

MAX_BAD_TAGS = 32
"""Fewer wrong tags in a window are no flood."""


class Source:
    """One proven path: how many datagrams from it could be opened lately, and how many not."""

    __slots__ = ("bad", "demoted_until", "good", "since")

    def __init__(self) -> None:
        self.good = self.bad = 0
        self.since: Nanos = 0
        self.demoted_until: Nanos = 0

    def judge(self, now: Nanos) -> bool:
        """Wrong tags were counted: demote the source if they were the most of what came. Whether it just was.

        Only if they were the most: else a few forged datagrams would be enough to demote an honest peer.
        """
        demoted = False
        if self.bad >= MAX_BAD_TAGS and self.bad > self.good:
            demoted = self.demoted_until <= now
            self.demoted_until = now + WINDOW
        elif now - self.since <= WINDOW:
            return False
        self.good = self.bad = 0
        self.since = now
        return demoted


class Sources:
    """The proven paths of one peer."""

    __slots__ = ("_sources",)

    def __init__(self) -> None:
        self._sources: dict[Path, Source] = {}

    def prove(self, paths: Iterable[Path]) -> None:
        """Exactly these paths are proven from now on; what is known of them is kept."""
        self._sources = {path: self._sources.get(path) or Source() for path in paths}

    def get(self, path: Path) -> Source | None:
        """The source, demoted or not; None if the path is not proven."""
        return self._sources.get(path)
