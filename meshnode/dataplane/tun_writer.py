"""Packets on their way to the TUN, with the virtio-net header that says what the kernel is to do with them."""

from __future__ import annotations

from meshnode.dataplane.api import TunPacket
from meshnode.dataplane.joining import PacketRun, SegmentRun, may_start_run
from meshnode.dataplane.template import Template
from meshnode.dataplane.vnet import PLAIN, Offload, partial_header_untrusted
from meshnode.queueing.flow_hash import flow_key
from meshnode.wire.ip import finish_partial_checksum


class TunWriter:
    """Collects packets until `take`, and joins what belongs together meanwhile, in the order of each flow."""

    __slots__ = ("_items", "_open", "offload")

    def __init__(self, offload: Offload) -> None:
        self.offload = offload
        self._items: list[TunPacket | SegmentRun | PacketRun] = []
        self._open: dict[bytes, SegmentRun | PacketRun] = {}

    def write_untrusted(self, packet: bytearray | memoryview, partial: bool) -> None:
        """One packet with a right IP header. Raises BadPacket if it cannot have a partial checksum but says so."""
        header = b""
        if not partial:
            header = PLAIN if self.offload.headers else b""
        elif self.offload.headers:
            header = partial_header_untrusted(packet)
        else:
            finish_partial_checksum(packet)
        if self._open or (partial and self.offload.tcp):
            if partial and self.offload.tcp and self._join(packet):
                return
            self._open.pop(flow_key(packet) or b"", None)  # what comes later must not get ahead of this one
        self._items.append(TunPacket(header, packet))

    def write_segment(
        self, flow: bytes, sent: bytes, template: Template, index: int, payload: memoryview
    ) -> SegmentRun:
        """One segment of a train, whose header came as `sent`. Returns the run, which may be extended until `take`."""
        run = self._open.get(flow)
        if isinstance(run, SegmentRun) and run.append(sent, template, index, payload):
            return run
        run = self._open[flow] = SegmentRun(sent, template, index, payload)
        self._items.append(run)
        return run

    def take(self) -> list[TunPacket]:
        """Everything, in order."""
        packets: list[TunPacket] = []
        for item in self._items:
            if isinstance(item, TunPacket):
                packets.append(item)
            else:
                packets.extend(item.tun_packets(self.offload))
        self._items.clear()
        self._open.clear()
        return packets

    def _join(self, packet: bytearray | memoryview) -> bool:
        """Put a TCP packet with a partial checksum into its flow's run, or start one."""
        flow = flow_key(packet) or b""
        run = self._open.get(flow)
        if isinstance(run, PacketRun) and run.append(packet):
            if not run.open:
                del self._open[flow]
            return True
        l4 = may_start_run(packet)
        if not l4:
            return False
        run = self._open[flow] = PacketRun(packet, l4)
        self._items.append(run)
        return True
