"""Names and addresses that follow from keys (docs/protocol.md, 1), and endpoints as bytes."""

from __future__ import annotations

import hashlib
import ipaddress
from typing import Literal, overload

from meshnode.values import BadPacket, Endpoint, Path, PathKind, PeerId
from meshnode.wire.cursor import Cursor

_PATH_NUMBERS = {PathKind.UDP: 1, PathKind.TCP: 2, PathKind.RELAY: 3}
_LINK_LOCAL = bytes.fromhex("fe80000000000000")
_FAMILY_SIZES = {4: 4, 6: 16}
_NO_FAMILY = 0


def peer_id(identity: bytes) -> PeerId:
    """The 16-byte id of the node with this Ed25519 public key (32 bytes)."""
    return PeerId(hashlib.blake2s(b"meshnode peer" + identity, digest_size=16).digest())


def network_id(root: bytes) -> bytes:
    """The 32-byte id of the network with this genesis root key (32 bytes)."""
    return hashlib.blake2s(b"meshnode network" + root, digest_size=32).digest()


def interface_id(peer: PeerId) -> bytes:
    """8 bytes, the lower half of a node's IPv6 addresses; the u bit says local (RFC 4291, 2.5.1)."""
    return bytes([peer[0] & ~0x02]) + peer[1:8]


def link_local(peer: PeerId) -> bytes:
    """The packed fe80:: address of a node."""
    return _LINK_LOCAL + interface_id(peer)


def unique_local(network_id: bytes, peer: PeerId) -> bytes:
    """The packed address of a node in the network's unique local /48 (RFC 4193)."""
    return b"\xfd" + network_id[:5] + bytes(2) + interface_id(peer)


def pack_endpoint_address(host: str) -> bytes:
    """The 4 or 16 bytes of a numeric address; a scope (`%2`) means nothing to others and is left out.

    An IPv4-mapped address is the IPv4 address. Raises ValueError if `host` is not numeric.
    """
    return _unmapped(ipaddress.ip_address(host.partition("%")[0])).packed


def address_text(packed: bytes) -> str:
    """The text of 4 or 16 packed bytes, IPv4 for an IPv4-mapped address. ValueError for another length."""
    return str(_unmapped(ipaddress.ip_address(packed)))


def prefix_text(prefix: tuple[bytes, int]) -> str:
    """`10.0.0.0/8` for the packed network address and its length."""
    address, length = prefix
    return f"{address_text(address)}/{length}"


def pack_endpoint(endpoint: Endpoint) -> bytes:
    """family u8, port u16, address 4 or 16. Raises ValueError if the host is not numeric."""
    address = pack_endpoint_address(endpoint.host)
    family = 4 if len(address) == 4 else 6
    return bytes([family]) + endpoint.port.to_bytes(2, "big") + address


@overload
def read_endpoint(cursor: Cursor, relay: Literal[False] = False) -> Endpoint: ...
@overload
def read_endpoint(cursor: Cursor, relay: Literal[True]) -> Endpoint | None: ...
def read_endpoint(cursor: Cursor, relay: bool = False) -> Endpoint | None:
    """What `pack_endpoint` wrote; with `relay`, family 0 stands for no address and gives None."""
    family, port = cursor.integer(1), cursor.integer(2)
    if relay and family == _NO_FAMILY:
        return None
    if family not in _FAMILY_SIZES:
        raise BadPacket("address family")
    if port == 0:
        raise BadPacket("port")
    return Endpoint(address_text(cursor.take(_FAMILY_SIZES[family])), port)


def encode_path(path: Path) -> bytes:
    """The bytes that a cookie is bound to: kind u8, then address and port, or the PeerId of the relay.

    The number of our own socket is not part of it: a cookie proves where the other end is.
    """
    kind = bytes([_PATH_NUMBERS[path.kind]])
    if path.kind is PathKind.RELAY:
        if path.via is None:
            raise ValueError("a relay path has no relay")
        return kind + path.via
    return kind + pack_endpoint_address(path.remote.host) + path.remote.port.to_bytes(2, "big")


def _unmapped(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """One address, one text: else `::ffff:10.0.0.1` would be another endpoint than `10.0.0.1`."""
    return getattr(address, "ipv4_mapped", None) or address
