"""Who sends more than he was sent can be aimed at others.

fastd answered one byte with 150 (CVE-2025-24356). A node answers a stranger nothing at all; where there are too many
handshakes, it answers a well-made initiation with a cookie that is shorter.
"""

import random

import pytest

from meshnode.proto.guard import Guard, Verdict
from meshnode.values import Endpoint, Path
from tests.attacks.field import INITIATION, Field, at, recorded, settled, with_right_macs
from tests.sim.invariants import Broken
from tests.sim.link import UdpPacket

LENGTHS = [0, 1, 15, 16, 35, 36, 63, 64, 65, 100, 101, 151, 152, 175, 512, 1200, 1201, 1472, 1500]


def answered_bytes(field: Field) -> int:
    field.run(2)
    return sum(len(packet.data) for packet in field.mallory.received)


def shout(field: Field) -> None:
    """Every type, at lengths around every limit, zeroes and noise, from a stranger's address."""
    dice = random.Random(1)
    for number, kind in enumerate(range(256)):
        lengths = LENGTHS if kind < 8 else [LENGTHS[number % len(LENGTHS)], 400]
        for length in lengths:
            head = bytes((kind, 1, 0, 0))[:length]
            for body in (bytes(length), dice.randbytes(length)):
                field.mallory.send((head + body)[:length], at(field.alpha))


def test_a_stranger_gets_not_one_byte_whatever_he_sends() -> None:
    field = settled()
    shout(field)
    assert answered_bytes(field) == 0
    assert field.works()


def test_recorded_traffic_sent_again_gets_not_one_byte() -> None:
    field = settled()
    packets = recorded(field)
    for packet in packets:
        field.mallory.send(packet.data, packet.destination)
        field.run(0.01)
    assert answered_bytes(field) == 0
    assert field.works()


def test_a_node_that_has_just_started_is_as_silent() -> None:
    field = settled()
    packets = recorded(field)
    field.alpha.stop()
    field.beta.stop()
    field.alpha.start()
    # Without the timestamps that a crash might lose: they are on disk, and hold.
    for packet in packets:
        field.mallory.send(packet.data, packet.destination)
    shout(field)
    assert answered_bytes(field) == 0


def flood_from_all_ports(field: Field, victim: str) -> tuple[int, int]:
    """A well-made initiation from every port of a victim's address: bytes in, and bytes sent to the victim."""
    received: list[UdpPacket] = []
    plug = field.mesh.internet.plug_in(victim, received.append, families="4")
    packets = recorded(field)
    initiation = next(p.data for p in packets if p.data[0] == INITIATION and p.destination == at(field.alpha))
    forged = with_right_macs(initiation, field.alpha)
    sent = 0
    for port in range(1, 65_536, 16):
        field.mallory.send(forged, at(field.alpha), Endpoint(plug.addresses[0], port))
        sent += len(forged)
        if port % 256 == 1:
            field.run(0.02)
    field.run(1)
    return sent, sum(len(packet.data) for packet in received)


def test_a_flood_in_somebodys_name_sends_him_less_than_was_sent() -> None:
    field = settled()
    sent, reflected = flood_from_all_ports(field, "victim")
    assert 0 < reflected < sent / 2
    assert field.works()


def test_without_mac1_strangers_would_be_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    field = settled()
    monkeypatch.setattr(Guard, "check_mac1_untrusted", lambda *_: None)
    monkeypatch.setattr(Guard, "judge", lambda *_: Verdict.ASK_COOKIE)
    shout(field)
    assert answered_bytes(field) > 0


def test_an_answer_that_is_longer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    field = settled()
    cookie_reply = Guard.cookie_reply

    def long_reply(guard: Guard, data: bytes, index: int, path: Path, now: int) -> bytes:
        return cookie_reply(guard, data, index, path, now) + bytes(len(data))

    monkeypatch.setattr(Guard, "cookie_reply", long_reply)
    with pytest.raises(Broken, match="amplifies"):
        flood_from_all_ports(field, "victim")
