"""Anti-entropy: everybody ends up with the union, under loss, and nobody can be silenced or made to flood."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.crypto.primitives import SODIUM
from meshnode.proto.constants import (
    DIGEST_INTERVAL,
    DIGEST_PEERS,
    GOSSIP_BURST,
    GOSSIP_BYTES_PER_SECOND,
    GOSSIP_FANOUT,
    SYNC_TIMEOUT,
    SYNCS_AT_ONCE,
)
from meshnode.proto.context import Context, NodeConfig
from meshnode.proto.gossip import BUCKETS, INCOME, MAX_ORPHANS, SUMMARY_ITEMS, Gossip
from meshnode.proto.membership import Membership
from meshnode.values import MILLISECOND, SECOND, BadPacket, Now, PeerId, SendFrames
from meshnode.wire.control import (
    MAX_CONTROL,
    Buckets,
    ControlMessage,
    Digest,
    GoodbyeMessage,
    Statements,
    Summary,
    Want,
    parse_control_untrusted,
)
from meshnode.wire.frames import FRAME_HEADER
from meshnode.wire.statement import SignedStatement
from tests.unit.proto.entropy import Dice
from tests.unit.proto.people import GENESIS, NETWORK, ROOT, WALL, Person, admin, grant, record, revocation

BOOT = 1000 * SECOND
LATENCY = 10 * MILLISECOND


@dataclass
class Talker:
    """One node that does nothing but gossip."""

    person: Person
    circle: Circle
    learned: list[SignedStatement] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.membership = Membership(SODIUM, GENESIS, WALL)
        config = NodeConfig(self.person.seed, self.person.static_secret)
        self.context = Context(config, SODIUM, NETWORK, Dice(self.person.name))
        self.up: list[PeerId] = []
        self.gossip = Gossip(
            self.context, self.membership, lambda: self.up, lambda s, _p, _n: self.learned.append(s), self.now
        )

    @property
    def now(self) -> Now:
        return Now(self.circle.time, WALL)

    def know(self, *statements: bytes) -> None:
        for raw in statements:
            self.membership.add_untrusted(raw, WALL)

    def publish(self, *statements: bytes) -> None:
        self.know(*statements)
        self.gossip.publish(list(statements), self.now)

    def meet(self, other: Talker) -> None:
        self.up.append(other.person.id)
        self.gossip.peer_up(other.person.id, self.now)

    def part(self, other: Talker) -> None:
        self.up.remove(other.person.id)
        self.gossip.peer_gone(other.person.id)

    def hear(self, source: Talker, message: ControlMessage) -> None:
        try:
            self.gossip.handle_untrusted(source.person.id, message, self.now)
        except BadPacket as error:
            self.context.count(error.reason)

    def said(self) -> list[tuple[PeerId, ControlMessage]]:
        """What it wants to send, taken out."""
        messages = []
        while self.context.outputs:
            output = self.context.outputs.popleft()
            assert isinstance(output, SendFrames)
            body = output.payload[FRAME_HEADER.size :]
            assert len(body) <= MAX_CONTROL
            message = parse_control_untrusted(body)
            assert message is not None
            messages.append((output.peer, message))
        return messages


class Circle:
    """Talkers in virtual time. `drops` says which messages are lost."""

    def __init__(self, *names: str) -> None:
        self.time = BOOT
        self.talkers = [Talker(Person(name), self) for name in names]
        self.sent: list[tuple[Talker, PeerId, ControlMessage]] = []
        self.drops: Callable[[], bool] = lambda: False
        self._flying: list[tuple[int, int, Talker, Talker, ControlMessage]] = []
        self._number = 0

    def meet(self, *pairs: tuple[Talker, Talker]) -> None:
        for a, b in pairs or [(a, b) for a in self.talkers for b in self.talkers if a is not b]:
            a.meet(b)
            if pairs:
                b.meet(a)

    def run(self, duration: int) -> None:
        end = self.time + duration
        self.collect()
        while True:
            due = [t.context.timers.next() for t in self.talkers]
            times = [d[0] for d in due if d is not None] + [f[0] for f in self._flying]
            if not times or min(times) > end:
                self.time = end
                return
            self.time = max(self.time, min(times))
            for talker in self.talkers:
                while talker.context.timers.pop_expired(self.time) is not None:
                    talker.gossip.handle_timer(talker.now)
            arrived = sorted((f for f in self._flying if f[0] <= self.time), key=lambda f: f[:2])
            self._flying = [f for f in self._flying if f[0] > self.time]
            for _, _, source, target, message in arrived:
                target.hear(source, message)
            self.collect()

    def collect(self) -> None:
        for talker in self.talkers:
            for peer, message in talker.said():
                self.sent.append((talker, peer, message))
                target = next((t for t in self.talkers if t.person.id == peer), None)
                if target is not None and not self.drops():
                    self._number += 1
                    self._flying.append((self.time + LATENCY, self._number, talker, target, message))

    def agree(self) -> bool:
        return len({t.gossip.digest() for t in self.talkers}) == 1


@cache
def crowd(count: int, prefix: str = "host") -> tuple[bytes, ...]:
    return tuple(grant(ROOT, Person(f"{prefix}-{number}")) for number in range(count))


# --- convergence ------------------------------------------------------------------------------------------------------


def test_who_knows_the_same_says_nothing_more() -> None:
    circle = Circle("ann", "bob")
    for talker in circle.talkers:
        talker.know(*crowd(5))
    circle.meet()
    circle.run(SECOND)
    assert circle.agree()
    assert [type(m) for _, _, m in circle.sent] == [Digest, Digest]


@pytest.mark.parametrize("names", [("ann", "bob"), ("bob", "ann")])
def test_two_that_meet_end_up_with_the_union(names: tuple[str, str]) -> None:
    circle = Circle(*names)
    first, second = circle.talkers
    first.know(admin(ROOT, Person("eve")), *crowd(7, "left"), record(Person("left-1")))
    second.know(*crowd(9, "right"), revocation(ROOT, Person("eve")), record(Person("right-2")))
    circle.meet((first, second))
    circle.run(SECOND)
    assert circle.agree()
    assert len(first.membership.everything()) == 1 + 8 + 1 + 10 + 1
    assert (len(first.learned), len(second.learned)) == (11, 9)


def test_a_newcomer_learns_a_network_of_many_in_seconds() -> None:
    circle = Circle("ann", "bob", "cat", "new")
    ann, bob, cat, new = circle.talkers
    for talker in (ann, bob, cat):
        talker.know(*crowd(150))
    circle.meet((new, ann), (new, bob), (new, cat), (ann, bob), (bob, cat), (ann, cat))
    circle.run(10 * SECOND)
    assert circle.agree()
    pulled = {
        t.person.name for t, peer, m in circle.sent if isinstance(m, Statements) and peer == new.person.id
    }
    assert pulled <= {"ann", "bob", "cat"}
    assert sum(len(m.items) for t, peer, m in circle.sent if isinstance(m, Statements)) < 3 * 4 * 150


def test_what_vouches_goes_before_what_it_vouches_for() -> None:
    circle = Circle("ann", "bob")
    ann, bob = circle.talkers
    people = [ROOT, Person("one"), Person("two"), Person("three")]
    chain = [admin(a, b) for a, b in itertools.pairwise(people)]
    circle.meet((ann, bob))
    ann.know(*chain, record(people[3]))
    ann.publish(record(people[3]), *reversed(chain))
    circle.run(LATENCY)
    assert circle.agree()
    assert [s.raw for s in bob.learned] == [*chain, record(people[3])]


def test_orphans_wait_a_little_for_what_vouches_for_them() -> None:
    circle = Circle("ann", "bob")
    ann, bob = circle.talkers
    person = Person("one")
    bob.hear(ann, Statements((grant(person, Person("two")), record(person))))
    assert bob.learned == []
    bob.hear(ann, Statements((admin(ROOT, person),)))
    assert len(bob.learned) == 3
    for number in range(3 * MAX_ORPHANS):
        bob.hear(ann, Statements((grant(Person("stranger"), Person(f"friend-{number}")),)))
    assert len(bob.gossip._orphans) <= MAX_ORPHANS


def test_news_spreads_at_once_from_its_origin_and_by_a_few_from_there() -> None:
    circle = Circle(*(f"node{n}" for n in range(12)))
    circle.meet()
    circle.run(SECOND)
    circle.sent.clear()
    origin = circle.talkers[0]
    origin.publish(*crowd(1))
    circle.run(LATENCY)
    assert circle.agree()
    by_origin = [peer for t, peer, m in circle.sent if isinstance(m, Statements) and t is origin]
    assert len(by_origin) == len(circle.talkers) - 1
    circle.run(SECOND)
    told = [t for t, _, m in circle.sent if isinstance(m, Statements) and t is not origin]
    assert all(told.count(t) <= GOSSIP_FANOUT for t in circle.talkers)


def test_news_does_not_go_back_to_where_it_came_from() -> None:
    circle = Circle("ann", "bob")
    circle.meet()
    circle.run(SECOND)
    circle.sent.clear()
    circle.talkers[0].publish(*crowd(1))
    circle.run(SECOND)
    assert [t.person.name for t, _, m in circle.sent if isinstance(m, Statements)] == ["ann"]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), loss=st.integers(0, 40), count=st.integers(2, 6))
def test_under_loss_all_agree_in_the_end(seed: int, loss: int, count: int) -> None:
    circle = Circle(*(f"node{n}" for n in range(count)))
    dice = Dice(str(seed))
    circle.drops = lambda: dice.token(1)[0] % 100 < loss
    for number, talker in enumerate(circle.talkers):
        talker.know(admin(ROOT, Person(f"chief-{number}")), *crowd(5, f"part-{number}"))
        talker.know(*(grant(Person(f"chief-{number}"), Person(f"deep-{number}-{n}")) for n in range(5)))
    # A ring: what the far side knows has to come through the others.
    ring = list(zip(circle.talkers, circle.talkers[1:] + circle.talkers[:1], strict=True))
    circle.meet(*(ring if count > 2 else ring[:1]))
    circle.run(20 * SECOND)
    for talker in circle.talkers:
        talker.publish(record(Person(f"deep-{circle.talkers.index(talker)}-1")))
    circle.run(300 * SECOND)
    assert circle.agree()
    assert len(circle.talkers[0].membership.everything()) == 1 + count * 12


# --- rounds -----------------------------------------------------------------------------------------------------------


def test_every_ten_seconds_a_digest_goes_to_three_at_random() -> None:
    circle = Circle("ann", *(f"node{n}" for n in range(8)))
    ann = circle.talkers[0]
    circle.meet(*((ann, other) for other in circle.talkers[1:]))
    circle.run(SECOND)
    circle.sent.clear()
    circle.run(100 * SECOND)
    rounds = [peer for t, peer, m in circle.sent if t is ann and isinstance(m, Digest)]
    assert len(rounds) >= 100 * SECOND // (DIGEST_INTERVAL * 5 // 4) * DIGEST_PEERS
    assert len(rounds) <= (100 * SECOND // DIGEST_INTERVAL + 1) * DIGEST_PEERS
    assert len(set(rounds)) == 8


def test_nobody_there_nothing_said() -> None:
    circle = Circle("ann")
    circle.run(60 * SECOND)
    assert circle.sent == []


def test_a_peer_that_always_differs_does_not_silence_us() -> None:
    circle = Circle("ann", "bob", "liar")
    ann, bob, liar = circle.talkers
    circle.meet((ann, bob))
    ann.meet(liar)
    circle.run(SECOND)
    circle.sent.clear()
    for number in range(600):
        ann.hear(liar, Digest(number.to_bytes(16, "big"), 1))
        circle.run(SECOND // 10)
    assert [m for t, peer, m in circle.sent if t is ann and peer == bob.person.id and isinstance(m, Digest)]
    questions = [m for t, peer, m in circle.sent if peer == liar.person.id and isinstance(m, Buckets)]
    assert len(questions) <= 60 * SECOND // SYNC_TIMEOUT + 1


def test_liars_do_not_take_all_the_places() -> None:
    circle = Circle("ann", "bob", *(f"liar{n}" for n in range(SYNCS_AT_ONCE + 1)))
    ann, bob, *liars = circle.talkers
    bob.know(*crowd(3))
    for liar in liars:
        ann.meet(liar)
        ann.hear(liar, Digest(bytes(16), 1))
    circle.meet((ann, bob))
    ann.hear(bob, Digest(bob.gossip.digest(), 4))
    # Bob himself asks nothing: whatever Ann learns she has asked for.
    for _ in range(20):
        for liar in liars:
            ann.hear(liar, Digest(bytes(16), 1))
        circle.run(SECOND)
    assert ann.gossip.digest() == bob.gossip.digest()


def test_who_has_caught_up_is_asked_no_more() -> None:
    circle = Circle("ann", "bob")
    ann, bob = circle.talkers
    bob.know(*crowd(3))
    circle.meet((ann, bob))
    circle.run(5 * SECOND)
    circle.sent.clear()
    circle.run(60 * SECOND)
    assert {type(m) for _, _, m in circle.sent} == {Digest}
    assert not ann.gossip._differs
    assert not ann.gossip._syncing


def test_who_is_gone_is_forgotten() -> None:
    circle = Circle("ann", "bob")
    ann, bob = circle.talkers
    circle.meet((ann, bob))
    ann.hear(bob, Digest(bytes(16), 1))
    ann.hear(bob, Statements(()))
    ann.part(bob)
    ann.hear(bob, Digest(bytes(16), 1))
    for table in (ann.gossip._budgets, ann.gossip._income, ann.gossip._differs, ann.gossip._syncing):
        assert len(table) == 0


# --- budgets ----------------------------------------------------------------------------------------------------------


def sent_bytes(circle: Circle, source: Talker) -> int:
    return sum(
        sum(map(len, m.items)) if isinstance(m, Statements) else 0 for t, _, m in circle.sent if t is source
    )


def test_nobody_makes_us_send_more_than_a_budget() -> None:
    circle = Circle("ann", "eve")
    ann, eve = circle.talkers
    ann.know(*crowd(400))
    ann.meet(eve)
    seconds = 3
    for _ in range(seconds * 5):
        for bucket in range(BUCKETS):
            ann.hear(eve, Summary(bucket, ()))
        ann.hear(eve, Buckets((bytes(8),) * BUCKETS))
        ann.hear(eve, Want(tuple(item[:8] for item in list(ann.membership.everything())[:100])))
        circle.run(SECOND // 5)
    assert GOSSIP_BURST < sent_bytes(circle, ann) <= GOSSIP_BURST + seconds * GOSSIP_BYTES_PER_SECOND
    assert ann.context.counters["gossip paced"] > 0


def test_what_we_sign_ourselves_is_told_whoever_has_spent_his_budget() -> None:
    """Else a member could keep its own revocation from being told."""
    circle = Circle("ann", "bob", "eve")
    ann, bob, eve = circle.talkers
    ann.know(*crowd(200), grant(ROOT, eve.person))
    bob.know(*crowd(200), grant(ROOT, eve.person))
    circle.meet()
    circle.run(SECOND)
    for bucket in range(BUCKETS):
        ann.hear(eve, Summary(bucket, ()))
    ann.publish(revocation(ROOT, eve.person))
    circle.run(LATENCY)
    assert eve.person.id in bob.membership.revoked


def test_a_flood_of_news_costs_its_source_the_budget_and_nobody_else() -> None:
    circle = Circle("ann", "bob", "cat", "eve")
    ann, _bob, cat, eve = circle.talkers
    for talker in circle.talkers:
        talker.know(grant(ROOT, eve.person), grant(ROOT, cat.person))
    circle.meet()
    circle.run(SECOND)
    circle.sent.clear()
    for number in range(1200):
        ann.hear(eve, Statements((record(eve.person, 1000 + number),)))
    circle.collect()
    size = len(record(eve.person))
    assert sent_bytes(circle, ann) <= GOSSIP_BURST + GOSSIP_BYTES_PER_SECOND
    assert len(ann.learned) <= INCOME * GOSSIP_BURST // size
    assert ann.context.counters["gossip flood"] > 0
    ann.hear(cat, Statements((record(cat.person, 5),)))
    circle.collect()
    honest = record(cat.person, 5)
    assert [m for t, _, m in circle.sent if t is ann and isinstance(m, Statements) and honest in m.items]


# --- hostile messages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "reason"),
    [(Buckets((bytes(8),) * (BUCKETS - 1)), "buckets"), (Summary(BUCKETS, ()), "bucket")],
)
def test_what_does_not_fit_is_refused(message: ControlMessage, reason: str) -> None:
    circle = Circle("ann", "eve")
    ann, eve = circle.talkers
    ann.meet(eve)
    ann.hear(eve, message)
    assert ann.context.counters[reason] == 1


def test_other_messages_are_not_gossips_business() -> None:
    circle = Circle("ann", "eve")
    ann, eve = circle.talkers
    ann.hear(eve, GoodbyeMessage("bye"))
    assert ann.said() == []


def test_a_bad_item_does_not_spoil_the_others() -> None:
    circle = Circle("ann", "eve")
    ann, eve = circle.talkers
    good = crowd(2)
    bad = good[0][:-1] + bytes([good[0][-1] ^ 1])
    ann.hear(eve, Statements((bytes(100), bad, good[0], GENESIS, good[1])))
    assert tuple(s.raw for s in ann.learned) == good
    assert ann.context.counters["gossip signature"] == 1
    ann.hear(eve, Statements(good))
    assert len(ann.learned) == 2


def test_a_bucket_of_more_than_a_summary_holds_is_synced_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshnode.proto.gossip.SUMMARY_ITEMS", 3)
    assert SUMMARY_ITEMS > 3
    circle = Circle("ann", "bob")
    ann, bob = circle.talkers
    ann.know(*crowd(150, "left"))
    bob.know(*crowd(150, "right"))
    circle.meet((ann, bob))
    circle.run(60 * SECOND)
    assert circle.agree()


MESSAGES: st.SearchStrategy[ControlMessage] = st.one_of(
    st.builds(Digest, st.binary(min_size=16, max_size=16), st.integers(0, 2**32 - 1)),
    st.builds(Buckets, st.lists(st.binary(min_size=8, max_size=8), max_size=100).map(tuple)),
    st.builds(Buckets, st.just((bytes(8),) * BUCKETS)),
    st.builds(
        Summary, st.integers(0, 63), st.lists(st.binary(min_size=8, max_size=8), max_size=100).map(tuple)
    ),
    st.builds(Want, st.lists(st.binary(min_size=8, max_size=8), max_size=100).map(tuple)),
    st.builds(Statements, st.lists(st.binary(min_size=99, max_size=512), max_size=4).map(tuple)),
    st.builds(Statements, st.lists(st.sampled_from(crowd(4)), max_size=4).map(tuple)),
)


@settings(max_examples=80, deadline=None)
@given(messages=st.lists(MESSAGES, max_size=20))
def test_whatever_a_member_says(messages: list[ControlMessage]) -> None:
    circle = Circle("ann", "eve")
    ann, eve = circle.talkers
    ann.know(*crowd(2))
    ann.meet(eve)
    for message in messages:
        ann.hear(eve, message)
    circle.run(SECOND)
    assert len(ann.gossip._differs) <= 1
    assert len(ann.gossip._syncing) <= 1
    assert sent_bytes(circle, ann) <= GOSSIP_BURST + GOSSIP_BYTES_PER_SECOND
