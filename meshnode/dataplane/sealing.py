"""The way out, behind the queue: packets and trains become frames, frames become sealed datagrams.

Counters are given out here and nowhere earlier: whatever the queue drops or reorders, a receiver sees
counters in order.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from meshnode.dataplane import icmp
from meshnode.dataplane.api import Batch
from meshnode.dataplane.config import PlaneConfig
from meshnode.dataplane.fragments import FRAGMENT_OVERHEAD, fragment_frames
from meshnode.dataplane.joining import SEGMENT_HEAD
from meshnode.dataplane.outbox import MAX_BATCH_BYTES, MAX_SEGMENTS, Outbox
from meshnode.dataplane.peer import Peer
from meshnode.dataplane.refusals import Refusals
from meshnode.dataplane.relaying import MAX_HOPS, RelayedDatagram
from meshnode.dataplane.session import Ledger, Session
from meshnode.dataplane.template import Template
from meshnode.dataplane.trains import Train
from meshnode.queueing.flow_hash import CONTROL_TAG, SPARSE_TAG, UNTAGGED
from meshnode.values import BadPacket, Capability, Nanos, Path, PathKind, PeerId, SendFrames
from meshnode.wire.frames import FLAG_PARTIAL, FRAME_HEADER, FrameType, Relay, pack_frame, pack_transmit_time
from meshnode.wire.header import (
    DATA_HEADER,
    DATA_HEADER_SIZE,
    FLAG_ECN,
    TAG_SIZE,
    TRANSMIT_TIME_SIZE,
    MessageType,
)
from meshnode.wire.ip import Packet, finish_partial_checksum

NONCE = struct.Struct(">4xQ")
"""Four zero bytes and the counter (docs/protocol.md, Suites)."""

MAX_SMALL = 512
"""What is larger is not sent among the packets of sparse flows."""

SMALLEST_COMPANION = 64
"""With less room than this left nothing else is looked for: less than a TCP acknowledgement would fit."""

SEGMENT_FRAME = struct.Struct(">BBHHH")
"""The head of a segment frame: type, flags, length, index, segment size."""

_COUNTER, _INDEX = struct.Struct(">Q"), struct.Struct(">H")
_COUNTER_AT = 8
_INDEX_AT = DATA_HEADER_SIZE + TRANSMIT_TIME_SIZE + FRAME_HEADER.size
_DATA = int(MessageType.DATA)
_SEGMENT = int(FrameType.SEGMENT)
_TRAINS = int(Capability.SEGMENT | Capability.PARTIAL_CHECKSUM)
_PACKET = int(FrameType.PACKET)
_ECN = int(Capability.ECN)
_SEALED = DATA_HEADER_SIZE + TAG_SIZE


class Way(NamedTuple):
    """How something leaves: to whom, under which session, over which path."""

    peer: Peer
    session: Session
    path: Path

    def spread(self, tag: int) -> Way:
        """The same from the port of ours that the flow with this tag leaves from (entropy = "ports")."""
        ports = self.peer.ports
        return self._replace(path=ports[tag % len(ports)]) if ports and self.path is self.peer.path else self


class Sealer:
    """Seals what the queues release, into the outbox."""

    def __init__(
        self,
        config: PlaneConfig,
        peers: Mapping[PeerId, Peer],
        outbox: Outbox,
        ledger: Ledger,
        counters: Counter[str],
        refusals: Refusals,
    ) -> None:
        self._outbox = outbox
        self._ledger = ledger
        self._counters = counters
        self._refusals = refusals
        self._peers = peers
        self._own = config.own
        self._tagged = config.entropy != "none"
        self._labelled = config.entropy == "flow"
        copied = [config.dscp[tos >> 2] << 2 for tos in range(256)]
        self._outer_plain = bytes(copied)
        self._outer_ecn = bytes(dscp | tos & 3 for tos, dscp in enumerate(copied))
        self._transmit_time = bytes(4)

    def set_time(self, now: Nanos) -> None:
        """The transmit time of what is sealed from now on."""
        self._transmit_time = pack_transmit_time(now // 1000)

    def seal_next(self, way: Way, now: Nanos) -> bool:
        """Seal what the peer's queue releases next, with what may share its datagram. Whether anything waited."""
        train = way.peer.queue.dequeue(now)
        if train is None:
            return False
        if train.relayed:
            self._seal_relayed(way, cast("RelayedDatagram", train))
        elif train.template is not None:
            self._seal_train(way, train, train.template, now)
        else:
            self._seal_packets(way, train, now)
        return True

    def seal_frames(self, peer: Peer, frames: SendFrames) -> None:
        """Seal a control datagram, on the path and under the session that it names."""
        session = peer.session if frames.local_index is None else peer.sessions.get(frames.local_index)
        path = frames.path or peer.path
        if session is None or path is None:
            self._counters["control unsendable"] += 1
            return
        parts = (self._transmit_time, frames.payload)
        self._seal(Way(peer, session, path), parts, 0, CONTROL_TAG, frames.ecn, 0)

    # --- packets ----------------------------------------------------------------------------------------------------

    def _seal_packets(self, way: Way, train: Train, now: Nanos) -> None:
        """One datagram: a packet, and those that wait behind it in its flow (or in other sparse flows) and fit."""
        peer, flow = way.peer, train.flow
        queue, tags = peer.queue, peer.tags
        room = peer.room - FRAME_HEADER.size - len(train.packet)
        if room < 0:
            self._seal_too_long(way, train, now)
            return
        if len(train.packet) <= MAX_SMALL and queue.is_sparse(flow) and tags.may_share(flow, now):
            tag, take = SPARSE_TAG, queue.dequeue_sparse
        else:
            tag, take = tags.own(flow, now), queue.dequeue_same

        def fits(another: Train) -> bool:
            if another.tos != train.tos or another.template is not None or another.relayed:
                return False
            small = len(another.packet) <= MAX_SMALL
            return tag != SPARSE_TAG or (small and tags.may_share(another.flow, now))

        parts: list[Packet] = [self._transmit_time]
        self._add_packet(parts, train, way.session)
        packets = 1
        while room >= SMALLEST_COMPANION:
            another = take(now, room - FRAME_HEADER.size, fits)
            if another is None:
                break
            self._add_packet(parts, another, way.session)
            room -= FRAME_HEADER.size + len(another.packet)
            packets += 1
        self._seal_user(way, parts, train.tos, tag, packets)

    def _seal_too_long(self, way: Way, train: Train, now: Nanos) -> None:
        """A packet that does not fit its path is refused, or carried in pieces if it must not be."""
        peer, session, packet = way.peer, way.session, train.packet
        if not icmp.may_fragment(packet):
            self._counters["out too big"] += 1
            self._refusals.too_big(packet, peer.inner_mtu, now)
            return
        if not session.can(Capability.FRAGMENT) or peer.room <= FRAGMENT_OVERHEAD:
            self._counters["out unfragmentable"] += 1
            return
        flags = FLAG_PARTIAL if train.partial and session.can(Capability.PARTIAL_CHECKSUM) else 0
        if train.partial and not flags:
            packet = self._finished(packet)
        peer.next_fragment = (peer.next_fragment + 1) & 0xFFFFFFFF
        tag = peer.tags.own(train.flow, now)
        for frame in fragment_frames(packet, peer.next_fragment, peer.room, flags):
            self._seal_user(way, (self._transmit_time, frame), train.tos, tag, 0)
        peer.sent_packets += 1

    def _add_packet(self, parts: list[Packet], train: Train, session: Session) -> None:
        """Append the frame of one packet."""
        packet, flags = train.packet, 0
        if train.partial:
            if session.can(Capability.PARTIAL_CHECKSUM):
                flags = FLAG_PARTIAL
            else:
                packet = self._finished(packet)
        parts.append(FRAME_HEADER.pack(_PACKET, flags, len(packet)))
        parts.append(packet)

    def _finished(self, packet: Packet) -> Packet:
        """A copy with its checksum done, for a peer that cannot do it."""
        whole = bytearray(packet)
        try:
            finish_partial_checksum(whole)
        except BadPacket:
            self._counters["out partial checksum"] += 1  # what was read as partial always can be finished
        return whole

    # --- trains -----------------------------------------------------------------------------------------------------

    def _seal_train(self, way: Way, train: Train, template: Template, now: Nanos) -> None:
        """A superpacket: a batch of datagrams of one size, each with the template and its segment's payload."""
        peer, session, path = way
        stride = _SEALED + SEGMENT_HEAD.size + len(train.packet) + template.segment_size
        able = session.capabilities & _TRAINS == _TRAINS and template.has_plain_headers
        if not able or stride > peer.largest_datagram:
            self._seal_apart(way, train, now)
            return
        tag = peer.tags.own(train.flow, now) if self._tagged else UNTAGGED
        path = way.spread(tag).path
        flags, outer = self._outer(way, train.tos)
        most = min(MAX_SEGMENTS, MAX_BATCH_BYTES // stride)
        for first in range(train.first, train.end, most):
            end = min(first + most, train.end)
            count = end - first
            if session.counter + count > session.reject_after:
                self._counters["out key exhausted"] += count
                break
            data = self._seal_segments(session, train, template, first, end, flags, tag)
            self._put_batch(Batch(peer.id, path, data, stride, outer, tag if self._labelled else 0), tag)
            self._ledger.sent(session, path, count, count, len(data))
            peer.sent_packets += count
            peer.sent_bytes += len(data)

    def _seal_segments(
        self,
        session: Session,
        train: Train,
        template: Template,
        first: int,
        end: int,
        flags: int,
        tag: int,
    ) -> bytearray:
        """The datagrams of the segments `first` to `end`, sealed where they lie: the inner loop of the way out."""
        header, size, payload = train.packet, template.segment_size, train.payload
        head = DATA_HEADER.pack(_DATA, flags, tag, session.remote_index, 0) + self._transmit_time
        stencil = _stencil(head, header, size, size)
        buffer = bytearray(
            stencil * (end - first - 1) + _stencil(head, header, size, template.size_of(end - 1))
        )
        view = memoryview(buffer)
        begin = DATA_HEADER_SIZE + SEGMENT_HEAD.size + len(header)
        stride, total = len(stencil), len(buffer)
        counter, seal_into = session.counter, session.seal_into
        session.counter += end - first
        at = 0
        for index in range(first, end):
            stop = at + stride
            if stop > total:
                stop = total
            _COUNTER.pack_into(buffer, at + _COUNTER_AT, counter)
            _INDEX.pack_into(buffer, at + _INDEX_AT, index)
            view[at + begin : stop - TAG_SIZE] = payload[index * size : (index + 1) * size]
            sealed = at + DATA_HEADER_SIZE
            seal_into(NONCE.pack(counter), view[sealed : stop - TAG_SIZE], view[at:sealed], view[sealed:stop])
            counter += 1
            at = stop
        return buffer

    def _seal_apart(self, way: Way, train: Train, now: Nanos) -> None:
        """A train that cannot leave as one: its segments as packets, whole ones."""
        peer = way.peer
        for packet in train.packets():
            if len(packet.packet) + FRAME_HEADER.size <= peer.room:
                parts: list[Packet] = [self._transmit_time]
                self._add_packet(parts, packet, way.session)
                self._seal_user(way, parts, packet.tos, peer.tags.own(packet.flow, now), 1)
                continue
            self._seal_too_long(way, packet, now)
            if not icmp.may_fragment(packet.packet):
                break  # one answer for all of them

    # --- both -------------------------------------------------------------------------------------------------------

    def _seal_user(self, way: Way, parts: Sequence[Packet], tos: int, tag: int, packets: int) -> None:
        """Seal user traffic of one DSCP and ECN value."""
        way = way.spread(tag)
        flags, outer = self._outer(way, tos)
        size = self._seal(way, parts, flags, tag, outer, 1)
        way.peer.sent_packets += packets
        way.peer.sent_bytes += size

    def _outer(self, way: Way, tos: int) -> tuple[int, int]:
        """The header's flags and the outer DSCP and ECN bits for inner ones (RFC 6040, normal mode)."""
        if not way.session.capabilities & _ECN:
            return 0, self._outer_plain[tos]
        return FLAG_ECN if tos & 3 else 0, (self._outer_ecn if way.peer.ecn else self._outer_plain)[tos]

    def _seal(
        self, way: Way, parts: Sequence[Packet], flags: int, tag: int, outer: int, with_data: int
    ) -> int:
        """One datagram. Its size in bytes."""
        peer, session, path = way
        counter = session.counter
        if counter >= session.reject_after:
            self._counters["out key exhausted"] += 1
            return 0
        session.counter = counter + 1
        if not self._tagged:
            tag = UNTAGGED
        plaintext = b"".join(parts)
        size = _SEALED + len(plaintext)
        datagram = bytearray(size)
        DATA_HEADER.pack_into(datagram, 0, _DATA, flags, tag, session.remote_index, counter)
        view = memoryview(datagram)
        session.seal_into(NONCE.pack(counter), plaintext, view[:DATA_HEADER_SIZE], view[DATA_HEADER_SIZE:])
        self._ledger.sent(session, path, 1, with_data, size)
        if path.kind is PathKind.RELAY:
            self._through_relay(peer.id, path, datagram, outer, tag)
        else:
            label = tag if self._labelled else 0
            self._outbox.add(peer.id, path, datagram, outer, label, alone=not with_data)
        return size

    # --- relays -----------------------------------------------------------------------------------------------------

    def _seal_relayed(self, way: Way, item: RelayedDatagram) -> None:
        """Somebody else's datagram, one hop further."""
        frame = pack_frame(FrameType.RELAY, item.body())
        self._seal_user(way, (self._transmit_time, frame), item.tos, item.relay.tag, 0)

    def _put_batch(self, batch: Batch, tag: int) -> None:
        if batch.path.kind is not PathKind.RELAY:
            self._outbox.add_batch(batch)
            return
        for datagram in batch.datagrams():
            self._through_relay(batch.peer, batch.path, datagram, batch.dscp_ecn, tag)

    def _through_relay(self, far: PeerId, path: Path, datagram: Packet, outer: int, tag: int) -> None:
        """A sealed datagram for `far` inside a frame for the relay, which has a session of its own with us."""
        relay = self._peers.get(path.via) if path.via is not None else None
        if relay is None or relay.session is None or relay.path is None or relay.path.kind is PathKind.RELAY:
            self._counters["out relay gone"] += 1
            return
        body = Relay(self._own, far, MAX_HOPS, outer & 3, tag, bytes(datagram)).pack()
        way = Way(relay, relay.session, relay.path)
        flags, outer = self._outer(way, outer & 3)
        self._seal(way, (self._transmit_time, pack_frame(FrameType.RELAY, body)), flags, tag, outer, 0)


def _stencil(head: bytes, header: Packet, segment_size: int, payload: int) -> bytes:
    """One datagram of a train with `payload` bytes, all but its counter, index, payload and tag filled in."""
    frame = SEGMENT_FRAME.pack(_SEGMENT, FLAG_PARTIAL, 4 + len(header) + payload, 0, segment_size)
    return b"".join((head, frame, header, bytes(payload + TAG_SIZE)))
