"""A TUN interface: IP packets, and superpackets behind a virtio-net header, through one descriptor.

With offload the kernel hands over TCP and UDP superpackets of up to 64 KB whole and with unfinished checksums, and
takes such packets back: one crossing in place of forty. Every packet then carries a virtio-net header of 10 bytes
(virtio 1.2, section 5.1.6, without the field that only merging buffers need), always little-endian.

The ring between the kernel and us is a FIFO that drops its tail and tells nobody. It is drained eagerly, its length
only absorbs the time until the next turn.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import socket
import struct
from collections import Counter

from meshnode.dataplane.api import TunPacket
from meshnode.edge.errors import EdgeError, reason

DEVICE = pathlib.Path("/dev/net/tun")
HEADER_SIZE = 10
PLAIN_HEADER = bytes(HEADER_SIZE)
"""The virtio-net header of a packet that wants nothing done."""

LONGEST_NAME = 15
_READ_SIZE = HEADER_SIZE + 65_536
_COPY_BELOW = 4096

_TUNSETIFF = 0x4004_54CA
_TUNSETOFFLOAD = 0x4004_54D0
_TUNSETVNETLE = 0x4004_54DC
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_TUN_EXCL = 0x8000
_SIOCSIFMTU = 0x8922
_SIOCSIFTXQLEN = 0x8943
_IFREQ = struct.Struct("16sI20x")

_OFFLOADS = (
    ({"tun_checksum": 0x01}),
    ({"tun_tso4": 0x02, "tun_tso6": 0x04}),
    ({"tun_tso_ecn": 0x08}),
    ({"tun_uso4": 0x20, "tun_uso6": 0x40}),
)
"""TUN_F_* by name, in the order in which they build on each other. The kernel takes USO4 and USO6 only together."""


class OffloadRefused(Exception):
    """The kernel refuses this packet's virtio-net header. Split the packet and write it again; where the pieces are
    taken, the offload is at fault: `set_offload(False)`."""


class Tun:
    """The interface exists as long as this object is open: not persistent, so even a killed process leaves nothing.

    `offloads` says what the kernel granted, `counters` what it refused to take (`tun_write_*`).
    """

    def __init__(self, descriptor: int, name: str, mtu: int, virtio: bool) -> None:
        self.name = name
        self.index = socket.if_nametoindex(name)
        self.mtu = mtu
        self.offloads = dict.fromkeys((name for group in _OFFLOADS for name in group), False)
        self.counters: Counter[str] = Counter()
        self._descriptor = descriptor
        self._virtio = virtio

    @classmethod
    def open(cls, name: str, mtu: int, offload: bool = True, queue_length: int = 1000) -> Tun:
        """Make the interface `name`, down and without addresses. Raises EdgeError.

        `offload=False` also leaves the virtio-net headers away, for a kernel that gets them wrong. With `queue_length`
        1000 four streams through a busy reader lost nothing with offload, with 100 about two packets in a thousand.
        """
        if not 0 < len(name.encode()) <= LONGEST_NAME or "/" in name or any(map(str.isspace, name)):
            raise EdgeError(f"{name!r} cannot name an interface: at most 15 characters, no space, no slash")
        descriptor = open_device()
        try:
            _attach(descriptor, name, _IFF_VNET_HDR if offload else 0)
            _set_number(name, _SIOCSIFMTU, mtu, "MTU")
            _set_queue_length(name, queue_length)
            tun = cls(descriptor, name, mtu, offload)
            if offload:
                fcntl.ioctl(descriptor, _TUNSETVNETLE, struct.pack("i", 1))
                tun.set_offload(True)
        except BaseException:
            os.close(descriptor)
            raise
        return tun

    def fileno(self) -> int:
        """The descriptor, for polling."""
        return self._descriptor

    def read_batch(self, limit: int = 64) -> list[TunPacket]:
        """Up to `limit` packets that wait; never blocks. Raises EdgeError when the interface was removed."""
        packets: list[TunPacket] = []
        descriptor, size = self._descriptor, HEADER_SIZE if self._virtio else 0
        try:
            while len(packets) < limit:
                raw = os.read(descriptor, _READ_SIZE)
                # A small packet is cheaper as a copy, a superpacket as a view.
                data = raw[size:] if len(raw) < _COPY_BELOW else memoryview(raw)[size:]
                packets.append(TunPacket(raw[:size], data))
        except BlockingIOError:
            pass
        except OSError as error:
            raise self._gone(error) from error
        return packets

    def write(self, packet: TunPacket) -> bool:
        """Whether the kernel took the packet; a refusal is counted. Raises OffloadRefused, and EdgeError when the
        interface was removed."""
        buffers = packet.data if isinstance(packet.data, list) else [packet.data]
        header = packet.header or PLAIN_HEADER
        if self._virtio:
            buffers = [header, *buffers]
        elif header != PLAIN_HEADER:
            raise OffloadRefused("this interface has no virtio-net header")
        try:
            os.writev(self._descriptor, buffers)
        except OSError as error:
            return self._not_written(error, header)
        return True

    def ring_drops(self) -> int:
        """Packets that the kernel has thrown away because we did not read them in time (a tail-drop FIFO: a bug)."""
        try:
            return int(pathlib.Path(f"/sys/class/net/{self.name}/statistics/tx_dropped").read_text())
        except (OSError, ValueError):
            return 0  # no sysfs in this container

    def set_offload(self, enabled: bool) -> None:
        """Ask for superpackets, or for plain packets only; what waits in the ring still comes as it is."""
        granted = 0
        for group in _OFFLOADS:
            wanted = granted | sum(group.values())
            accepted = enabled and self._virtio and self._try_offload(wanted)
            granted = wanted if accepted else granted
            self.offloads.update(dict.fromkeys(group, accepted))
        if self._virtio:
            self._try_offload(granted)

    def close(self) -> None:
        """Give the descriptor back: the interface goes, and its addresses and routes with it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _try_offload(self, flags: int) -> bool:
        try:
            fcntl.ioctl(self._descriptor, _TUNSETOFFLOAD, flags)
        except OSError:
            return False
        return True

    def _not_written(self, error: OSError, header: bytes) -> bool:
        if error.errno == errno.EINVAL and header != PLAIN_HEADER:
            raise OffloadRefused(reason(error)) from error
        if error.errno == errno.EBADFD:
            raise self._gone(error) from error
        self.counters[_WRITE_COUNTERS.get(error.errno or 0, "tun_write_failed")] += 1
        return False

    def _gone(self, error: OSError) -> EdgeError:
        return EdgeError(f"interface {self.name} was taken away ({reason(error)}): start the node again")


