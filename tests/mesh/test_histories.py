"""Anything can happen, in any order; after each `settle` the mesh is what the model says.

The difference to `tests/sim/test_story.py`: Hypothesis looks for the history, and shrinks one that fails to the few
things that matter. It prints them as calls on a `Story`, which run as they stand.
"""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.sim.story import NETWORKS, Story

SIZE = 5
HOSTS = st.integers(1, SIZE - 1)
ANY = st.integers(0, SIZE - 1)
LANS = st.sampled_from(NETWORKS[1:])


class MeshHistory(RuleBasedStateMachine):
    """One `Story`; rules are what can happen in it. The invariants of the world are checked at every step inside."""

    story: Story

    @initialize(seed=st.integers(0, 7))
    def begin(self, seed: int) -> None:
        self.story = Story(seed, SIZE)
        for number in range(1, SIZE - 1):
            self.story.join(number)
        self.settled = False

    def _happens(self) -> Story:
        self.settled = False
        return self.story

    @rule(milliseconds=st.sampled_from([1, 20, 300, 5_000, 40_000, 200_000]))
    def pass_time(self, milliseconds: int) -> None:
        self._happens().pass_time(milliseconds)

    @rule(number=HOSTS)
    def join(self, number: int) -> None:
        self._happens().join(number)

    @rule(number=ANY)
    def crash(self, number: int) -> None:
        self._happens().crash(number)

    @rule(number=ANY)
    def stop(self, number: int) -> None:
        self._happens().stop(number)

    @rule(number=ANY)
    def start(self, number: int) -> None:
        self._happens().start(number)

    @rule(number=ANY)
    def restart(self, number: int) -> None:
        self._happens().restart(number)

    @rule(number=HOSTS)
    def lose_disk(self, number: int) -> None:
        self._happens().lose_disk(number)

    @rule(number=HOSTS)
    def suspend(self, number: int) -> None:
        self._happens().suspend(number)

    @rule(number=HOSTS)
    def resume(self, number: int) -> None:
        self._happens().resume(number)

    @rule(number=HOSTS, network=st.sampled_from(NETWORKS))
    def move(self, number: int, network: str) -> None:
        self._happens().move(number, network)

    @rule(lan=LANS)
    def flush_nat(self, lan: str) -> None:
        self._happens().flush_nat(lan)

    @rule(lan=LANS)
    def renumber_router(self, lan: str) -> None:
        self._happens().renumber_router(lan)

    @rule(number=ANY, skew=st.sampled_from([-80_000, -3600, 0, 3600]))
    def set_clock(self, number: int, skew: int) -> None:
        self._happens().set_clock(number, skew)

    @rule(number=ANY, loss=st.sampled_from([0.0, 0.1, 0.3]))
    def spoil_line(self, number: int, loss: float) -> None:
        self._happens().spoil_line(number, loss)

    @rule(number=st.integers(0, SIZE - 2))
    def partition(self, number: int) -> None:
        self._happens().partition(number)

    @rule()
    def heal(self) -> None:
        self._happens().heal()

    @rule(number=HOSTS)
    def revoke(self, number: int) -> None:
        self._happens().revoke(number)

    @rule(number=ANY, other=ANY)
    def send(self, number: int, other: int) -> None:
        self._happens().send(number, other)

    @precondition(lambda self: not self.settled)
    @rule()
    def settle(self) -> None:
        self.story.settle()
        self.settled = True

    def teardown(self) -> None:
        if hasattr(self, "story") and not self.settled:
            self.story.heal()
            self.story.start(0)
            self.story.settle()


TestMeshHistory = MeshHistory.TestCase
TestMeshHistory.settings = settings(
    max_examples=20,
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
