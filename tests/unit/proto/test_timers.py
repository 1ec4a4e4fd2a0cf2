"""The table of deadlines."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.proto.timers import TimerTable


def drain(table: TimerTable, now: int) -> list[tuple[object, str]]:
    expired = []
    while (key := table.pop_expired(now)) is not None:
        expired.append(key)
    return expired


def test_an_empty_table_has_no_deadline() -> None:
    table = TimerTable()
    assert table.next() is None
    assert table.pop_expired(10**18) is None
    assert len(table) == 0


def test_a_deadline_is_due_at_its_time_and_not_before_it() -> None:
    table = TimerTable()
    table.set("peer", "rekey", 100)
    assert table.next() == (100, "rekey")
    assert table.pop_expired(99) is None
    assert table.pop_expired(100) == ("peer", "rekey")
    assert table.next() is None


def test_setting_replaces() -> None:
    table = TimerTable()
    table.set("peer", "rekey", 100)
    table.set("peer", "rekey", 300)
    assert table.deadline("peer", "rekey") == 300
    assert drain(table, 200) == []
    table.set("peer", "rekey", 50)
    assert drain(table, 200) == [("peer", "rekey")]
    assert drain(table, 400) == []


def test_owners_and_reasons_are_apart() -> None:
    table = TimerTable()
    table.set("a", "rekey", 1)
    table.set("b", "rekey", 2)
    table.set("a", "probe", 3)
    table.cancel("a", "rekey")
    table.cancel("a", "never set")
    assert table.deadline("a", "rekey") is None
    assert drain(table, 10) == [("b", "rekey"), ("a", "probe")]


def test_what_is_due_at_one_time_expires_in_the_order_of_setting() -> None:
    table = TimerTable()
    for owner in "zax":
        table.set(owner, "probe", 5)
    assert [owner for owner, _ in drain(table, 5)] == ["z", "a", "x"]


def test_a_deadline_may_be_set_while_others_expire() -> None:
    table = TimerTable()
    table.set("a", "probe", 1)
    assert table.pop_expired(1) == ("a", "probe")
    table.set("a", "probe", 2)
    assert table.pop_expired(1) is None
    assert table.pop_expired(2) == ("a", "probe")


@pytest.mark.parametrize("owners", [1, 50])
def test_putting_off_for_ever_takes_no_memory(owners: int) -> None:
    table = TimerTable()
    for time in range(20_000):
        table.set(time % owners, "silence", time)
    assert len(table) == owners
    assert len(table._heap) <= 64 + 4 * owners


KEYS = st.tuples(st.sampled_from("abc"), st.sampled_from(["rekey", "probe"]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, st.integers(0, 20)),
        st.tuples(st.just("cancel"), KEYS, st.just(0)),
        st.tuples(st.just("wait"), st.none(), st.integers(0, 20)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_it_does_what_a_plain_dictionary_would(steps: list[tuple[str, tuple[str, str] | None, int]]) -> None:
    table, model, now = TimerTable(), {}, 0
    for number, (verb, key, value) in enumerate(steps):
        if verb == "set" and key is not None:
            table.set(*key, now + value)
            model[key] = (now + value, number)
        elif verb == "cancel" and key is not None:
            table.cancel(*key)
            model.pop(key, None)
        else:
            now += value
            due = sorted(k for k in model if model[k][0] <= now)
            assert drain(table, now) == sorted(due, key=model.pop)
        assert len(table) == len(model)
        first = min(model.values(), default=None)
        following = table.next()
        assert (following and following[0]) == (first and first[0])
