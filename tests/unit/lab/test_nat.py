from ipaddress import IPv4Address

import pytest

from meshnode.lab import Nat
from meshnode.lab.namespace import drop_rules
from meshnode.lab.nat import TABLES, nat_rules

INSIDE = IPv4Address("192.168.0.2")


@pytest.mark.parametrize("kind", Nat)
def test_every_kind_first_removes_the_one_before(kind: Nat) -> None:
    rules = nat_rules(kind, "wan0", INSIDE)
    for table in TABLES:
        assert f"add table {table}\ndelete table {table}\n" in rules


@pytest.mark.parametrize("kind", Nat)
def test_what_each_kind_consists_of(kind: Nat) -> None:
    rules = nat_rules(kind, "wan0", INSIDE)
    assert ("masquerade" in rules) == kind.translates == (kind not in (Nat.NONE, Nat.FIREWALL))
    assert ("fully-random" in rules) == (kind is Nat.SYMMETRIC)
    assert (f"dnat to {INSIDE}" in rules) == (kind is Nat.FULL_CONE)
    assert ("drop" in rules) == (kind is not Nat.NONE)


def test_a_full_cone_without_anybody_to_expose_is_a_cone() -> None:
    assert nat_rules(Nat.FULL_CONE, "wan0") == nat_rules(Nat.CONE, "wan0", INSIDE)


def test_what_is_dropped_is_dropped_on_every_way_through_the_node() -> None:
    rules = drop_rules("udp", "meta l4proto udp")
    assert rules.startswith("add table inet drop_udp\ndelete table inet drop_udp\n")
    assert rules.count("meta l4proto udp drop") == 3
    for hook in ("input", "forward", "output"):
        assert f"hook {hook} " in rules
