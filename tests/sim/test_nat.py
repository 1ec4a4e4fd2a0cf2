"""The NAT value against the requirements of RFC 4787 that it claims to model."""

from dataclasses import replace

import pytest

from meshnode.values import SECOND, Endpoint
from tests.sim.entropy import dice
from tests.sim.nat import FULL_CONE, PORT_RESTRICTED, RESTRICTED_CONE, SYMMETRIC, Dependence, Nat, NatKind

OUTSIDE = "45.7.0.9"
HOST = Endpoint("192.168.1.2", 4655)
X = Endpoint("45.7.1.1", 1000)
X_OTHER_PORT = Endpoint("45.7.1.1", 1001)
Y = Endpoint("45.7.1.2", 1000)


def nat(kind: NatKind) -> Nat:
    return Nat(kind, OUTSIDE, dice(1, "nat"))


@pytest.mark.parametrize(
    ("mapping", "same_for_other_port", "same_for_other_address"),
    [
        (Dependence.INDEPENDENT, True, True),
        (Dependence.ADDRESS, True, False),
        (Dependence.ADDRESS_AND_PORT, False, False),
    ],
)
def test_mapping_depends_on_as_much_of_the_remote_as_it_says(
    mapping: Dependence, same_for_other_port: bool, same_for_other_address: bool
) -> None:
    table = nat(NatKind(mapping=mapping, preserves_ports=False))
    first = table.outbound(HOST, X, 0)
    assert table.outbound(HOST, X, 1) == first
    assert (table.outbound(HOST, X_OTHER_PORT, 2) == first) is same_for_other_port
    assert (table.outbound(HOST, Y, 3) == first) is same_for_other_address


@pytest.mark.parametrize(
    ("kind", "other_port", "other_address"),
    [(FULL_CONE, True, True), (RESTRICTED_CONE, True, False), (PORT_RESTRICTED, False, False)],
)
def test_filtering_lets_in_what_it_says(kind: NatKind, other_port: bool, other_address: bool) -> None:
    table = nat(kind)
    port = table.outbound(HOST, X, 0).port
    assert table.inbound(port, X, 1) == HOST
    assert (table.inbound(port, X_OTHER_PORT, 1) == HOST) is other_port
    assert (table.inbound(port, Y, 1) == HOST) is other_address


def test_nothing_comes_in_where_nothing_went_out() -> None:
    assert nat(FULL_CONE).inbound(4655, X, 0) is None


def test_a_mapping_expires_and_traffic_from_inside_keeps_it() -> None:
    table = nat(replace(FULL_CONE, expiry=20 * SECOND, inbound_refreshes=False))
    port = table.outbound(HOST, X, 0).port
    table.outbound(HOST, X, 15 * SECOND)
    assert table.inbound(port, X, 30 * SECOND) == HOST
    assert table.inbound(port, X, 36 * SECOND) is None
    assert len(table) == 0


@pytest.mark.parametrize("refreshes", [True, False])
def test_traffic_from_outside_keeps_a_mapping_only_where_the_kind_says_so(refreshes: bool) -> None:
    table = nat(replace(PORT_RESTRICTED, expiry=20 * SECOND, inbound_refreshes=refreshes))
    port = table.outbound(HOST, X, 0).port
    assert table.inbound(port, X, 15 * SECOND) == HOST
    assert (table.inbound(port, X, 30 * SECOND) == HOST) is refreshes


def test_one_remote_does_not_keep_the_filter_open_for_another() -> None:
    table = nat(replace(PORT_RESTRICTED, expiry=20 * SECOND))
    port = table.outbound(HOST, X, 0).port
    table.outbound(HOST, Y, 15 * SECOND)
    assert table.inbound(port, Y, 25 * SECOND) == HOST
    assert table.inbound(port, X, 25 * SECOND) is None


def test_ports_are_preserved_where_they_are_free() -> None:
    table = nat(PORT_RESTRICTED)
    other = Endpoint("192.168.1.3", HOST.port)
    assert table.outbound(HOST, X, 0) == Endpoint(OUTSIDE, HOST.port)
    assert table.outbound(other, X, 0).port != HOST.port
    assert table.inbound(HOST.port, X, 0) == HOST


def test_an_expired_mapping_leaves_its_port_to_others() -> None:
    table = nat(replace(PORT_RESTRICTED, expiry=20 * SECOND))
    other = Endpoint("192.168.1.3", HOST.port)
    table.outbound(HOST, X, 0)
    assert table.outbound(other, X, 30 * SECOND).port == HOST.port
    assert table.outbound(HOST, X, 31 * SECOND).port != HOST.port


def test_a_flushed_nat_knows_nobody_and_maps_anew() -> None:
    table = nat(SYMMETRIC)
    port = table.outbound(HOST, X, 0).port
    table.flush()
    assert table.inbound(port, X, 1) is None
    assert table.outbound(HOST, X, 2).port != port


def test_a_moved_nat_maps_to_its_new_address() -> None:
    table = nat(PORT_RESTRICTED)
    table.outbound(HOST, X, 0)
    table.move("45.7.0.10")
    assert table.outbound(HOST, X, 1).host == "45.7.0.10"
