"""Strangers on TCP: they are told nothing, cost little, and keep nobody out.

A port that answers strangers is found by whoever scans for it; one that waits for them is shut by whoever dribbles.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from meshnode.crypto.primitives import SODIUM
from meshnode.edge.strangers import STRANGERS, STRANGERS_PER_SOURCE
from meshnode.proto.context import NodeConfig
from meshnode.proto.node import Node
from meshnode.values import SECOND, Endpoint, Hint, Now
from meshnode.wire.state import StoredState
from tests.attacks.field import with_flipped_bit
from tests.sim.entropy import SeededEntropy
from tests.unit.edge.streams import Mill, datagram, ended, framed, turn_until
from tests.unit.proto.people import GENESIS, ROOT, WALL, Person, admin

ANN, BOB = Person("ann"), Person("bob")
STATE = StoredState(GENESIS, (admin(ROOT, ANN), admin(ROOT, BOB)))


def node(person: Person, mill: Mill) -> Node:
    config = NodeConfig(person.seed, person.static_secret)
    return Node(config, STATE, SODIUM, SeededEntropy(1, person.name), Now(mill.boot, WALL))


class Bob(Mill):
    """A node that listens on TCP, with all that the core has to say put on the wire."""

    def __init__(self) -> None:
        super().__init__()
        self.node = node(BOB, self)
        while self.node.poll_transmit() or self.node.poll_event():
            pass

    def turn(self) -> None:
        super().turn()
        for each in self.inbox:
            self.node.handle_datagram(bytes(each.data), each.path, Now(self.boot, WALL))
        self.inbox.clear()
        while transmit := self.node.poll_transmit():
            self.tcp.send_one(transmit.path, transmit.data)

    def dialled(self, source: str = "127.0.0.1") -> socket.socket:
        stream = socket.socket()
        stream.settimeout(10)
        stream.bind((source, 0))
        stream.connect(("127.0.0.1", self.tcp.port))
        return stream


@pytest.fixture
def bob() -> Iterator[Bob]:
    made = Bob()
    yield made
    made.close()


@pytest.fixture
def initiation(bob: Bob) -> bytes:
    """What Ann says to Bob first, as it would travel."""
    ann = node(ANN, bob)
    ann.handle_command(Hint(BOB.id, Endpoint("192.0.2.1", 4655)), Now(bob.boot, WALL))
    ann.handle_timeout(Now(bob.boot, WALL))
    transmit = ann.poll_transmit()
    assert transmit is not None
    return transmit.data


def test_a_member_is_answered(bob: Bob, initiation: bytes) -> None:
    """Or the silence in the other tests would prove nothing."""
    with bob.dialled() as stream:
        stream.sendall(framed(initiation))
        stream.setblocking(False)
        heard = b""

        def answered() -> bool:
            nonlocal heard
            try:
                heard += stream.recv(4096)
            except BlockingIOError:
                pass
            return bool(heard)

        turn_until(answered, bob)
    assert heard[2] == 2  # a response


def test_strangers_hear_nothing_whatever_they_say(bob: Bob, initiation: bytes) -> None:
    forged = [with_flipped_bit(initiation, bit) for bit in range(0, 8 * len(initiation), 577)]
    forged = [each for each in forged if each[:4] == initiation[:4]]
    with bob.dialled() as stream:
        stream.sendall(framed(*forged, bytes([3, 1, 0, 0]) + bytes(60), datagram(1)))
        turn_until(lambda: sum(bob.node.counters.values()) >= len(forged), bob)
        bob.after(5)
        assert ended(stream) == b""
    assert bob.counters == {"tcp_unproven": 1}


def test_a_stranger_who_dribbles_or_stalls_is_gone_after_five_seconds(bob: Bob, initiation: bytes) -> None:
    with bob.dialled() as dribbler, bob.dialled() as staller:
        turn_until(lambda: bob.registered == 4, bob)
        staller.sendall(framed(initiation)[:-1])
        for byte in framed(initiation)[:49]:
            dribbler.sendall(bytes([byte]))
            bob.after(0.1)
        bob.after(0.1)
        assert ended(dribbler) == ended(staller) == b""
    assert bob.counters == {"tcp_unproven": 2}
    assert len(bob.watched) == 2


def test_a_thousand_connections_keep_nobody_out(bob: Bob, initiation: bytes) -> None:
    with ExitStack() as stack:
        for number in range(1000):
            stack.enter_context(bob.dialled(f"127.1.{number // 200}.{number % 200 + 1}"))
            bob.turn()
        assert len(bob.watched) == 2 + STRANGERS
        member = stack.enter_context(bob.dialled())
        member.sendall(framed(initiation))
        turn_until(lambda: bob.counters["tcp_accept_evicted"] == 1001 - STRANGERS, bob)
        for number in range(100):
            stack.enter_context(bob.dialled(f"127.2.0.{number + 1}"))
            bob.turn()
        assert member.recv(4096)[2] == 2


def test_one_source_cannot_push_the_others_out(bob: Bob) -> None:
    with ExitStack() as stack:
        honest = stack.enter_context(bob.dialled("127.0.0.2"))
        turn_until(lambda: bob.registered == 3, bob)
        for _ in range(2 * STRANGERS):
            stack.enter_context(bob.dialled("127.0.0.1"))
            bob.turn()
        assert len(bob.watched) == 3 + STRANGERS_PER_SOURCE
        assert bob.counters == {"tcp_accept_source_limit": 2 * STRANGERS - STRANGERS_PER_SOURCE}
        honest.sendall(framed(datagram(1)))
        bob.boot += 4 * SECOND
        turn_until(lambda: bob.node.counters, bob)
