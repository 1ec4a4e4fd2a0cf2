"""BLUE: a drop probability for each flow that does not listen (Feng et al., 2002; COBALT in sch_cake).

CoDel talks to senders that slow down. A flood does not, and its queue grows until it hits the limit. BLUE
counts such overflows: each raises the probability with which the flow's packets are refused *before* they are
queued, and time without a backlog lowers it. So a flood costs one random number per packet instead of memory
and crypto, and a flow that behaves never meets it.

    >>> blue = Blue(random=lambda: 0.005)
    >>> blue.overflowed("flood", period=5, now=10)              # now at 1/256
    >>> blue.overflowed("flood", period=5, now=16)              # and at 2/256: 0.0078
    >>> blue.refuses("flood", queued=True, period=5, now=16)
    True
    >>> blue.refuses("ssh", queued=True, period=5, now=16)
    False
    >>> blue.refuses("flood", queued=False, period=5, now=200)  # 36 periods of silence: 0.0078 - 36/4096
    False
    >>> len(blue.probabilities)                                 # nothing was left
    0
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

RAISE = 1 / 256
"""Added by an overflow (COBALT's p_inc)."""

LOWER = 1 / 4096
"""Taken off by a period without backlog (COBALT's p_dec)."""

MAX_FLOWS = 64
"""So many flows can have a probability; the next one displaces the one that was first."""


class Blue:
    """The probabilities of the flows that overflowed; `random()` draws from [0, 1), without it nothing is
    refused.

    `period`, an argument throughout, is the least time between two changes (COBALT takes CoDel's target).
    """

    __slots__ = ("_random", "probabilities")

    def __init__(self, random: Callable[[], float] | None) -> None:
        self._random = random
        self.probabilities: dict[Hashable, tuple[float, int]] = {}
        """By flow: its probability and when that last changed."""

    def overflowed(self, key: Hashable, period: int, now: int) -> None:
        """A limit was hit, and the backlog of this flow was the reason."""
        probability, changed = self.probabilities.get(key, (0.0, now - period - 1))
        if self._random is None or now - changed <= period:
            return
        if key not in self.probabilities and len(self.probabilities) >= MAX_FLOWS:
            del self.probabilities[next(iter(self.probabilities))]
        self.probabilities[key] = min(1.0, probability + RAISE), now

    def emptied(self, key: Hashable, period: int, now: int) -> None:
        """The flow had its turn and nothing to send."""
        probability, changed = self.probabilities.get(key, (0.0, now))
        if now - changed > period:
            self._lower(key, probability - LOWER, now)

    def refuses(self, key: Hashable, queued: bool, period: int, now: int) -> bool:
        """Whether to refuse the flow's next packet. `queued`: the flow is in the queue, so `emptied` watches
        it.

        COBALT drops at dequeue, where a flow of probability 1 is still seen to go empty. Refused at the door
        it would never be seen again, so for a flow that is not queued the time itself counts.
        """
        if key not in self.probabilities or self._random is None:
            return False
        probability, changed = self.probabilities[key]
        if not queued:
            periods = (now - changed) // period
            probability -= periods * LOWER
            self._lower(key, probability, changed + periods * period)
        return self._random() < probability

    def _lower(self, key: Hashable, probability: float, now: int) -> None:
        if probability > 0.0:
            self.probabilities[key] = probability, now
        else:
            del self.probabilities[key]
