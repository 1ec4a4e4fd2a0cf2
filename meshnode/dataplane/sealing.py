"""The way out, behind the queue: packets and trains become frames, frames become sealed datagrams.

Counters are given out here and nowhere earlier: whatever the queue drops or reorders, a receiver sees
counters in order.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Sequence

from meshnode.dataplane import icmp
from meshnode.dataplane.config import PlaneConfig
from meshnode.dataplane.fragments import FRAGMENT_OVERHEAD, fragment_frames
from meshnode.dataplane.outbox import Outbox
from meshnode.dataplane.peer import Peer
from meshnode.dataplane.session import Ledger, Session
from meshnode.dataplane.trains import Train
from meshnode.queueing.flow_hash import CONTROL_TAG, SPARSE_TAG, UNTAGGED
from meshnode.values import BadPacket, Capability, Nanos, Path, SendFrames
from meshnode.wire.frames import FLAG_PARTIAL, FRAME_HEADER, FrameType, pack_transmit_time
from meshnode.wire.header import DATA_HEADER, DATA_HEADER_SIZE, FLAG_ECN, TAG_SIZE, MessageType
from meshnode.wire.ip import Packet, finish_partial_checksum

NONCE = struct.Struct(">4xQ")
"""Four zero bytes and the counter (docs/protocol.md, Suites)."""

SMALLEST_COMPANION = 20 + FRAME_HEADER.size
"""With less room than this left, nothing else fits into a datagram."""

_DATA = int(MessageType.DATA)
_PACKET = int(FrameType.PACKET)
_ECN = int(Capability.ECN)
_SEALED = DATA_HEADER_SIZE + TAG_SIZE

Refuse = Callable[[Packet, int], None]
"""Tell the sender of a packet that it must not exceed so many bytes."""


class Sealer:
    """Seals what the queues release, into the outbox."""

    def __init__(
        self, config: PlaneConfig, outbox: Outbox, ledger: Ledger, counters: Counter[str], refuse: Refuse
    ) -> None:
        self._outbox = outbox
        self._ledger = ledger
        self._counters = counters
        self._refuse = refuse
        self._tagged = config.entropy != "none"
        self._labelled = config.entropy == "flow"
        copied = [config.dscp[tos >> 2] << 2 for tos in range(256)]
        self._outer_plain = bytes(copied)
        self._outer_ecn = bytes(dscp | tos & 3 for tos, dscp in enumerate(copied))
        self._transmit_time = bytes(4)

    def set_time(self, now: Nanos) -> None:
        """The transmit time of what is sealed from now on."""
        self._transmit_time = pack_transmit_time(now // 1000)

    def seal_next(self, peer: Peer, session: Session, path: Path, now: Nanos) -> int | None:
        """Seal what the peer's queue releases next, with what may share its datagram. Bytes; None: nothing
        waits."""
        train = peer.queue.dequeue(now)
        if train is None:
            return None
        return self._seal_packets(peer, session, path, train, now)

    def seal_frames(self, peer: Peer, frames: SendFrames) -> None:
        """Seal a control datagram, on the path and under the session that it names."""
        session = peer.session if frames.local_index is None else peer.sessions.get(frames.local_index)
        path = frames.path or peer.path
        if session is None or path is None:
            self._counters["control unsendable"] += 1
            return
        tag = CONTROL_TAG if self._tagged else UNTAGGED
        self._seal(peer, session, path, (self._transmit_time, frames.payload), 0, tag, frames.ecn, 0)

    def _seal_packets(self, peer: Peer, session: Session, path: Path, train: Train, now: Nanos) -> int:
        """One datagram: a packet, and those that wait behind it in its flow (or in other sparse flows) and
        fit."""
        room = peer.room - FRAME_HEADER.size - len(train.packet)
        if room < 0:
            return self._seal_too_long(peer, session, path, train)
        parts: list[Packet] = [self._transmit_time]
        self._add_packet(parts, train, session)
        flow, packets = train.flow, 1
        tag = peer.tagger.tag(flow)
        if room >= SMALLEST_COMPANION:
            take = peer.queue.dequeue_sparse if peer.queue.is_sparse(flow) else peer.queue.dequeue_same
            while room >= SMALLEST_COMPANION:
                another = take(now, room - FRAME_HEADER.size, train.travels_with)
                if another is None:
                    break
                self._add_packet(parts, another, session)
                room -= FRAME_HEADER.size + len(another.packet)
                packets += 1
                if another.flow != flow:
                    tag = SPARSE_TAG
        return self._seal_user(peer, session, path, parts, train.tos, tag, packets)

    def _seal_too_long(self, peer: Peer, session: Session, path: Path, train: Train) -> int:
        """A packet that does not fit its path is refused, or carried in pieces if it must not be."""
        packet = train.packet
        if not icmp.may_fragment(packet):
            self._counters["out too big"] += 1
            self._refuse(packet, peer.inner_mtu)
            return len(packet)
        if not session.can(Capability.FRAGMENT) or peer.room <= FRAGMENT_OVERHEAD:
            self._counters["out unfragmentable"] += 1
            return len(packet)
        flags = FLAG_PARTIAL if train.partial and session.can(Capability.PARTIAL_CHECKSUM) else 0
        if train.partial and not flags:
            packet = self._finished(packet)
        peer.next_fragment = (peer.next_fragment + 1) & 0xFFFFFFFF
        tag = peer.tagger.tag(train.flow)
        size = 0
        for frame in fragment_frames(packet, peer.next_fragment, peer.room, flags):
            parts = [self._transmit_time, frame]
            size += self._seal_user(peer, session, path, parts, train.tos, tag, 0)
        peer.sent_packets += 1
        return size

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

    def _seal_user(
        self,
        peer: Peer,
        session: Session,
        path: Path,
        parts: Sequence[Packet],
        tos: int,
        tag: int,
        packets: int,
    ) -> int:
        """Seal user traffic of one DSCP and ECN value."""
        flags = FLAG_ECN if tos & 3 and session.capabilities & _ECN else 0
        outer = (self._outer_ecn if peer.ecn and session.capabilities & _ECN else self._outer_plain)[tos]
        size = self._seal(
            peer, session, path, parts, flags, tag if self._tagged else UNTAGGED, outer, max(1, packets)
        )
        peer.sent_packets += packets
        peer.sent_bytes += size
        return size

    def _seal(
        self,
        peer: Peer,
        session: Session,
        path: Path,
        parts: Sequence[Packet],
        flags: int,
        tag: int,
        outer: int,
        user_packets: int,
    ) -> int:
        """One datagram. Its size in bytes."""
        counter = session.counter
        if counter >= session.reject_after:
            self._counters["out key exhausted"] += 1
            return 0
        session.counter = counter + 1
        plaintext = b"".join(parts)
        size = _SEALED + len(plaintext)
        datagram = bytearray(size)
        DATA_HEADER.pack_into(datagram, 0, _DATA, flags, tag, session.remote_index, counter)
        view = memoryview(datagram)
        session.seal_into(NONCE.pack(counter), plaintext, view[:DATA_HEADER_SIZE], view[DATA_HEADER_SIZE:])
        note = self._ledger.note(session, path)
        note.sent += 1
        note.sent_bytes += size
        note.highest_sent = counter
        if user_packets:
            note.sent_data += 1
        self._outbox.add(peer.id, path, datagram, outer, tag if self._labelled else 0)
        return size

    def _finished(self, packet: Packet) -> Packet:
        """A copy with its checksum done, for a peer that cannot do it."""
        whole = bytearray(packet)
        try:
            finish_partial_checksum(whole)
        except BadPacket:
            self._counters["out partial checksum"] += 1  # what was read as partial always can be finished
        return whole
