"""Which flow tag a datagram bears: its flow's own, or the one that all sparse flows share (docs/protocol.md, 4).

Receivers queue by tag, so two tags for one flow could reorder it: what travels with other sparse flows overtakes what
waits under the flow's own tag. So a flow that has used its own tag stays with it until that is long out of every queue.
"""

from __future__ import annotations

from meshnode.queueing.flow_hash import FlowTagger
from meshnode.values import MILLISECOND, Nanos

KEY_SIZE = 16
"""Bytes of random key that the tags of one peer come from."""

HOLD: Nanos = 250 * MILLISECOND
"""For so long after a datagram under its own tag a flow is not sent among the sparse ones."""

MAX_HELD_FLOWS = 4096
"""Flows that are remembered; with more at a time the memory starts afresh, and some may be reordered once."""


class FlowTags:
    """The tags of what goes to one peer."""

    __slots__ = ("_held", "_tagger")

    def __init__(self, key: bytes) -> None:
        self._tagger = FlowTagger(key)
        self._held: dict[bytes, Nanos] = {}

    def rekey(self, key: bytes) -> None:
        """New tags for all flows."""
        self._tagger.rekey(key)

    def own(self, flow: bytes, now: Nanos) -> int:
        """The flow's own tag, which it keeps to for a while."""
        if len(self._held) >= MAX_HELD_FLOWS and flow not in self._held:
            self._held.clear()
        self._held[flow] = now + HOLD
        return self._tagger.tag(flow)

    def may_share(self, flow: bytes, now: Nanos) -> bool:
        """Whether a flow that is sparse now may be sent under SPARSE_TAG, with others."""
        return self._held.get(flow, now) <= now
