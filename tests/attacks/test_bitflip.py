"""Authentication that misses a bit: every bit of every message is flipped once.

For handshakes mac1 is made anew after the flip, as an attacker who knows our public key would; what refuses them must
be the seal. tinc 1.0.1 had four bytes of MAC, others none.
"""

import pytest

from meshnode.crypto.primitives import SODIUM, Ciphers
from meshnode.proto.guard import Guard, Verdict
from tests.attacks.field import (
    DATA,
    INITIATION,
    RESPONSE,
    Field,
    at,
    push,
    settled,
    state_of,
    with_flipped_bit,
    with_right_macs,
)
from tests.sim.host import Host
from tests.sim.link import UdpPacket

SENDER_INDEX = range(4 * 8, 8 * 8)
"""The sender's index is not authenticated (as in WireGuard): a wrong one sends the answer nowhere."""


def caught(field: Field, kind: int, plug_of: Host) -> UdpPacket:
    """The first message of this kind that is on its way to `plug_of` while beta restarts. It does not arrive."""
    held: list[UdpPacket] = []

    def hold(packet: UdpPacket) -> tuple[UdpPacket, ...]:
        if packet.data[0] == kind and packet.destination == at(plug_of):
            held.append(packet)
            return ()
        return (packet,)

    field.mallory.hold(plug_of.plug, hold)
    field.beta.restart()
    field.mesh.wait_for(lambda: bool(held), 5 * 10**9, "a message is caught")
    return held[0]


def test_no_flipped_bit_of_a_handshake_message_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    # The budgets would refuse most of it unread.
    monkeypatch.setattr(Guard, "judge", lambda *_: Verdict.ADMIT)
    monkeypatch.setattr("meshnode.proto.handshake.FAILED_RESPONSES_PER_ATTEMPT", 10_000)
    for kind in (INITIATION, RESPONSE):
        field = settled()
        victim, other = (field.alpha, field.beta) if kind == INITIATION else (field.beta, field.alpha)
        message = caught(field, kind, victim).data
        before = state_of(victim)
        for bit in range((len(message) - 32) * 8):
            if bit not in SENDER_INDEX:
                push(victim, with_right_macs(with_flipped_bit(message, bit), victim), at(other))
                assert state_of(victim) == before, f"bit {bit} of type {kind}"
        push(victim, message, at(other))
        assert state_of(victim) != before


@pytest.mark.parametrize("size", [0, 200])
def test_no_flipped_bit_of_data_is_taken(size: int) -> None:
    field = settled()
    held: list[UdpPacket] = []

    def hold(packet: UdpPacket) -> tuple[UdpPacket, ...]:
        held.append(packet)
        return ()

    field.mallory.hold(field.alpha.plug, hold)
    field.beta.applications.send(field.alpha.member.ipv6, bytes(size))
    field.run(0.05)
    message = held[0].data
    assert message[0] == DATA
    received = len(field.alpha.applications.inbox)
    assert field.alpha.plane is not None
    for bit in range(len(message) * 8):
        push(field.alpha, with_flipped_bit(message, bit), at(field.beta))
    field.run(0.01)
    assert len(field.alpha.applications.inbox) == received
    push(field.alpha, message, at(field.beta))
    field.run(0.01)
    assert len(field.alpha.applications.inbox) == received + 1


class Trusting:
    """Ciphers that open everything with a wrong tag, too."""

    def __init__(self, real: Ciphers) -> None:
        self._real = real

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def open_untrusted(self, key: bytes, nonce: int, ad: bytes, sealed: bytes) -> bytes:
        # Opening is sealing once more: the stream is the same, only the tag goes unchecked.
        return self._real.seal(key, nonce, ad, sealed[:-16])[:-16]


def test_where_tags_are_not_checked_flips_are_taken() -> None:
    field = settled()
    message = caught(field, INITIATION, field.alpha).data
    node = field.alpha.node
    assert node is not None
    secrets = node._context.secrets
    object.__setattr__(secrets, "ciphers", Trusting(SODIUM))
    before = state_of(field.alpha)
    # The last bit before the macs is one of the payload's tag.
    bit = (len(message) - 32) * 8 - 1
    push(field.alpha, with_right_macs(with_flipped_bit(message, bit), field.alpha), at(field.beta))
    assert state_of(field.alpha) != before
