"""A gateway that maps ports, as a function from request to answers: PCP, NAT-PMP, and the ways in which it may fail."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

EXTERNAL = "198.51.100.77"


@dataclass
class Gateway:
    """Answers as RFC 6887 or RFC 6886 say. Seconds since its start are `epoch`."""

    pcp: bool = True
    nat_pmp: bool = True
    external: str = EXTERNAL
    epoch: int = 1000
    lifetime: int = 7200
    code: dict[int, int] = field(default_factory=dict)
    """Result code for requests about a protocol (6, 17)."""
    ports: dict[int, int] = field(default_factory=dict)
    """External port that it insists on for a protocol."""
    mappings: dict[int, int] = field(default_factory=dict)
    """Protocol -> external port."""
    nonces: dict[int, bytes] = field(default_factory=dict)
    heard: list[bytes] = field(default_factory=list)

    def answer(self, request: bytes) -> bytes | None:
        self.heard.append(request)
        if request[0] == 2 and self.pcp:
            return self._pcp(request)
        if request[0] == 0 and self.nat_pmp:
            return self._nat_pmp(request)
        if self.nat_pmp:
            return struct.pack(">BBHI", 0, 128 + request[1], 1, self.epoch)
        return None

    def _map(self, protocol: int, internal: int, suggested: int, lifetime: int) -> tuple[int, int]:
        """The port and the lifetime."""
        if not lifetime:
            self.mappings.pop(protocol, None)
            return 0, 0
        port = self.ports.get(protocol) or self.mappings.get(protocol) or suggested or internal
        self.mappings[protocol] = port
        return port, self.lifetime

    def _pcp(self, request: bytes) -> bytes:
        _, opcode, _, lifetime, _ = struct.unpack_from(">BBHI16s", request)
        nonce, protocol, internal, suggested, wanted = struct.unpack_from(">12sB3xHH16s", request, 24)
        code, port = self.code.get(protocol, 0), 0
        if not code and self.nonces.setdefault(protocol, nonce) != nonce:
            code = 2
        granted = 30
        if not code:
            port, granted = self._map(protocol, internal, suggested, lifetime)
        external = ip_address(self.external)
        packed = (external if external.version == 6 else IPv6Address(f"::ffff:{external}")).packed
        head = struct.pack(">BBBBII12x", 2, 128 + opcode, 0, code, granted, self.epoch)
        return head + struct.pack(
            ">12sB3xHH16s", nonce, protocol, internal, port, packed if not code else wanted
        )

    def _nat_pmp(self, request: bytes) -> bytes:
        opcode = request[1]
        if opcode == 0:
            return struct.pack(">BBHI", 0, 128, 0, self.epoch) + IPv4Address(self.external).packed
        internal, suggested, lifetime = struct.unpack_from(">HHI", request, 4)
        protocol = {1: 17, 2: 6}[opcode]
        code = self.code.get(protocol, 0)
        if code:
            return struct.pack(">BBHI", 0, 128 + opcode, code, self.epoch)
        port, granted = self._map(protocol, internal, suggested, lifetime)
        return struct.pack(">BBHIHHI", 0, 128 + opcode, 0, self.epoch, internal, port, granted)