def open_device(device: pathlib.Path = DEVICE) -> int:
    """A descriptor that is not attached to an interface yet. Raises EdgeError."""
    try:
        return os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            fix = (
                f"run `mkdir -p {device.parent} && mknod {device} c 10 200`, in Docker add --device {device}"
            )
        elif error.errno in (errno.ENODEV, errno.ENXIO):
            fix = "run `modprobe tun` on the host"
        else:
            fix = f"run as root, in Docker add --device {device}"
        raise EdgeError(f"cannot open {device} ({reason(error)}): {fix}") from error


_WRITE_COUNTERS = {
    errno.EINVAL: "tun_write_invalid",
    errno.EIO: "tun_write_down",
    errno.EAGAIN: "tun_write_full",
    errno.ENOMEM: "tun_write_no_memory",
    errno.ENOBUFS: "tun_write_no_memory",
}


def _attach(descriptor: int, name: str, flags: int) -> None:
    request = _IFREQ.pack(name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_TUN_EXCL | flags)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EEXIST, errno.EINVAL):
            fix = "choose another with --interface or `interface =` in the configuration"
            raise EdgeError(f"interface {name} exists already ({_kind(name)}): {fix}") from error
        if error.errno == errno.EPERM:
            fix = "run as root, or give CAP_NET_ADMIN (in Docker --cap-add NET_ADMIN)"
            raise EdgeError(f"not allowed to make interface {name}: {fix}") from error
        raise EdgeError(f"cannot make interface {name}: {reason(error)}") from error


def _set_number(name: str, request: int, value: int, what: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, request, _IFREQ.pack(name.encode(), value))
        except OSError as error:
            raise EdgeError(f"interface {name} refuses a {what} of {value}: {reason(error)}") from error


def _set_queue_length(name: str, length: int) -> None:
    """Leaves the kernel's own length (500) in a user namespace: this ioctl asks for rights in the first one."""
    try:
        _set_number(name, _SIOCSIFTXQLEN, length, "queue length")
    except EdgeError as error:
        if not isinstance(error.__cause__, PermissionError):
            raise


def _kind(name: str) -> str:
    """What holds a name that we want, as far as sysfs tells."""
    directory = pathlib.Path("/sys/class/net", name)
    if (directory / "tun_flags").exists():
        return "a TUN or TAP device of another program"
    try:
        lines = (directory / "uevent").read_text().splitlines()
    except OSError:
        return "made by another program"
    kinds = [line.partition("=")[2] for line in lines if line.startswith("DEVTYPE=")]
    return f"a {kinds[0]}" if kinds else "a network device"
