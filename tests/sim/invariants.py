"""What must hold in every world, after every step, whatever the faults and whoever attacks.

Each ledger watches one promise and raises `Broken` at the moment it is not kept, so that the last line of the
trace is the one to look at. They judge by what the world knows to be true, never by what a node believes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from meshnode.crypto.suites import Aead, Buffer
from meshnode.values import Endpoint, Suite
from tests.sim import inner
from tests.sim.link import UdpPacket

AeadFactory = Callable[[Suite, bytes], Aead]
UNPROVEN_FACTOR = 3
_COOKIE = 3


class Broken(AssertionError):
    """A promise of the protocol was not kept."""


@dataclass(slots=True)
class NonceLedger:
    """No key seals two datagrams with one nonce: not in one process, not after a restart, not on another
    host.

    Counters are given out in the order of sealing, so each nonce of a key must exceed the one before.
    """

    _highest: dict[tuple[int, bytes], bytes] = field(default_factory=dict)

    def watch(self, factory: AeadFactory) -> AeadFactory:
        """A factory like `factory` whose ciphers report here."""

        def watched(suite: Suite, key: bytes) -> Aead:
            cipher = factory(suite, key)
            name = (int(suite), bytes(key))

            def seal_into(
                nonce: Buffer, data: Buffer, associated: Buffer | None, buffer: bytearray | memoryview
            ) -> int:
                self.note(name, bytes(nonce))
                return cipher.seal_into(nonce, data, associated, buffer)

            return Aead(seal_into, cipher.open_into)

        return watched

    def note(self, key: tuple[int, bytes], nonce: bytes) -> None:
        """`nonce` is about to be used under `key`."""
        if nonce <= self._highest.get(key, b""):
            raise Broken(f"a nonce was used twice or out of order: {nonce.hex()}")
        self._highest[key] = nonce

    def keys(self) -> int:
        """How many keys have sealed anything."""
        return len(self._highest)


@dataclass(slots=True)
class AddressLedger:
    """Where no honest host ever was, nothing is sent but a little to who has asked.

    To an address that only unauthenticated packets name: no byte, but a cookie no longer than what it
    answers. To one from which copies of honest packets came: at most three times their bytes (RFC 9000
    section 8).
    """

    _honest: dict[Endpoint, None] = field(default_factory=dict)
    _honest_data: dict[bytes, None] = field(default_factory=dict)
    _copied: Counter[tuple[str, Endpoint]] = field(default_factory=Counter)
    _received: Counter[tuple[str, Endpoint]] = field(default_factory=Counter)
    _sent: Counter[tuple[str, Endpoint]] = field(default_factory=Counter)
    remember_data: bool = False
    """Whether somebody in this world copies packets: then honest ones are remembered."""

    def vouch(self, endpoint: Endpoint) -> None:
        """An honest host is, or is by configuration believed to be, at `endpoint`."""
        self._honest[endpoint] = None

    def arrived(self, host: str, packet: UdpPacket, honest: bool) -> None:
        """`packet` has reached `host`; `honest` if an honest host sent it."""
        if honest:
            self._honest[packet.source] = None
            return
        self._received[host, packet.source] += len(packet.data)
        if packet.data in self._honest_data:
            self._copied[host, packet.source] += len(packet.data)

    def sent(self, host: str, packet: UdpPacket) -> None:
        """The honest `host` sends `packet`."""
        if self.remember_data:
            self._honest_data[packet.data] = None
        to = packet.destination
        if to in self._honest:
            return
        key = (host, to)
        if packet.data[0] == _COOKIE:
            self._received[key] -= len(packet.data)
            if self._received[key] < 0:
                raise Broken(f"{host} amplifies: more bytes of cookies to {to} than came from there")
            return
        self._sent[key] += len(packet.data)
        if self._sent[key] > UNPROVEN_FACTOR * self._copied[key]:
            raise Broken(
                f"{host} sent {self._sent[key]} B to {to}, where no member is; "
                f"authentic datagrams from there had {self._copied[key]} B"
            )

    def sent_to(self, endpoint: Endpoint) -> int:
        """Bytes that honest hosts sent to a stranger's `endpoint`, without cookies."""
        return sum(count for (_, to), count in self._sent.items() if to == endpoint)


@dataclass(slots=True)
class InnerLedger:
    """What leaves a TUN was put into another one by who it says, and leaves at most once.

    That is authenticity and replay protection as applications see them. Every packet that is put in must
    differ from those before, as real traffic of the test applications does (they number their packets).
    """

    _sent: dict[tuple[bytes, bytes, int, bytes], str] = field(default_factory=dict)
    _delivered: dict[tuple[str, bytes, bytes, int, bytes], None] = field(default_factory=dict)
    _last_numbers: Counter[str] = field(default_factory=Counter)
    delivered: int = 0

    def number(self, name: str) -> int:
        """The next number for packets that `name` sends."""
        self._last_numbers[name] += 1
        return self._last_numbers[name]

    def sent(self, host: str, packet: bytes) -> None:
        """An application of `host` put `packet` into its TUN."""
        self._sent[_identity(packet)] = host

    def arrived(self, host: str, packet: bytes) -> None:
        """`packet` came out of the TUN of `host`."""
        identity = _identity(packet)
        if identity not in self._sent:
            raise Broken(f"{host} delivered an inner packet that nobody sent: {packet.hex()[:80]}")
        key = (host, *identity)
        if key in self._delivered:
            raise Broken(f"{host} delivered an inner packet twice: {packet.hex()[:80]}")
        self._delivered[key] = None
        self.delivered += 1


def _identity(packet: bytes) -> tuple[bytes, bytes, int, bytes]:
    """All of an inner packet but its ECN bits, which queues on the way may set."""
    parts = inner.parse(packet)
    if not inner.checksum_is_right(parts):
        raise Broken(f"an inner packet with a wrong checksum: {packet.hex()[:80]}")
    return parts.source, parts.destination, parts.protocol, parts.body


@dataclass(slots=True)
class Invariants:
    """The ledgers of one world."""

    nonces: NonceLedger = field(default_factory=NonceLedger)
    addresses: AddressLedger = field(default_factory=AddressLedger)
    inner: InnerLedger = field(default_factory=InnerLedger)
