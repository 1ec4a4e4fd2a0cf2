"""What happened, in order: for people to read, and as a digest to compare two runs."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import NamedTuple

from meshnode.values import SECOND, Nanos


class Entry(NamedTuple):
    """One thing that happened: when, to whom, what kind of thing, and in words."""

    time: Nanos
    actor: str
    kind: str
    text: str
    to: str = ""


class Trace:
    """Keeps the last `limit` entries to read and a digest over all of them.

    The digest covers what was said and done, so two runs agree on it only if they agree on every byte sent.
    """

    def __init__(self, limit: int = 20_000) -> None:
        self.entries: deque[Entry] = deque(maxlen=limit)
        self.count = 0
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, time: Nanos, actor: str, kind: str, text: str, *, to: str = "", data: bytes = b"") -> None:
        """Note an entry. `data` goes into the digest and not into the text."""
        self.entries.append(Entry(time, actor, kind, text, to))
        self.count += 1
        line = f"{time}|{actor}|{kind}|{to}|{text}|{len(data)}|".encode()
        self._hash.update(line)
        self._hash.update(data)

    def digest(self) -> str:
        """A fingerprint of everything noted so far."""
        return self._hash.hexdigest()

    def to_text(self) -> str:
        """One line an entry, times in seconds."""
        return "\n".join(_line(entry) for entry in self.entries) + "\n"

    def to_markdown(self, title: str, messages: int = 300) -> str:
        """A Mermaid sequence diagram of the first `messages` things between hosts, then the whole text."""
        arrows = [line for entry in self.entries if (line := _arrow(entry)) is not None]
        shown = "\n".join(f"    {line}" for line in arrows[:messages])
        rest = f"\n{len(arrows) - messages} more arrows are left out.\n" if len(arrows) > messages else ""
        return (
            f"# {title}\n\n{self.count} entries, digest `{self.digest()}`.\n\n"
            f"```mermaid\nsequenceDiagram\n{shown}\n```\n{rest}\n```text\n{self.to_text()}```\n"
        )


def _line(entry: Entry) -> str:
    whither = f" -> {entry.to}" if entry.to else ""
    return f"{entry.time / SECOND:12.6f}  {entry.actor}{whither}  {entry.kind}  {entry.text}".rstrip()


def _arrow(entry: Entry) -> str | None:
    stamp = f"{entry.time / SECOND:.3f}"
    text = entry.text.replace(";", ",").replace("#", "")
    match entry.kind:
        case "arrive" if entry.to:
            return f"{entry.actor}->>{entry.to}: {stamp} {text}"
        case "lost" if entry.to:
            return f"{entry.actor}-x{entry.to}: {stamp} {text}"
        case "event" | "fault":
            return f"Note over {entry.actor}: {stamp} {text}"
        case _:
            return None
