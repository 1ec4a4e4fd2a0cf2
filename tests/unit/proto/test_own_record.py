"""What a node says of itself: where it can be reached."""

from __future__ import annotations

from meshnode.proto.own_record import OBSERVED_IN_RECORD, OwnRecord
from meshnode.values import Endpoint, Now
from meshnode.wire.header import VERSION
from meshnode.wire.statement import MAX_ENDPOINTS, Record, parse_statement_untrusted
from tests.unit.proto.people import ROOT, WALL, Person, grant, membership, record

ANN = Person("ann")
NOW = Now(0, WALL)
LAN, WAN, OTHER = Endpoint("192.168.0.2", 4655), Endpoint("203.0.113.9", 4655), Endpoint("203.0.113.9", 4656)


def own(*records: bytes) -> OwnRecord:
    return OwnRecord(membership(grant(ROOT, ANN), *records), ANN.id, ANN.seed, relay=True)


def signed(ours: OwnRecord) -> Record:
    body = parse_statement_untrusted(ours.sign(NOW)).body
    assert isinstance(body, Record)
    return body


def test_local_endpoints_in_their_order_then_what_most_peers_see() -> None:
    ours = own()
    assert ours.set_local([WAN, LAN])
    assert ours.set_observed([OTHER, Endpoint("198.51.100.1", 1), OTHER])
    assert ours.endpoints() == (WAN, LAN, OTHER, Endpoint("198.51.100.1", 1))


def test_only_what_changes_wants_a_new_record() -> None:
    ours = own()
    assert not ours.set_local([])
    assert ours.set_local([LAN])
    assert not ours.set_local([LAN])
    assert not ours.set_observed([LAN])
    assert ours.set_observed([WAN, LAN])
    assert not ours.set_observed([WAN, WAN])
    assert ours.set_observed([])


def test_what_nobody_else_can_use_is_left_out() -> None:
    ours = own()
    nowhere = [
        Endpoint("127.0.0.1", 1),
        Endpoint("fe80::1%2", 1),
        Endpoint("::1", 1),
        Endpoint("224.0.0.1", 1),
    ]
    assert not ours.set_local(nowhere)
    assert not ours.set_observed(nowhere[2:])


def test_the_record_has_its_bounds() -> None:
    ours = own()
    ours.set_observed([Endpoint("198.51.100.1", port) for port in range(1, 20)])
    assert len(ours.endpoints()) == OBSERVED_IN_RECORD
    ours.set_local([Endpoint("192.0.2.1", port) for port in range(1, 40)])
    assert len(ours.endpoints()) == MAX_ENDPOINTS
    assert len(signed(ours).endpoints) == MAX_ENDPOINTS


def test_a_record_is_newer_than_the_one_before_it() -> None:
    ours = own()
    ours.set_local([LAN])
    assert signed(ours) == Record(WALL, True, (VERSION,), (LAN,))
    assert signed(own(record(ANN, WALL + 7))).sequence == WALL + 8
