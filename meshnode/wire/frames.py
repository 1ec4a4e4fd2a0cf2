"""The frames inside a sealed datagram (docs/protocol.md, 4). A class stands for the body of one frame."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from meshnode.values import BadPacket, Endpoint, PeerId, RawFrame
from meshnode.wire.address import pack_endpoint, read_endpoint
from meshnode.wire.cursor import Cursor


class FrameType(IntEnum):
    """The first byte of a frame. Receivers skip types that they do not know."""

    PADDING = 0
    PACKET = 1
    SEGMENT = 2
    CONTROL = 3
    PROBE = 4
    ECHO = 5
    REPORT = 6
    RELAY = 7
    FRAGMENT = 8


class ProbeMode(IntEnum):
    """What a probe asks about its path."""

    LIVENESS = 0
    PATH_MTU = 1
    ECN = 2


FLAG_PARTIAL = 1
"""Frame flag of packet and segment, and in a fragment's own flags: the L4 checksum is partial."""

FRAME_HEADER = struct.Struct(">BBH")
"""type, flags, length of the body."""

PROBE_TOKEN_SIZE = 8
MINIMUM_PROBE = 48
"""A probe's body is at least so long that the body of its echo (at most 31 bytes) never exceeds it."""

_TRANSMIT_TIME = struct.Struct(">I")
_FIRST_FRAME = struct.Struct(">IBBH")
_PROBE = struct.Struct(">8sB")
_ECHO = struct.Struct(">8sBBH")
_REPORT = struct.Struct(">IIQQIIiiI")
_RELAY = struct.Struct(">16s16sBBH")
_FRAGMENT = struct.Struct(">IHHB")
_SEGMENT = struct.Struct(">HH")
_NO_ENDPOINT = bytes(3)
_new = tuple.__new__  # what RawFrame(…) comes down to, at half the price


def pack_transmit_time(microseconds: int) -> bytes:
    """The four bytes that every plaintext begins with: microseconds, wrapping."""
    return _TRANSMIT_TIME.pack(microseconds & 0xFFFFFFFF)


def pack_frame(type: int, body: bytes | bytearray | memoryview, flags: int = 0) -> bytes:
    """One frame with its header. A body above 65,535 bytes is a struct.error: a bug of the caller."""
    return b"".join((FRAME_HEADER.pack(type, flags, len(body)), body))


def split_frames_untrusted(plaintext: bytes | memoryview) -> tuple[int, list[RawFrame]]:
    """The transmit time (µs, wraps) and the frames of an opened datagram, unknown types included.

    Bodies are slices: of a memoryview they are views too, and live as long as its buffer does. An empty list
    is a keepalive.
    """
    size = len(plaintext)
    if size >= 8:
        # Nearly every datagram of bulk traffic holds one frame: no loop for it.
        transmit_time, kind, flags, length = _FIRST_FRAME.unpack_from(plaintext)
        if length == size - 8:
            return transmit_time, [_new(RawFrame, (kind, flags, plaintext[8:]))]
    elif size < 4:
        raise BadPacket("no transmit time")
    else:
        (transmit_time,) = _TRANSMIT_TIME.unpack_from(plaintext)
    frames: list[RawFrame] = []
    position = 4
    while position < size:
        body = position + 4
        if body > size:
            raise BadPacket("frame header past the end")
        kind, flags, length = FRAME_HEADER.unpack_from(plaintext, position)
        position = body + length
        if position > size:
            raise BadPacket("frame past the end")
        frames.append(_new(RawFrame, (kind, flags, plaintext[body:position])))
    return transmit_time, frames


@dataclass(frozen=True, slots=True)
class Probe:
    """Asks for an echo on the same path. `size` is the body's length in all, filler included."""

    token: bytes
    mode: ProbeMode
    size: int = MINIMUM_PROBE

    def pack(self) -> bytes:
        return _PROBE.pack(self.token, self.mode).ljust(max(self.size, MINIMUM_PROBE), b"\0")


@dataclass(frozen=True, slots=True)
class Echo:
    """The answer to a probe: the outer ECN bits, the datagram's size and the source that it was seen with.

    `seen` is None where the probe came through a relay.
    """

    token: bytes
    mode: ProbeMode
    ecn: int
    size: int
    seen: Endpoint | None

    def pack(self) -> bytes:
        seen = _NO_ENDPOINT if self.seen is None else pack_endpoint(self.seen)
        return _ECHO.pack(self.token, self.mode, self.ecn, self.size) + seen


