"""Which flow a packet belongs to: its exact key for our own queues, and a keyed 16-bit tag of it for others.

A flow is what should be treated as one sender: addresses, protocol and ports (TCP, UDP, SCTP, DCCP), or the
identifier of an ICMP echo. Fragments have no ports, so all fragments between two hosts are one flow. The keys
of different kinds have different lengths and can never be confused.

The tag travels in the clear, so that a receiver can queue sealed packets by flow. It is a keyed hash: without
the key it says that packets belong together, but neither what they are nor how flows of two peers compare.

    >>> packet = bytes.fromhex("4500003c1c4640004006b1e6 c0a80001 c0a80002 c5f60050") + bytes(36)
    >>> flow_key(packet).hex()
    'c0a80001c0a80002c5f6005006'
    >>> tagger = FlowTagger(key=bytes(32))
    >>> tagger.tag(flow_key(packet))
    27669
"""

from __future__ import annotations

from hashlib import blake2s

UNTAGGED = 0
"""The tag of a datagram that says nothing about its flow."""

SPARSE_TAG = 0xFFFE
"""The tag of packets of several flows, all of which are sparse now."""

CONTROL_TAG = 0xFFFF
"""The tag of control messages and probes."""

FLOW_TAGS = 0xFFFD
"""Tags from 1 to this are those of flows."""

PORT_PROTOCOLS = (6, 17, 33, 132)
"""TCP, UDP, DCCP and SCTP: their first four bytes are the ports."""

ECHO_TYPES = {1: (0, 8), 58: (128, 129)}
"""By protocol (ICMP, ICMPv6) the types that have an identifier: echo reply and request."""

MAX_EXTENSION_HEADERS = 8
"""IPv6 headers beyond these are not followed: such packets of two hosts are one flow."""

HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS = 0, 43, 44, 51, 60

_PROTOCOL = tuple(bytes((number,)) for number in range(256))
_PORT_PROTOCOL = tuple(name if number in PORT_PROTOCOLS else b"" for number, name in enumerate(_PROTOCOL))
"""The protocol as the last byte of the key, or nothing where there are no ports: one look answers both."""

Packet = bytes | bytearray | memoryview


def flow_key(packet: Packet) -> bytes | None:
    """The flow of a raw IP packet, which may be hostile, cut off or not IP at all: it never raises.

    None if there are no complete addresses. Only headers are read, so the beginning of a long packet will do.
    """
    size = len(packet)
    if size < 20:
        return None
    first = packet[0]
    if (
        first == 0x45
    ):  # IPv4 without options. It and plain IPv6 are nearly all there is, and are not passed on.
        last = _PORT_PROTOCOL[packet[9]]
        if last and size >= 24 and not packet[6] & 0x3F and not packet[7]:
            return bytes(packet[12:24]) + last
        return _ipv4_key(packet)
    if first >> 4 == 6:
        last = _PORT_PROTOCOL[packet[6]]
        if last and size >= 44:
            return bytes(packet[8:44]) + last
        return _ipv6_key(packet)
    return _ipv4_key(packet) if first >> 4 == 4 else None


def _ipv4_key(packet: Packet) -> bytes:
    """Of at least 20 bytes: options, fragments, ICMP, cut off, or a protocol that we do not know."""
    protocol = packet[9]
    fragment = packet[6] & 0x3F or packet[7]  # More Fragments or an offset; Don't Fragment is no matter
    start = (packet[0] & 0x0F) * 4
    inside = b"" if fragment or start < 20 else _transport_key(packet, start, protocol)
    return bytes(packet[12:20]) + inside + _PROTOCOL[protocol]


def _ipv6_key(packet: Packet) -> bytes | None:
    """Walk the extension headers (RFC 8200 section 4) to the transport header, if it is there."""
    if len(packet) < 40:
        return None
    protocol, start = packet[6], 40
    inside = b""
    for _ in range(MAX_EXTENSION_HEADERS + 1):
        if protocol not in (HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS):
            inside = _transport_key(packet, start, protocol)
            break
        if len(packet) < start + 8:
            break
        here = start
        if protocol == FRAGMENT:
            start += 8
        elif protocol == AUTHENTICATION:
            start += (packet[here + 1] + 2) * 4  # RFC 4302 counts words, less two
        else:
            start += (packet[here + 1] + 1) * 8
        fragment = protocol == FRAGMENT and (packet[here + 2] or packet[here + 3] & 0xF9)
        protocol = packet[here]
        if fragment:
            break
    return bytes(packet[8:40]) + inside + _PROTOCOL[protocol]


def _transport_key(packet: Packet, start: int, protocol: int) -> bytes:
    """Ports or echo identifier at `start`; empty if there are none or they are cut off."""
    if len(packet) < start + 4:
        return b""
    if _PORT_PROTOCOL[protocol]:
        return bytes(packet[start : start + 4])
    if packet[start] in ECHO_TYPES.get(protocol, ()) and len(packet) >= start + 6:
        return bytes(packet[start + 4 : start + 6])
    return b""


class FlowTagger:
    """Gives each flow a tag from 1 to 0xFFFD: a keyed hash of its key (BLAKE2s), so that nobody else can
    predict it.

    `key` has 16 to 32 bytes and is secret. Computed tags are kept for up to `limit` flows; a flood of flows
    makes the store start afresh, which costs time but changes no tag.
    """

    __slots__ = ("_key", "_limit", "_tags")

    def __init__(self, key: bytes, limit: int = 4096) -> None:
        self._tags: dict[bytes, int] = {}
        self._limit = limit
        self.rekey(key)

    def rekey(self, key: bytes) -> None:
        """Give all flows new tags. Queues keyed by tag see new flows and may reorder them once."""
        if not 16 <= len(key) <= 32:
            raise ValueError(f"a flow tag key has 16 to 32 bytes, not {len(key)}")
        self._key = bytes(key)
        self._tags.clear()

    def tag(self, flow: bytes) -> int:
        """The tag of a flow key."""
        tag = self._tags.get(flow)
        return self._compute(flow) if tag is None else tag

    def _compute(self, flow: bytes) -> int:
        if len(self._tags) >= self._limit:
            self._tags.clear()
        digest = blake2s(flow, digest_size=8, key=self._key).digest()
        tag = self._tags[flow] = 1 + int.from_bytes(digest, "big") % FLOW_TAGS
        return tag
