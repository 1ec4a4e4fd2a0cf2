"""How many connections strangers may hold: per source, in all, and who has to go."""

from __future__ import annotations

from meshnode.edge.strangers import STRANGERS, STRANGERS_PER_SOURCE, Strangers, source_of


def test_a_source_is_an_ipv4_address_or_the_64_of_an_ipv6_address() -> None:
    assert source_of("192.0.2.1") != source_of("192.0.2.2")
    assert source_of("2001:db8::1") == source_of("2001:db8::ffff:2")
    assert source_of("2001:db8::1") != source_of("2001:db8:0:1::1")
    assert source_of("fe80::1%2") == source_of("fe80::2%2")


def test_one_source_holds_only_a_few() -> None:
    table = Strangers()
    for number in range(STRANGERS_PER_SOURCE):
        assert table.admits(b"here")
        table.add(number, b"here")
    assert not table.admits(b"here")
    assert table.admits(b"there")
    table.remove(3)
    assert table.admits(b"here")


def test_with_too_many_the_oldest_has_to_go() -> None:
    table = Strangers()
    for number in range(STRANGERS):
        table.add(number, number.to_bytes(2, "big"))
    table.remove(0)
    table.add(STRANGERS, b"one")
    assert table.surplus() is None
    table.add(STRANGERS + 1, b"two")
    assert table.surplus() == 1
    table.remove(1)
    assert table.surplus() is None
    assert len(table) == STRANGERS


def test_who_is_gone_may_be_removed_again() -> None:
    table = Strangers()
    table.add(1, b"here")
    table.remove(1)
    table.remove(1)
    assert len(table) == 0
    for number in range(STRANGERS_PER_SOURCE):
        assert table.admits(b"here")
        table.add(number, b"here")
