"""Forged messages that end a session.

Nebula closed tunnels on an unauthenticated error with the right 32-bit index (issue 1563). Here there is no message
outside the seal that moves anything of a session, so one who knows every address and index can only waste our time.
"""

import pytest
from cryptography.exceptions import InvalidTag

from meshnode.crypto.suites import Aead, Buffer
from meshnode.values import SECOND, Suite
from meshnode.wire.control import GoodbyeMessage
from meshnode.wire.handshake import CookieReply, Response
from meshnode.wire.header import pack_data_header
from tests.attacks.field import Field, at, control, settled, state_of, with_right_macs
from tests.sim.cheap import cheap_aead
from tests.sim.mesh import Mesh

GOODBYE = bytes(4) + control(GoodbyeMessage("the node stops"))


def indices(field: Field) -> list[tuple[int, int]]:
    """(local, remote) session indices of alpha towards beta: the attacker knows them all."""
    assert field.alpha.plane is not None
    return [(s.local_index, s.remote_index) for s in field.alpha.plane._sessions.values()]


def forge(field: Field) -> None:
    """Everything that may look like an end, from beta's own address to alpha and the other way round."""
    for local, remote in indices(field):
        for host, other, index in ((field.alpha, field.beta, local), (field.beta, field.alpha, remote)):
            messages = [
                pack_data_header(0, 0xFFFF, index, counter) + GOODBYE + bytes(16)
                for counter in (0, 5, 100, 5000, 2**40, 2**64 - 1)
            ]
            messages += [
                with_right_macs(Response(index, index, bytes(range(32)), bytes(37)).pack() + bytes(32), host),
                CookieReply(index, bytes(24), bytes(32)).pack(),
                bytes((5, 1, 0, 0)) + index.to_bytes(4, "big"),
                bytes((255, 1, 0, 0)) + index.to_bytes(4, "big"),
            ]
            for message in messages:
                field.mallory.send(message, at(host), source=at(other))


def ends_the_session(mesh: Mesh) -> bool:
    field = settled(mesh=mesh)
    before = state_of(field.alpha), state_of(field.beta)
    forge(field)
    field.run(0.5)
    return (state_of(field.alpha), state_of(field.beta)) != before


def tagless(suite: Suite, key: bytes) -> Aead:
    """The cheap cipher without a check of its tag."""
    cipher = cheap_aead(suite, key)

    def open_into(
        nonce: Buffer, data: Buffer, associated: Buffer | None, buffer: bytearray | memoryview
    ) -> int:
        if len(data) < 16:
            raise InvalidTag
        buffer[:] = memoryview(data)[:-16]
        return len(buffer)

    return Aead(cipher.seal_into, open_into)


@pytest.mark.parametrize("cheap", [False, True], ids=["real", "cheap"])
def test_no_forged_message_moves_anything(cheap: bool) -> None:
    assert not ends_the_session(Mesh(2, cheap))


def test_traffic_goes_on_under_a_storm_of_them() -> None:
    field = settled()
    for _ in range(20):
        forge(field)
        field.alpha.applications.send(field.beta.member.ipv6, b"x")
        field.run(0.05)
    field.run(1)
    assert len(field.beta.applications.inbox) == 20
    assert field.mesh.is_up(field.alpha, field.beta)


def test_where_tags_are_not_checked_the_forgery_ends_the_session() -> None:
    mesh = Mesh(2, cheap=True)
    mesh.use_aead(tagless)
    assert ends_the_session(mesh)


def test_a_goodbye_that_is_real_does_end_it() -> None:
    field = settled()
    field.beta.stop()
    field.mesh.run_for(SECOND)
    assert field.alpha.up() == []
