"""Who works next: deficit round robin over lanes, charged in time (airtime fairness for a CPU).

A lane is one direction of one peer: sealing or opening its packets. Bytes are the wrong currency between
lanes, because a small packet costs the CPU nearly as much as a large one; so each lane is charged the
nanoseconds its work took, as mac80211 charges stations their airtime (Høiland-Jørgensen et al., "Ending the
Anomaly", USENIX ATC 2017). Every lane gets the same time per round, in proportion to its weight, and a lane
that has just become busy goes first, once: the same new and old lists as between the flows of fq_codel.

A turn may overrun, because a batch is not interrupted. The debt is paid in later rounds, even if the lane is
empty by then: nobody gains by going idle.

    >>> scheduler = Scheduler(turn=100)
    >>> cheap, dear = scheduler.add("cheap"), scheduler.add("dear")
    >>> spent = {"cheap": 0, "dear": 0}
    >>> for lane in (cheap, dear):
    ...     scheduler.wake(lane)
    >>> for _ in range(600):
    ...     lane = scheduler.next(now=0)
    ...     cost = 10 if lane is cheap else 50
    ...     scheduler.charge(lane, cost)
    ...     spent[lane.name] += cost
    >>> spent
    {'cheap': 5000, 'dear': 5000}
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from enum import Enum
from operator import attrgetter

TURN = 200_000
"""Nanoseconds of work per round for a lane of full weight: twenty busy lanes take turns within 4 ms."""

FULL_WEIGHT = 256
"""The weight of a lane like any other (mac80211's default)."""

MAX_DEBT_ROUNDS = 256
"""Debts beyond so many rounds are forgiven: a very long batch may have been a suspended machine."""


class LaneState(Enum):
    """Where a lane is."""

    IDLE = "idle"
    """Nothing to do, nothing owed: on no list."""
    NEW = "new"
    """Just woken: goes before the old ones, for one turn."""
    OLD = "old"
    """Takes its turns in the round."""
    BLOCKED = "blocked"
    """Has work, but must wait: for its rate, or for room in a socket."""


class Lane:
    """One party to the schedule. To be made by `Scheduler.add` and changed by nobody else."""

    __slots__ = ("deficit", "name", "share", "state", "until")

    def __init__(self, name: Hashable, share: int) -> None:
        self.name = name
        self.share = share
        self.deficit = 0
        self.state = LaneState.IDLE
        self.until: int | None = None


class Scheduler:
    """Hands out lanes that have work. The owner's loop, until the time for this turn of the mill is spent:

        lane = scheduler.next(now)     # None: nothing to do before scheduler.poll_timeout()
        if its queue is empty:         scheduler.rest(lane)
        elif its rate or socket waits: scheduler.block(lane, until)
        else:                          do a batch; scheduler.charge(lane, nanoseconds it took)

    and `wake(lane)` whenever something was put into a lane's queue.
    """

    def __init__(self, turn: int = TURN) -> None:
        if turn <= 0:
            raise ValueError(f"a turn must last, not {turn} ns")
        self._turn = turn
        self._new: deque[Lane] = deque()
        self._old: deque[Lane] = deque()
        self._blocked: list[Lane] = []
        self._resume_at: int | None = None

    def add(self, name: Hashable, weight: int = FULL_WEIGHT) -> Lane:
        """A new, idle lane. Weight 256 is a full share of the time; 16, say, suits unproven traffic."""
        share = self._turn * weight // FULL_WEIGHT
        if share <= 0:
            raise ValueError(f"weight {weight} leaves nothing of a turn of {self._turn} ns")
        return Lane(name, share)

    def remove(self, lane: Lane) -> None:
        """The lane is gone (or idle, whatever it owed)."""
        self._unlist(lane)
        lane.state = LaneState.IDLE

    def wake(self, lane: Lane) -> None:
        """There is work for the lane. Of no effect on a lane that is in the round or blocked."""
        if lane.state is LaneState.IDLE:
            lane.state = LaneState.NEW
            lane.deficit = lane.share
            self._new.append(lane)

    def next(self, now: int) -> Lane | None:
        """The lane whose turn it is: the same again until its turn is spent, or it rests or is blocked."""
        if self._resume_at is not None and now >= self._resume_at:
            self._resume(now)
        while True:
            lanes = self._new or self._old
            if not lanes:
                return None
            lane = lanes[0]
            if lane.deficit > 0:
                return lane
            lane.deficit += lane.share
            self._make_last(lane)

    def charge(self, lane: Lane, cost: int) -> None:
        """The lane's work took `cost` nanoseconds."""
        lane.deficit = max(lane.deficit - cost, -MAX_DEBT_ROUNDS * lane.share)

    def rest(self, lane: Lane) -> None:
        """The lane has no work left. It goes idle once its debt is paid and it has waited with the old ones.

        Until then `next` may hand it out once more, and the owner says `rest` again.
        """
        waits = lane.deficit <= 0 or (lane.state is LaneState.NEW and self._old)
        if not waits:
            self.remove(lane)
        elif lane.state in (LaneState.NEW, LaneState.OLD):
            self._make_last(lane)

    def block(self, lane: Lane, until: int | None = None) -> None:
        """The lane must wait until `until` (None: until `unblock`), and holds up nobody meanwhile.

        It keeps what is left of its turn.
        """
        if lane.state is LaneState.IDLE:
            return
        self._unlist(lane)
        lane.state = LaneState.BLOCKED
        lane.until = until
        self._blocked.append(lane)
        if until is not None and (self._resume_at is None or until < self._resume_at):
            self._resume_at = until

    def unblock(self, lane: Lane) -> None:
        """The lane need not wait any longer: it goes on with its turn, before the other old ones."""
        if lane.state is LaneState.BLOCKED:
            self._blocked.remove(lane)
            lane.state = LaneState.OLD
            self._old.appendleft(lane)

    def poll_timeout(self) -> int | None:
        """When to call `next` again, once it has returned None. None: when a lane wakes or is unblocked."""
        return self._resume_at

    def _resume(self, now: int) -> None:
        """Unblock the lanes whose time has come, the one that has waited longest first in the round."""
        due = [lane for lane in self._blocked if lane.until is not None and lane.until <= now]
        for lane in sorted(due, key=attrgetter("until"), reverse=True):
            self.unblock(lane)
        self._resume_at = min((lane.until for lane in self._blocked if lane.until is not None), default=None)

    def _make_last(self, lane: Lane) -> None:
        self._unlist(lane)
        lane.state = LaneState.OLD
        self._old.append(lane)

    def _unlist(self, lane: Lane) -> None:
        if lane.state is LaneState.NEW:
            self._new.remove(lane)
        elif lane.state is LaneState.OLD:
            self._old.remove(lane)
        elif lane.state is LaneState.BLOCKED:
            self._blocked.remove(lane)
