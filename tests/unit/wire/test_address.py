"""Names and addresses from keys, endpoints as bytes."""

from __future__ import annotations

import hashlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.values import NOWHERE, BadPacket, Endpoint, Path, PathKind, PeerId
from meshnode.wire.address import (
    address_text,
    encode_path,
    interface_id,
    link_local,
    network_id,
    pack_endpoint,
    pack_endpoint_address,
    peer_id,
    prefix_text,
    read_endpoint,
    unique_local,
)
from meshnode.wire.cursor import Cursor
from tests.unit.wire.samples import ID, KEY

ids = st.binary(min_size=16, max_size=16).map(PeerId)
endpoints = st.builds(Endpoint, st.ip_addresses().map(str), st.integers(1, 0xFFFF))


def test_ids_are_hashes_with_a_label() -> None:
    assert peer_id(KEY) == hashlib.blake2s(b"meshnode peer" + KEY, digest_size=16).digest()
    assert network_id(KEY) == hashlib.blake2s(b"meshnode network" + KEY).digest()


@given(peer=ids, network=st.binary(min_size=32, max_size=32))
def test_addresses_of_a_node(peer: PeerId, network: bytes) -> None:
    lower = interface_id(peer)
    assert lower[0] == peer[0] & 0b11111101
    assert lower[1:] == peer[1:8]
    ours, everywhere = (
        ipaddress.IPv6Address(link_local(peer)),
        ipaddress.IPv6Address(unique_local(network, peer)),
    )
    assert ours in ipaddress.ip_network("fe80::/64")
    assert everywhere in ipaddress.ip_network("fd00::/8")
    assert everywhere.packed[1:6] == network[:5]
    assert everywhere.packed[6:8] == b"\0\0"
    assert ours.packed[8:] == everywhere.packed[8:] == lower


@given(endpoint=endpoints)
def test_endpoints_come_back(endpoint: Endpoint) -> None:
    cursor = Cursor(pack_endpoint(endpoint) + b"rest")
    again = read_endpoint(cursor)
    mapped = getattr(ipaddress.ip_address(endpoint.host), "ipv4_mapped", None)
    assert again == (Endpoint(str(mapped), endpoint.port) if mapped else endpoint)
    assert cursor.rest() == b"rest"


def test_layouts_of_endpoints() -> None:
    assert pack_endpoint(Endpoint("192.0.2.1", 4655)).hex() == "04122fc0000201"
    assert pack_endpoint(Endpoint("fe80::1%eth0", 1)).hex() == "060001fe80" + "00" * 13 + "01"


def test_one_place_has_one_name() -> None:
    mapped = bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 1])
    assert address_text(mapped) == "10.0.0.1"
    assert pack_endpoint_address("::ffff:10.0.0.1") == bytes([10, 0, 0, 1])
    assert read_endpoint(Cursor(b"\x06\0\x01" + mapped)) == Endpoint("10.0.0.1", 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0\0\0", "address family"),
        (b"\x05\0\x01" + bytes(16), "address family"),
        (b"\x04\0\0" + bytes(4), "port"),
        (b"\x04\0\x01" + bytes(3), "truncated"),
        (b"\x06\0\x01" + bytes(15), "truncated"),
    ],
)
def test_bytes_that_are_no_endpoint(data: bytes, reason: str) -> None:
    with pytest.raises(BadPacket, match=reason):
        read_endpoint(Cursor(data))


def test_no_endpoint_where_one_may_be_missing() -> None:
    assert read_endpoint(Cursor(b"\0\0\0"), relay=True) is None


@pytest.mark.parametrize("host", ["", "host.example", "10.0.0.256", "10.0.0.1/8"])
def test_only_numbers_are_packed(host: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        pack_endpoint_address(host)


@pytest.mark.parametrize("packed", [b"", bytes(3), bytes(15), bytes(17)])
def test_only_addresses_have_a_text(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        address_text(packed)


def test_prefixes_have_a_text() -> None:
    assert prefix_text((bytes([10, 77, 0, 0]), 16)) == "10.77.0.0/16"
    assert prefix_text((bytes(16), 0)) == "::/0"


# --- What a cookie is bound to ----------------------------------------------------------------------------------

PATHS = [
    Path(PathKind.UDP, Endpoint("192.0.2.1", 4655)),
    Path(PathKind.TCP, Endpoint("192.0.2.1", 4655)),
    Path(PathKind.UDP, Endpoint("192.0.2.1", 4656)),
    Path(PathKind.UDP, Endpoint("192.0.2.2", 4655)),
    Path(PathKind.UDP, Endpoint("::c000:201", 4655)),
    Path(PathKind.RELAY, NOWHERE, ID),
    Path(PathKind.RELAY, NOWHERE, PeerId(bytes(16))),
]


def test_every_path_has_bytes_of_its_own() -> None:
    encoded = [encode_path(path) for path in PATHS]
    assert len({*encoded}) == len(PATHS)
    assert encoded[0].hex() == "01c0000201122f"
    assert encoded[5] == b"\x03" + ID


def test_our_own_socket_is_not_part_of_it() -> None:
    assert encode_path(PATHS[0]._replace(local=3)) == encode_path(PATHS[0])


def test_a_relay_path_needs_a_relay() -> None:
    with pytest.raises(ValueError, match="no relay"):
        encode_path(Path(PathKind.RELAY))
