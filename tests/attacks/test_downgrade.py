"""A line on which somebody edits what both sides agree on, and one on which he reads along.

tinc could be talked into a null cipher (CVE-2018-16758). Here offers are sealed, versions are in the prologue, and
there is no suite without encryption: an edit ends the handshake, and nothing readable is ever on the wire.
"""

from collections.abc import Callable

import pytest

from meshnode.crypto.suites import SUITES
from meshnode.proto.handshake import choose_suite
from meshnode.values import BadPacket, Suite
from meshnode.wire.header import MessageType
from tests.attacks.field import INITIATION, RESPONSE, Field, settled, with_right_macs
from tests.sim.link import UdpPacket
from tests.sim.mesh import Mesh

CANARY = b"the canary sings in plain text"


def edits(position: int, bits: int) -> Callable[[bytes], bytes]:
    """Flip `bits` in the byte at `position`, which counts from the end if it is negative."""

    def edit(data: bytes) -> bytes:
        spoiled = bytearray(data)
        spoiled[position] ^= bits
        return bytes(spoiled)

    return edit


EDITS = {
    "version 0": edits(1, 1),
    "version 3": edits(1, 2),
    "reserved": edits(2, 1),
    "type": edits(0, 4),
    "ephemeral": edits(20, 1),
    "static, or payload": edits(50, 1),
    "last byte of the payload": edits(-32 - 16 - 1, 1),
    "its tag": edits(-32 - 1, 1),
    "shorter": lambda data: data[:-40] + data[-32:],
    "longer": lambda data: data[:-32] + bytes(8) + data[-32:],
}


def comes_up_although(field: Field, kind: int, edit: Callable[[bytes], bytes]) -> bool:
    """Whether alpha and beta, restarted, agree on a session while each message of a kind is edited."""

    def on_path(packet: UdpPacket) -> tuple[UdpPacket, ...]:
        if packet.data[0] != kind:
            return (packet,)
        receiver = field.alpha if packet.origin == "beta" else field.beta
        return (packet._replace(data=with_right_macs(edit(packet.data), receiver), forged=True),)

    field.mallory.hold(field.alpha.plug, on_path)
    field.alpha.crash()
    field.beta.crash()
    field.alpha.start()
    field.beta.start()
    field.run(10)
    return bool(field.alpha.up() or field.beta.up())


@pytest.mark.parametrize("kind", [INITIATION, RESPONSE], ids=["initiation", "response"])
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_handshake_comes_to_nothing(kind: int, edit: str) -> None:
    assert not comes_up_although(settled(), kind, EDITS[edit])


@pytest.mark.parametrize("kind", [INITIATION, RESPONSE], ids=["initiation", "response"])
def test_one_that_is_passed_on_unchanged_comes_up(kind: int) -> None:
    assert comes_up_although(settled(), kind, lambda data: data)


def test_versions_that_are_not_compared_let_an_edit_through(monkeypatch: pytest.MonkeyPatch) -> None:
    field = settled()
    for module in ("meshnode.proto.node", "meshnode.wire.handshake"):
        monkeypatch.setattr(f"{module}.message_type_untrusted", lambda data: MessageType(data[0]))
    assert comes_up_although(field, INITIATION, EDITS["version 3"])


def test_no_suite_is_without_encryption() -> None:
    for suite in SUITES.values():
        cipher = suite.cipher(bytes(32))
        assert CANARY not in cipher.encrypt(bytes(12), CANARY, b"")


def test_a_suite_that_was_not_offered_is_not_taken() -> None:
    with pytest.raises(BadPacket):
        choose_suite((), tuple(Suite))
    assert choose_suite((Suite.AES_256_GCM, Suite.CHACHA20_POLY1305), (Suite.CHACHA20_POLY1305,)) is Suite(1)


def canary_seen(mesh: Mesh) -> bool:
    field = settled(mesh=mesh)
    field.mallory.tap(field.alpha.plug)
    for _ in range(10):
        field.alpha.applications.send(field.beta.member.ipv6, CANARY)
        field.run(0.1)
    assert len(field.beta.applications.inbox) == 10
    return any(CANARY in packet.data for packet in field.mallory.overheard)


def test_nothing_readable_is_on_the_wire() -> None:
    assert not canary_seen(Mesh(3))


def test_a_cipher_that_does_not_encrypt_is_noticed() -> None:
    assert canary_seen(Mesh(3, cheap=True))