@dataclass(frozen=True, slots=True)
class Report:
    """What the receiving side saw of one path, for the sender's governor. Times and delays are in µs.

    Counts are totals of the session. The delays are one-way, of what came since the last report, and relative
    to an unknown clock offset: they may be negative. `path` is the receiver's number for the path.
    """

    path: int
    newest_transmit_time: int
    highest_counter: int
    bytes_arrived: int
    packets_arrived: int
    packets_opened: int
    delay_p10: int
    delay_p50: int
    ce_marks: int

    def pack(self) -> bytes:
        return _REPORT.pack(
            self.path,
            self.newest_transmit_time,
            self.highest_counter,
            self.bytes_arrived,
            self.packets_arrived,
            self.packets_opened,
            self.delay_p10,
            self.delay_p50,
            self.ce_marks,
        )


@dataclass(frozen=True, slots=True)
class Relay:
    """A whole datagram of any type on its way through a member that cannot read it. `tag` is its flow tag."""

    source: PeerId
    destination: PeerId
    hops: int
    ecn: int
    tag: int
    datagram: bytes

    def pack(self) -> bytes:
        return _RELAY.pack(self.source, self.destination, self.hops, self.ecn, self.tag) + self.datagram


@dataclass(frozen=True, slots=True)
class Fragment:
    """A piece of one IP packet of `total` bytes, from `offset` on. FLAG_PARTIAL speaks for the packet."""

    id: int
    offset: int
    total: int
    flags: int
    data: bytes

    def pack(self) -> bytes:
        return _FRAGMENT.pack(self.id, self.offset, self.total, self.flags) + self.data


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a superpacket: `rest` is the header template and the payload from `index * size` on."""

    index: int
    size: int
    rest: bytes

    def pack(self) -> bytes:
        return _SEGMENT.pack(self.index, self.size) + self.rest


def parse_probe_untrusted(body: bytes | memoryview) -> Probe:
    """A probe, which must be long enough for its echo not to be longer."""
    if len(body) < MINIMUM_PROBE:
        raise BadPacket("probe length")
    token, mode = _PROBE.unpack_from(body)
    return Probe(token, _probe_mode(mode), len(body))


def parse_echo_untrusted(body: bytes | memoryview) -> Echo:
    """An echo. Bytes after the endpoint are a newer node's and ignored."""
    cursor = Cursor(body)
    token, mode, ecn, size = _ECHO.unpack(cursor.take(_ECHO.size))
    if ecn > 3:
        raise BadPacket("ecn")
    return Echo(token, _probe_mode(mode), ecn, size, read_endpoint(cursor, relay=True))


def parse_report_untrusted(body: bytes | memoryview) -> Report:
    """A report. Bytes after the known fields are a newer node's and ignored."""
    if len(body) < _REPORT.size:
        raise BadPacket("report length")
    return Report(*_REPORT.unpack_from(body))


def parse_relay_untrusted(body: bytes | memoryview) -> Relay:
    """A relay frame; the datagram in it may be anything that is not empty."""
    if len(body) <= _RELAY.size:
        raise BadPacket("relay length")
    source, destination, hops, ecn, tag = _RELAY.unpack_from(body)
    if ecn > 3:
        raise BadPacket("ecn")
    return Relay(PeerId(source), PeerId(destination), hops, ecn, tag, bytes(body[_RELAY.size :]))


def parse_fragment_untrusted(body: bytes | memoryview) -> Fragment:
    """A fragment that lies inside its packet and is not empty."""
    if len(body) <= _FRAGMENT.size:
        raise BadPacket("fragment length")
    id_, offset, total, flags = _FRAGMENT.unpack_from(body)
    data = bytes(body[_FRAGMENT.size :])
    if offset + len(data) > total:
        raise BadPacket("fragment past the end")
    return Fragment(id_, offset, total, flags, data)


def parse_segment_untrusted(body: bytes | memoryview) -> Segment:
    """A segment; its header template is not looked at."""
    if len(body) <= _SEGMENT.size:
        raise BadPacket("segment length")
    index, size = _SEGMENT.unpack_from(body)
    if size == 0:
        raise BadPacket("segment size")
    return Segment(index, size, bytes(body[_SEGMENT.size :]))


def _probe_mode(number: int) -> ProbeMode:
    try:
        return ProbeMode(number)
    except ValueError:
        raise BadPacket("probe mode") from None
