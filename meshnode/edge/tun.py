"""A TUN interface: IP packets, and superpackets with their virtio-net header, as one descriptor."""

from __future__ import annotations

from collections import Counter

from meshnode.dataplane.api import TunPacket


class OffloadRefused(Exception):
    """The kernel refused a packet because of its virtio-net header: `set_offload(False)`, split it, write it again."""


class Tun:
    """Attributes: `name`, `index`, `mtu`, `offloads` (what the kernel granted), `counters`."""

    name: str
    index: int
    mtu: int
    offloads: dict[str, bool]
    counters: Counter[str]

    @classmethod
    def open(cls, name: str, mtu: int, offload: bool = True, queue_length: int = 1000) -> Tun:
        """Make the interface. Raises EdgeError."""
        raise NotImplementedError

    def fileno(self) -> int:
        raise NotImplementedError

    def read_batch(self, limit: int = 64) -> list[TunPacket]:
        """Up to `limit` packets that wait; never blocks. Raises EdgeError when the interface is gone."""
        raise NotImplementedError

    def write(self, packet: TunPacket) -> bool:
        """Whether the kernel took the packet; a refusal is counted. Raises OffloadRefused."""
        raise NotImplementedError

    def set_offload(self, enabled: bool) -> None:
        """Ask the kernel for superpackets, or for plain packets only (what waits in the ring still comes as it is)."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the descriptor back: the interface goes with its addresses and routes."""
        raise NotImplementedError
