"""Packets on their way to the TUN, with the virtio-net header that says what the kernel is to do with them."""

from __future__ import annotations

from meshnode.dataplane.api import TunPacket
from meshnode.dataplane.vnet import PLAIN, partial_header_untrusted
from meshnode.wire.ip import finish_partial_checksum


class TunWriter:
    """Collects packets until `take`. With `offload` the kernel finishes partial checksums, else we do."""

    def __init__(self, offload: bool) -> None:
        self._offload = offload
        self._packets: list[TunPacket] = []

    def write_untrusted(self, packet: bytearray | memoryview, partial: bool) -> None:
        """One packet with a right IP header. Raises BadPacket if its checksum cannot be partial."""
        header = b""
        if partial:
            if self._offload:
                header = partial_header_untrusted(packet)
            else:
                finish_partial_checksum(packet)
        elif self._offload:
            header = PLAIN
        self._packets.append(TunPacket(header, packet))

    def take(self) -> list[TunPacket]:
        """Everything, in order."""
        packets, self._packets = self._packets, []
        return packets
