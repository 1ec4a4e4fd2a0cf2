"""One session as the data plane holds it: two keys, a counter, a replay window, and what it did on which
path."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from meshnode.crypto.replay import ReplayWindow
from meshnode.crypto.suites import SUITES, Aead
from meshnode.values import Capability, Path, SessionKeys, Suite, TrafficNote

if TYPE_CHECKING:
    from meshnode.dataplane.peer import Peer

AeadFactory = Callable[[Suite, bytes], Aead]
"""`crypto.suites.aead`, or the simulator's cheap one. Sealing and opening must work in place."""


class Session:
    """The keys and counters of one session with one peer."""

    __slots__ = (
        "capabilities",
        "counter",
        "last_note",
        "last_path",
        "local_index",
        "notes",
        "open_into",
        "peer",
        "reject_after",
        "remote_index",
        "retired",
        "seal_into",
        "window",
    )

    def __init__(self, peer: Peer, keys: SessionKeys, aead: AeadFactory) -> None:
        self.peer = peer
        self.local_index = keys.local_index
        self.remote_index = keys.remote_index
        self.capabilities = keys.capabilities
        self.seal_into = aead(keys.suite, keys.send_key).seal_into
        self.open_into = aead(keys.suite, keys.receive_key).open_into
        self.reject_after = SUITES[keys.suite].reject_after
        self.counter = 0  # the next one to send
        self.window = ReplayWindow()
        self.retired = False
        self.notes: dict[Path, TrafficNote] = {}
        self.last_path: Path | None = None
        self.last_note: TrafficNote | None = None

    def can(self, capability: Capability) -> bool:
        """Whether the other side can receive this."""
        return bool(self.capabilities & capability)


class Ledger:
    """What the sessions did since the core last asked: one `TrafficNote` per session and path."""

    __slots__ = ("_sessions",)

    def __init__(self) -> None:
        self._sessions: dict[int, Session] = {}

    def sent(self, session: Session, path: Path, datagrams: int, with_data: int, size: int) -> None:
        """So many datagrams left, the last one with the session's last counter."""
        note = self._note(session, path)
        note.sent += datagrams
        note.sent_data += with_data
        note.sent_bytes += size
        note.highest_sent = session.counter - 1

    def received(self, session: Session, path: Path, datagrams: int, with_data: int, size: int) -> None:
        """So many datagrams were opened. (What was not opened leaves no trace: anybody can send it.)"""
        note = self._note(session, path)
        note.received += datagrams
        note.received_data += with_data
        note.received_bytes += size
        note.highest_received = session.window.highest

    def _note(self, session: Session, path: Path) -> TrafficNote:
        """The note to add to. The path is nearly always the one of the last call."""
        if path is session.last_path and session.last_note is not None:
            return session.last_note
        note = session.notes.get(path)
        if note is None:
            note = session.notes[path] = TrafficNote(session.peer.id, session.local_index, path)
            self._sessions[session.local_index] = session
        session.last_path, session.last_note = path, note
        return note

    def take(self) -> list[TrafficNote]:
        """All notes, in the order in which their sessions were first used; they start afresh."""
        notes: list[TrafficNote] = []
        for session in self._sessions.values():
            notes.extend(session.notes.values())
            session.notes = {}
            session.last_path = session.last_note = None
        self._sessions.clear()
        return notes
