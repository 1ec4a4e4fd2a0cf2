"""The way in, behind the queue: sealed datagrams are opened, their frames served or passed to the core.

What comes out of a seal is still only what one member says: packets pass the source check, RFC 6040 and a
look for loops before the TUN sees them.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import cast

from meshnode.crypto.suites import InvalidTag
from meshnode.dataplane.config import PlaneConfig
from meshnode.dataplane.joining import SEGMENT_HEAD, SegmentRun
from meshnode.dataplane.mss import carries_mss, clamp_mss
from meshnode.dataplane.next_hops import NextHops
from meshnode.dataplane.peer import Peer
from meshnode.dataplane.relaying import Relaying
from meshnode.dataplane.runs import Run
from meshnode.dataplane.sealing import NONCE
from meshnode.dataplane.session import Ledger, Session
from meshnode.dataplane.template import parse_template_untrusted
from meshnode.dataplane.tun_writer import TunWriter
from meshnode.queueing.flow_hash import flow_key
from meshnode.values import BadPacket, Nanos, Opened, PeerId, RawFrame
from meshnode.wire.frames import (
    FLAG_PARTIAL,
    FrameType,
    parse_fragment_untrusted,
    split_frames_untrusted,
)
from meshnode.wire.header import DATA_HEADER_SIZE, TAG_SIZE
from meshnode.wire.ip import (
    Packet,
    apply_ecn,
    check_packet_untrusted,
    decapsulate_ecn,
    destination,
    ecn,
    source,
)

_COUNTER = struct.Struct(">Q")
_COUNTER_OFFSET = 8
_SEALED = DATA_HEADER_SIZE + TAG_SIZE
_SEGMENT_HEAD = struct.Struct(">HH")
_PADDING, _PACKET, _SEGMENT = int(FrameType.PADDING), int(FrameType.PACKET), int(FrameType.SEGMENT)
_RELAY = int(FrameType.RELAY)
_USER_DATA = frozenset((_PACKET, _SEGMENT, int(FrameType.FRAGMENT)))
_FOR_THE_CORE = frozenset(map(int, (FrameType.CONTROL, FrameType.PROBE, FrameType.ECHO, FrameType.REPORT)))
MAX_OPENED = 4096
"""Datagrams with frames for the core that wait to be taken; more are dropped."""


class Opener:
    """Opens what the queues release. `opened` is for the core, packets go to the TUN writer."""

    def __init__(
        self,
        config: PlaneConfig,
        next_hops: NextHops,
        writer: TunWriter,
        ledger: Ledger,
        counters: Counter[str],
    ) -> None:
        self._multicast = frozenset(config.multicast)
        self._next_hops = next_hops
        self._writer = writer
        self._ledger = ledger
        self._counters = counters
        self._train: SegmentRun | None = None
        self._reassembling: dict[PeerId, Peer] = {}
        self.opened: list[Opened] = []
        self.relaying: Relaying | None = None

    def expire_fragments(self, now: Nanos) -> None:
        """Forget packets whose fragments have taken too long."""
        for peer in list(self._reassembling.values()):
            expired = peer.reassembly.expire(now)
            if expired:
                self._counters["in fragment timeout"] += expired
            if not peer.reassembly:
                del self._reassembling[peer.id]

    def poll_timeout(self) -> Nanos | None:
        """When the next unfinished packet expires."""
        times = (peer.reassembly.poll_timeout() for peer in self._reassembling.values())
        return min((time for time in times if time is not None), default=None)

    def forget(self, peer: Peer) -> None:
        """The peer is gone."""
        self._reassembling.pop(peer.id, None)

    def open_run(self, run: Run, now: Nanos) -> None:
        """Open all datagrams of a run."""
        session, data, step = run.session, run.data, run.step
        if session.retired:
            self._counters["in retired session"] += 1
            return
        view = memoryview(data)
        arena = bytearray(run.end - run.start - run.count * _SEALED)
        plaintexts = memoryview(arena)
        window, open_into, limit = session.window, session.open_into, session.reject_after
        train = self._train = None
        end = opened = joined = with_data = size = bad_tags = 0
        for at in range(run.start, run.end, step):
            begin, stop = end, at + step
            if stop > run.end:
                stop = run.end
            end += stop - at - _SEALED
            (counter,) = _COUNTER.unpack_from(data, at + _COUNTER_OFFSET)
            if (counter <= window.highest and not window.check(counter)) or counter >= limit:
                self._counters["in replay"] += 1
                continue
            sealed = at + DATA_HEADER_SIZE
            try:
                open_into(NONCE.pack(counter), view[sealed:stop], view[at:sealed], plaintexts[begin:end])
            except InvalidTag:
                bad_tags += 1
                continue
            window.accept(counter)
            opened += 1
            size += stop - at
            if train is not None and train.extend(arena, plaintexts, begin, end):
                joined += 1
                continue
            with_data += self._serve(run, session, plaintexts[begin:end], now)
            train = self._train
        if opened:
            self._ledger.received(session, run.path, opened, with_data + joined, size)
            session.peer.received_packets += joined
            session.peer.received_bytes += joined * (step - _SEALED - SEGMENT_HEAD.size)
        self._judge(run, opened, bad_tags, now)

    def _judge(self, run: Run, opened: int, bad_tags: int, now: Nanos) -> None:
        """Remember how the source behaves."""
        source = run.source
        if source is not None:
            source.good += opened
            source.bad += bad_tags
        if bad_tags:
            self._counters["in bad tag"] += bad_tags
            if source is not None and source.judge(now):
                self._counters["in source demoted"] += 1

    def _serve(self, run: Run, session: Session, plaintext: memoryview, now: Nanos) -> bool:
        """All frames of one datagram; whether it has user data.

        A malformed frame header spoils all frames, a malformed body only its own.
        """
        self._train = None
        try:
            _, frames = split_frames_untrusted(plaintext)
        except BadPacket as bad:
            self._counters[f"in {bad.reason}"] += 1
            return False
        for_core: list[RawFrame] = []
        has_data = False
        for kind, flags, body in frames:
            if kind in _FOR_THE_CORE:
                for_core.append(RawFrame(kind, flags, bytes(body)))
            elif kind in _USER_DATA:
                has_data = True
                try:
                    self._serve_data_untrusted(run, session.peer, kind, flags, cast("memoryview", body), now)
                except BadPacket as bad:
                    self._counters[f"in {bad.reason}"] += 1
            elif kind == _RELAY:
                if self._serve_relay(run, session.peer, cast("memoryview", body), now):
                    for_core.append(RawFrame(kind, flags, bytes(body)))
            elif kind != _PADDING:
                self._counters["in unknown frame"] += 1
        if for_core:
            self._report(run, session, tuple(for_core), len(plaintext) + _SEALED)
        return has_data

    def _serve_relay(self, run: Run, peer: Peer, body: memoryview, now: Nanos) -> bool:
        """Hand a relay frame on; True when the core has to see it."""
        if self.relaying is None or not peer.admitted:
            self._counters["in relay unasked"] += 1
            return False
        try:
            return self.relaying.serve_untrusted(run, peer, body, now)
        except BadPacket as bad:
            self._counters[f"in {bad.reason}"] += 1
            return False

    def _serve_data_untrusted(
        self, run: Run, peer: Peer, kind: int, flags: int, body: memoryview, now: Nanos
    ) -> None:
        """A frame with user data."""
        partial = bool(flags & FLAG_PARTIAL)
        if kind == _PACKET:
            self._deliver_untrusted(peer, body, partial, run.ecn)
        elif kind == _SEGMENT:
            self._train = self._deliver_segment_untrusted(peer, body, run.ecn)
        else:
            self._reassembling[peer.id] = peer
            whole = peer.reassembly.add_untrusted(parse_fragment_untrusted(body), run.ecn, now)
            if whole is not None:
                partial = bool(whole.flags & FLAG_PARTIAL)
                self._deliver_untrusted(peer, bytearray(whole.packet), partial, whole.ecn)

    def _report(self, run: Run, session: Session, frames: tuple[RawFrame, ...], size: int) -> None:
        if len(self.opened) >= MAX_OPENED:
            self._counters["in core behind"] += 1
            return
        self.opened.append(
            Opened(session.peer.id, session.local_index, run.path, run.arrived, run.ecn, size, frames)
        )

    def _deliver_untrusted(
        self, peer: Peer, packet: bytearray | memoryview, partial: bool, outer: int
    ) -> None:
        """One inner packet, in a buffer that we may write to."""
        check_packet_untrusted(packet)
        self._admit_untrusted(peer, packet)
        _leave_tunnel_untrusted(packet, outer)
        if carries_mss(packet):
            packet = clamp_mss(packet, peer.inner_mtu, partial)
        self._writer.write_untrusted(packet, partial)
        peer.received_packets += 1
        peer.received_bytes += len(packet)

    def _deliver_segment_untrusted(self, peer: Peer, body: memoryview, outer: int) -> SegmentRun:
        """One segment, the long way: the first of a run, or one after a gap. What follows can extend the run."""
        if len(body) <= _SEGMENT_HEAD.size:
            raise BadPacket("segment length")
        index, segment_size = _SEGMENT_HEAD.unpack_from(body)
        template = parse_template_untrusted(body[_SEGMENT_HEAD.size :], segment_size)
        sent = template.header
        payload = body[_SEGMENT_HEAD.size + len(sent) :]
        if index > template.last or len(payload) != template.size_of(index):
            raise BadPacket("segment size")
        self._admit_untrusted(peer, sent)
        header = bytearray(sent)
        if _leave_tunnel_untrusted(header, outer):
            template = template.with_header(bytes(header))
        flow = flow_key(sent) or b""
        peer.received_packets += 1
        peer.received_bytes += len(sent) + len(payload)
        return self._writer.write_segment(flow, sent, template, index, payload)

    def _admit_untrusted(self, peer: Peer, packet: Packet) -> None:
        """Whether `peer` may send this packet to us. Raises BadPacket with the reason if not."""
        refusal = peer.check.refusal(source(packet))
        if refusal is not None:
            raise BadPacket(refusal)
        to = destination(packet)
        if to[0] >= 224 if len(to) == 4 else to[0] == 0xFF:
            if to not in self._multicast:
                raise BadPacket("multicast")
        elif self._next_hops.returns_to(peer.id, to):
            raise BadPacket("loop")


def _leave_tunnel_untrusted(packet: bytearray | memoryview, outer: int) -> bool:
    """Give an inner header the ECN bits of RFC 6040, figure 4. Whether they changed; BadPacket to drop the packet."""
    inner = ecn(packet)
    bits = decapsulate_ecn(inner, outer)
    if bits is None:
        raise BadPacket("ce on not-ect")
    if bits == inner:
        return False
    apply_ecn(packet, bits)
    return True
