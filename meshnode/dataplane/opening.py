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
from meshnode.dataplane.mss import carries_mss, clamp_mss
from meshnode.dataplane.next_hops import NextHops
from meshnode.dataplane.peer import Peer
from meshnode.dataplane.runs import Run
from meshnode.dataplane.sealing import NONCE
from meshnode.dataplane.session import Ledger, Session
from meshnode.dataplane.tun_writer import TunWriter
from meshnode.values import BadPacket, Nanos, Opened, RawFrame
from meshnode.wire.frames import FLAG_PARTIAL, FrameType, parse_fragment_untrusted, split_frames_untrusted
from meshnode.wire.header import DATA_HEADER_SIZE, MINIMUM_DATA, TAG_SIZE
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
_PADDING, _PACKET, _FRAGMENT = int(FrameType.PADDING), int(FrameType.PACKET), int(FrameType.FRAGMENT)
_FOR_THE_CORE = frozenset(
    map(int, (FrameType.CONTROL, FrameType.PROBE, FrameType.ECHO, FrameType.REPORT, FrameType.RELAY))
)
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
        self.opened: list[Opened] = []

    def open_run(self, run: Run, now: Nanos) -> None:
        """Open all datagrams of a run."""
        session = run.session
        if session.retired:
            self._counters["in retired session"] += 1
            return
        for at in range(run.start, run.end, run.step):
            plaintext = self._open_untrusted(run, session, at, min(at + run.step, run.end))
            if plaintext is not None:
                self._serve(run, session, plaintext, now)

    def _open_untrusted(self, run: Run, session: Session, at: int, end: int) -> memoryview | None:
        """The plaintext of one datagram; None, counted, if it is none of ours or came before."""
        if end - at < MINIMUM_DATA:
            self._counters["in length"] += 1
            return None
        (counter,) = _COUNTER.unpack_from(run.data, at + _COUNTER_OFFSET)
        if counter >= session.reject_after or not session.window.check(counter):
            self._counters["in replay"] += 1
            return None
        view = memoryview(run.data)
        plaintext = bytearray(end - at - _SEALED)
        header = view[at : at + DATA_HEADER_SIZE]
        try:
            session.open_into(NONCE.pack(counter), view[at + DATA_HEADER_SIZE : end], header, plaintext)
        except InvalidTag:
            self._counters["in bad tag"] += 1
            return None
        session.window.accept(counter)
        note = self._ledger.note(session, run.path)
        note.received += 1
        note.received_bytes += end - at
        note.highest_received = max(note.highest_received, counter)
        return memoryview(plaintext)

    def _serve(self, run: Run, session: Session, plaintext: memoryview, now: Nanos) -> None:
        """All frames of one datagram. A malformed frame header spoils them all; a malformed body only itself."""
        try:
            _, frames = split_frames_untrusted(plaintext)
        except BadPacket as bad:
            self._counters[f"in {bad.reason}"] += 1
            return
        peer = session.peer
        for_core: list[RawFrame] = []
        has_data = False
        for frame in frames:
            kind = frame.type
            if kind == _PACKET:
                has_data = True
                self._deliver(peer, cast("memoryview", frame.body), bool(frame.flags & FLAG_PARTIAL), run.ecn)
            elif kind == _FRAGMENT:
                has_data = True
                self._reassemble(peer, frame.body, run.ecn, now)
            elif kind in _FOR_THE_CORE:
                for_core.append(RawFrame(kind, frame.flags, bytes(frame.body)))
            elif kind != _PADDING:
                self._counters["in unknown frame"] += 1
        if has_data:
            self._ledger.note(session, run.path).received_data += 1
        if for_core:
            self._report(run, session, tuple(for_core), len(plaintext) + _SEALED)

    def _report(self, run: Run, session: Session, frames: tuple[RawFrame, ...], size: int) -> None:
        if len(self.opened) >= MAX_OPENED:
            self._counters["in core behind"] += 1
            return
        self.opened.append(
            Opened(session.peer.id, session.local_index, run.path, run.arrived, run.ecn, size, frames)
        )

    def _reassemble(self, peer: Peer, body: Packet, outer: int, now: Nanos) -> None:
        try:
            whole = peer.reassembly.add_untrusted(parse_fragment_untrusted(bytes(body)), outer, now)
        except BadPacket as bad:
            self._counters[f"in {bad.reason}"] += 1
            return
        if whole is not None:
            self._deliver(peer, bytearray(whole.packet), bool(whole.flags & FLAG_PARTIAL), whole.ecn)

    def _deliver(self, peer: Peer, packet: bytearray | memoryview, partial: bool, outer: int) -> None:
        """One inner packet, in a buffer that we may write to."""
        try:
            check_packet_untrusted(packet)
            self._admit_untrusted(peer, packet)
            inner = ecn(packet)
            bits = decapsulate_ecn(inner, outer)
            if bits is None:
                raise BadPacket("ce on not-ect")
            if bits != inner:
                apply_ecn(packet, bits)
            if carries_mss(packet):
                packet = clamp_mss(packet, peer.inner_mtu, partial)
            self._writer.write_untrusted(packet, partial)
        except BadPacket as bad:
            self._counters[f"in {bad.reason}"] += 1
            return
        peer.received_packets += 1
        peer.received_bytes += len(packet)

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
