"""Datagrams to and from a gateway that maps ports: PCP (RFC 6887, MAP) and its predecessor NAT-PMP (RFC 6886). No I/O.

Both live on one port and tell each other apart by the first byte, so one function reads what comes from there.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from meshnode.values import BadPacket

GATEWAY_PORT = 5351
NONCE_SIZE = 12


class Version(IntEnum):
    """The first byte."""

    NAT_PMP = 0
    PCP = 2


class Transport(IntEnum):
    """What is mapped, by its number in the IP header."""

    TCP = 6
    UDP = 17


SUCCESS = 0
UNSUPPORTED_VERSION = 1
REASONS = {
    Version.NAT_PMP: {
        1: "unsupported version",
        2: "not authorized",
        3: "network failure",
        4: "out of resources",
        5: "unsupported opcode",
    },
    Version.PCP: {
        1: "unsupported version",
        2: "not authorized",
        3: "malformed request",
        4: "unsupported opcode",
        5: "unsupported option",
        6: "malformed option",
        7: "network failure",
        8: "no resources",
        9: "unsupported protocol",
        10: "user exceeded quota",
        11: "cannot provide the external port",
        12: "address mismatch: another NAT is between us",
        13: "excessive remote peers",
    },
}
"""Result codes (RFC 6886, 3.5; RFC 6887, 7.4)."""

_PCP_REQUEST = struct.Struct(">BBHI16s")
_PCP_RESPONSE = struct.Struct(">BBBBII12x")
_PCP_MAP = struct.Struct(">12sB3xHH16s")
_PCP_MAXIMUM = 1100
_PMP_MAP_REQUEST = struct.Struct(">BBHHHI")
_PMP_RESPONSE = struct.Struct(">BBHI")
_PMP_ADDRESS = struct.Struct(">4s")
_PMP_MAP = struct.Struct(">HHI")
_MAP = 1
_RESPONSE = 0x80
_PMP_OPCODES = {Transport.UDP: 1, Transport.TCP: 2}


class Mapping(NamedTuple):
    """A mapping that was made, or with lifetime 0 (seconds) deleted. NAT-PMP tells neither nonce nor address."""

    version: Version
    epoch: int
    transport: Transport
    internal_port: int
    external_port: int
    lifetime: int
    nonce: bytes = b""
    external_address: str = ""


class ExternalAddress(NamedTuple):
    """The public address of a NAT-PMP gateway."""

    epoch: int
    address: str


class Refusal(NamedTuple):
    """A result other than success. `transport` is None where it is not told, `lifetime` how long it will be so."""

    version: Version
    code: int
    epoch: int
    transport: Transport | None = None
    lifetime: int = 0
    nonce: bytes = b""

    def __str__(self) -> str:
        return REASONS[self.version].get(self.code, f"result {self.code}")


Answer = Mapping | ExternalAddress | Refusal


def pack_pcp_map(
    client: str,
    nonce: bytes,
    transport: Transport,
    internal_port: int,
    lifetime: int,
    suggested_port: int = 0,
    suggested_address: str = "",
) -> bytes:
    """A MAP request of `client`, our address as the gateway sees it; lifetime 0 deletes the mapping."""
    head = _PCP_REQUEST.pack(Version.PCP, _MAP, 0, lifetime, _sixteen(client))
    # A family is always suggested: all zeroes of it where no address is.
    nowhere = "::" if ":" in client else "0.0.0.0"
    suggested = _sixteen(suggested_address or nowhere)
    return head + _PCP_MAP.pack(nonce, transport, internal_port, suggested_port, suggested)


def pack_pmp_map(transport: Transport, internal_port: int, lifetime: int, suggested_port: int = 0) -> bytes:
    """A NAT-PMP mapping request; lifetime 0 deletes the mapping."""
    opcode = _PMP_OPCODES[transport]
    return _PMP_MAP_REQUEST.pack(Version.NAT_PMP, opcode, 0, internal_port, suggested_port, lifetime)


def pack_pmp_address() -> bytes:
    """A NAT-PMP request for the external address."""
    return bytes([Version.NAT_PMP, 0])


def parse_answer_untrusted(data: bytes) -> Answer:
    """What a gateway has answered. Raises BadPacket for anything else, requests included."""
    if not data:
        raise BadPacket("mapping length")
    if data[0] == Version.PCP:
        return _parse_pcp_untrusted(data)
    if data[0] == Version.NAT_PMP:
        return _parse_pmp_untrusted(data)
    raise BadPacket("mapping version")


def _parse_pcp_untrusted(data: bytes) -> Answer:
    if not _PCP_RESPONSE.size <= len(data) <= _PCP_MAXIMUM or len(data) % 4:
        raise BadPacket("mapping length")
    version, opcode, _, code, lifetime, epoch = _PCP_RESPONSE.unpack_from(data)
    if code == UNSUPPORTED_VERSION and opcode & _RESPONSE:
        return Refusal(Version(version), code, epoch)  # what follows is in words of another version
    if opcode != _MAP | _RESPONSE:
        raise BadPacket("mapping opcode")
    if len(data) < _PCP_RESPONSE.size + _PCP_MAP.size:
        raise BadPacket("mapping length")
    nonce, protocol, internal, external, address = _PCP_MAP.unpack_from(data, _PCP_RESPONSE.size)
    try:
        transport = Transport(protocol)
    except ValueError:
        raise BadPacket("mapping protocol") from None
    if code != SUCCESS:
        return Refusal(Version.PCP, code, epoch, transport, lifetime, nonce)
    return Mapping(Version.PCP, epoch, transport, internal, external, lifetime, nonce, _text(address))


def _parse_pmp_untrusted(data: bytes) -> Answer:
    if len(data) < _PMP_RESPONSE.size:
        raise BadPacket("mapping length")
    _, opcode, code, epoch = _PMP_RESPONSE.unpack_from(data)
    if not opcode & _RESPONSE:
        raise BadPacket("mapping opcode")
    transports = {number: transport for transport, number in _PMP_OPCODES.items()}
    transport = transports.get(opcode & ~_RESPONSE)
    if code != SUCCESS:
        return Refusal(Version.NAT_PMP, code, epoch, transport)
    body = data[_PMP_RESPONSE.size :]
    if opcode == _RESPONSE and len(body) == _PMP_ADDRESS.size:
        return ExternalAddress(epoch, str(IPv4Address(body)))
    if transport is not None and len(body) == _PMP_MAP.size:
        internal, external, lifetime = _PMP_MAP.unpack(body)
        return Mapping(Version.NAT_PMP, epoch, transport, internal, external, lifetime)
    raise BadPacket("mapping opcode" if transport is None else "mapping length")


def _sixteen(host: str) -> bytes:
    address = ip_address(host.partition("%")[0])
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed


def _text(packed: bytes) -> str:
    address = IPv6Address(packed)
    return str(address.ipv4_mapped or address)
