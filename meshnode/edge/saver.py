"""Puts the node's state on disk in a thread, newest first, and tells the core what became of it."""

from __future__ import annotations

from collections.abc import Callable

import trio

from meshnode.edge.errors import EdgeError
from meshnode.edge.store import Store
from meshnode.values import StateSaved


class Saver:
    """One write at a time. A request that comes during a write is served by the next one, with the state of then."""

    def __init__(
        self, store: Store, snapshot: Callable[[], bytes], done: Callable[[StateSaved], None]
    ) -> None:
        self._store = store
        self._snapshot = snapshot
        self._done = done
        self._requested: list[int] = []
        self._waiting: dict[int, trio.Event] = {}
        self._outcomes: dict[int, str | None] = {}
        self._wakeup = trio.Event()

    def request(self, ticket: int) -> None:
        """Save what `snapshot` gives from now on."""
        self._requested.append(ticket)
        self._wakeup.set()

    async def wait(self, ticket: int) -> None:
        """Return once the save with this ticket is on disk. Raises EdgeError with the disk's reason."""
        event = self._waiting.setdefault(ticket, trio.Event())
        await event.wait()
        error = self._outcomes.pop(ticket)
        if error is not None:
            raise EdgeError(error)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wakeup.wait()
            self._wakeup = trio.Event()
            await self.save()

    async def save(self) -> None:
        """Write now, whatever was asked for."""
        tickets, self._requested = self._requested, []
        data = self._snapshot()
        error: str | None = None
        try:
            await trio.to_thread.run_sync(self._store.write_state, data)
        except EdgeError as refusal:
            error = str(refusal)
        for ticket in tickets:
            self._done(StateSaved(ticket, error))
            if ticket in self._waiting:
                self._outcomes[ticket] = error
                self._waiting.pop(ticket).set()
