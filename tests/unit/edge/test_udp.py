"""UDP sockets over loopback: trains, ECN, labels, clocks, back-pressure, and every refusal of the kernel."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator

import pytest

from meshnode.dataplane.api import Batch
from meshnode.edge import clock
from meshnode.edge.errors import EdgeError
from meshnode.edge.udp import SendResult, UdpSocket, has_ipv6, kernel, open_sockets
from meshnode.values import SECOND, Datagram, Ecn, Endpoint, Now, Path, PathKind, PeerId

PEER = PeerId(bytes(16))
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
FAMILIES = [socket.AF_INET, socket.AF_INET6]


@pytest.fixture(params=FAMILIES, ids=["ipv4", "ipv6"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[UdpSocket, UdpSocket]]:
    """Two sockets of one family."""
    sockets = UdpSocket(request.param, 0), UdpSocket(request.param, 0, local=3)
    yield sockets
    for each in sockets:
        each.close()


def path_to(target: UdpSocket) -> Path:
    return Path(PathKind.UDP, Endpoint(LOOPBACK[target.family], target.port))


def train(
    path: Path, count: int, size: int = 1200, last: int = 0, dscp_ecn: int = 0, label: int = 0
) -> Batch:
    """`count` datagrams of `size` bytes, each filled with its number, and one of `last` bytes."""
    data = b"".join(bytes([number % 256]) * size for number in range(count)) + b"z" * last
    return Batch(PEER, path, data, size, dscp_ecn, label)


def receive(target: UdpSocket, size: int) -> list[Datagram]:
    """What arrives until there are `size` bytes."""
    got: list[Datagram] = []
    while sum(len(one.data) for one in got) < size:
        assert select.select([target], [], [], 5)[0], "nothing arrives"
        got += target.receive_batch()
    return got


def cut(got: list[Datagram]) -> list[bytes]:
    """Single datagrams, as the data plane cuts them."""
    pieces = []
    for one in got:
        step = one.segment_size or len(one.data)
        pieces += [bytes(one.data[at : at + step]) for at in range(0, len(one.data), step)]
    return pieces


def test_a_train_leaves_with_one_call_and_arrives_as_one_buffer(pair: tuple[UdpSocket, UdpSocket]) -> None:
    here, there = pair
    batch = train(path_to(there), 40, last=77)
    assert here.send(batch) == SendResult(41)
    got = receive(there, len(batch.data))
    assert cut(got) == [bytes(one) for one in batch.datagrams()]
    assert len(got) == 1
    assert got[0].segment_size == 1200


def test_every_datagram_knows_its_path_and_its_time(pair: tuple[UdpSocket, UdpSocket]) -> None:
    here, there = pair
    before = clock.boot()
    here.send_one(path_to(there), b"hello")
    (got,) = receive(there, 5)
    assert got.data == b"hello"
    assert got.segment_size == 0
    assert got.path == Path(PathKind.UDP, Endpoint(LOOPBACK[here.family], here.port), local=3)
    # The two clocks are not read at one instant: a microsecond either way is not what this is about.
    assert before - 1_000_000 <= got.arrived <= clock.boot()


@pytest.mark.parametrize("ecn", list(Ecn))
def test_ecn_bits_travel_with_single_datagrams_and_trains(
    pair: tuple[UdpSocket, UdpSocket], ecn: Ecn
) -> None:
    here, there = pair
    for count in (1, 8):
        batch = train(path_to(there), count, dscp_ecn=ecn | 0x28)
        here.send(batch)
        assert {one.ecn for one in receive(there, len(batch.data))} == {ecn}


def test_without_offload_datagrams_travel_one_by_one(pair: tuple[UdpSocket, UdpSocket]) -> None:
    here, there = pair
    here.set_offload(False)
    there.set_offload(False)
    assert not any([*here.offloads.values(), *there.offloads.values()])
    batch = train(path_to(there), 5, last=1)
    assert here.send(batch) == SendResult(6)
    got = receive(there, len(batch.data))
    assert [one.segment_size for one in got] == [0] * 6
    assert cut(got) == [bytes(one) for one in batch.datagrams()]


def test_a_train_longer_than_the_kernel_takes_is_cut(pair: tuple[UdpSocket, UdpSocket]) -> None:
    here, there = pair
    for count, size in ((150, 300), (60, 1400)):
        batch = train(path_to(there), count, size)
        assert here.send(batch) == SendResult(count)
        assert cut(receive(there, len(batch.data))) == [bytes(one) for one in batch.datagrams()]


def test_a_batch_goes_on_from_the_unsent_datagram(pair: tuple[UdpSocket, UdpSocket]) -> None:
    here, there = pair
    batch = train(path_to(there), 10)
    assert here.send(batch, start=7) == SendResult(10)
    assert cut(receive(there, 3600)) == [bytes(one) for one in batch.datagrams()[7:]]


class FakeSocket:
    """Stands in for the kernel: `script` has the errno of each call, 0 lets it pass."""

    def __init__(self, script: list[int]) -> None:
        self.script = script
        self.calls: list[tuple[bytes, set[int], tuple[object, ...]]] = []

    def sendmsg(
        self,
        buffers: tuple[bytes],
        options: list[tuple[int, int, bytes]],
        _: int,
        address: tuple[object, ...],
    ) -> int:
        self.calls.append((bytes(buffers[0]), {kind for _, kind, _ in options}, address))
        code = self.script.pop(0) if self.script else 0
        if code:
            raise OSError(code, "told so")
        return len(buffers[0])

    def close(self) -> None:
        pass


SEGMENT = 103


def with_kernel(monkeypatch: pytest.MonkeyPatch, target: UdpSocket, *script: int) -> FakeSocket:
    fake = FakeSocket(list(script))
    target._socket.close()
    monkeypatch.setattr(target, "_socket", fake)
    return fake


def test_a_full_socket_is_back_pressure(
    pair: tuple[UdpSocket, UdpSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    here.set_offload(False)
    with_kernel(monkeypatch, here, 0, 0, errno.EAGAIN)
    batch = train(path_to(there), 5)
    result = here.send(batch)
    assert result == SendResult(2)
    assert here.send(batch, result.done) == SendResult(5)
    assert not here.counters


def test_the_send_buffer_is_what_was_asked_for(pair: tuple[UdpSocket, UdpSocket]) -> None:
    here, _ = pair
    # Root gets more than net.core.wmem_max.
    for size in (9000, 400_000) if os.geteuid() == 0 else (9000,):
        here.set_send_buffer(size)
        assert here._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * size
    assert here.unsent() == 0


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL])
def test_a_refused_train_is_sent_again_piece_by_piece(
    pair: tuple[UdpSocket, UdpSocket], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    here, there = pair
    fake = with_kernel(monkeypatch, here, code)
    batch = train(path_to(there), 3, last=5)
    assert here.send(batch) == SendResult(4)
    assert [len(data) for data, _, _ in fake.calls] == [3605, 1200, 1200, 1200, 5]
    assert [SEGMENT in options for _, options, _ in fake.calls] == [True, False, False, False, False]
    assert not any(used for name, used in here.offloads.items() if name.endswith("gso"))


def test_a_path_that_is_too_small_does_not_cost_the_offload(
    pair: tuple[UdpSocket, UdpSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels before 6.14 answer EINVAL to a train on a path with a small MTU."""
    here, there = pair
    with_kernel(monkeypatch, here, errno.EINVAL, errno.EMSGSIZE, errno.EMSGSIZE)
    assert here.send(train(path_to(there), 2)) == SendResult(2, "too_big")
    assert any(used for name, used in here.offloads.items() if name.endswith("gso"))
    assert here.counters["udp_send_too_big"] == 2


def test_back_pressure_while_a_train_is_retried(
    pair: tuple[UdpSocket, UdpSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    with_kernel(monkeypatch, here, errno.EIO, errno.EAGAIN)
    assert here.send(train(path_to(there), 2)) == SendResult(0)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (errno.EMSGSIZE, "too_big"),
        (errno.ENETUNREACH, "unreachable"),
        (errno.EHOSTUNREACH, "unreachable"),
        (errno.EPERM, "denied"),
        (errno.ENOBUFS, "no_buffers"),
        (errno.ECONNREFUSED, "refused"),
        (errno.EPIPE, "failed"),
    ],
)
def test_refusals_are_counted_and_the_rest_goes_on(
    pair: tuple[UdpSocket, UdpSocket], monkeypatch: pytest.MonkeyPatch, code: int, name: str
) -> None:
    here, there = pair
    here.set_offload(False)
    with_kernel(monkeypatch, here, code)
    assert here.send(train(path_to(there), 3)) == SendResult(3, name)
    assert here.counters == {f"udp_send_{name}": 1}
    with_kernel(monkeypatch, here, code)
    assert here.send_one(path_to(there), b"x") == SendResult(1, name)
    with_kernel(monkeypatch, here, errno.EAGAIN)
    assert here.send_one(path_to(there), b"x") == SendResult(0)


def test_a_datagram_is_never_fragmented(pair: tuple[UdpSocket, UdpSocket]) -> None:
    """Loopback has an MTU of 65,536: with DF set nothing larger leaves, without it the kernel would cut it."""
    here, there = pair
    assert here.send_one(path_to(there), bytes(65_536)) == SendResult(1, "too_big")


def test_no_route_is_counted() -> None:
    here = UdpSocket(socket.AF_INET, 0)
    # 255.255.255.255 without SO_BROADCAST: refused on any machine, also on one without a network.
    result = here.send_one(Path(PathKind.UDP, Endpoint("255.255.255.255", 9)), b"x")
    here.close()
    assert result.error in ("denied", "unreachable")


def test_flow_labels_are_given_up_where_the_kernel_wants_them_leased(monkeypatch: pytest.MonkeyPatch) -> None:
    here = UdpSocket(socket.AF_INET6, 0)
    assert here.offloads["udp6_flow_label"]
    fake = with_kernel(monkeypatch, here, errno.EINVAL, errno.EINVAL)
    path = Path(PathKind.UDP, Endpoint("fe80::1%7", 4655))
    assert here.send(train(path, 2, label=0xABCDE)) == SendResult(2)
    assert [address for _, _, address in fake.calls] == [
        ("fe80::1", 4655, 0xABCDE, 7),
        ("fe80::1", 4655, 0xABCDE, 7),
        ("fe80::1", 4655, 0, 7),
        ("fe80::1", 4655, 0, 7),
    ]
    assert not here.offloads["udp6_flow_label"]


def test_a_flow_label_travels_with_a_train() -> None:
    here, there = UdpSocket(socket.AF_INET6, 0), UdpSocket(socket.AF_INET6, 0)
    batch = train(path_to(there), 4, dscp_ecn=Ecn.ECT0, label=0x12345)
    assert here.send(batch) == SendResult(4)
    assert cut(receive(there, len(batch.data))) == [bytes(one) for one in batch.datagrams()]
    assert here.offloads["udp6_flow_label"]
    here.close()
    there.close()


def test_a_link_local_source_carries_its_scope() -> None:
    here = UdpSocket(socket.AF_INET6, 0)
    assert here._learn_path(("fe80::1", 9, 0, 2)).remote == Endpoint("fe80::1%2", 9)
    assert here._learn_path(("2001:db8::1", 9, 0, 0)).remote == Endpoint("2001:db8::1", 9)
    here.close()


def test_invented_sources_do_not_grow_the_memory() -> None:
    here = UdpSocket(socket.AF_INET, 0)
    for port in range(10_000):
        here._learn_path(("192.0.2.1", port))
        here._address(Endpoint("192.0.2.1", port))
        here._options(port % 256, port)
    assert max(len(here._paths), len(here._addresses), len(here._ancillary)) <= 4096
    here.close()


class SteppedClock:
    """The real clocks, ahead by `later`, and the wall clock set by `step` on top."""

    def __init__(self) -> None:
        self.step = 0
        self.later = 0

    def __call__(self) -> Now:
        boot, wall = clock.now()
        return Now(boot + self.later, wall + self.later + self.step)


def test_a_clock_step_does_not_look_like_a_queue() -> None:
    steps = SteppedClock()
    here, there = UdpSocket(socket.AF_INET, 0), UdpSocket(socket.AF_INET, 0, read_clock=steps)
    assert there.receive_batch() == []
    drained = clock.boot()
    for steps.step in (3600 * SECOND, -3600 * SECOND):
        here.send_one(path_to(there), b"x")
        (got,) = receive(there, 1)
        assert drained - SECOND < got.arrived <= clock.boot()
    here.close()
    there.close()


def test_what_the_limit_left_behind_keeps_its_time() -> None:
    steps = SteppedClock()
    here, there = UdpSocket(socket.AF_INET, 0), UdpSocket(socket.AF_INET, 0, read_clock=steps)
    there.receive_batch()
    for _ in range(3):
        here.send_one(path_to(there), b"x")
    sent = clock.boot()
    for steps.later in (0, 3600 * SECOND, 7200 * SECOND):
        (got,) = there.receive_batch(limit=1)
        assert got.arrived < sent + 60 * SECOND
    here.close()
    there.close()


def test_overflow_of_the_receive_buffer_is_counted() -> None:
    here, there = UdpSocket(socket.AF_INET, 0), UdpSocket(socket.AF_INET, 0)
    there._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(50):
        here.send_one(path_to(there), bytes(1000))
    arrived = len(there.receive_batch())
    here.send_one(path_to(there), b"after")  # the count comes with the next datagram that fits
    receive(there, 5)
    assert there.counters["udp_receive_overflow"] == 50 - arrived > 0
    here.close()
    there.close()


def test_a_taken_port_says_what_to_do() -> None:
    first = UdpSocket(socket.AF_INET, 0)
    with pytest.raises(EdgeError, match=rf"UDP port {first.port} is taken: .*--port") as caught:
        UdpSocket(socket.AF_INET, first.port)
    assert "\n" not in str(caught.value)
    first.close()


def test_both_families_share_one_port() -> None:
    sockets = open_sockets(0)
    assert [one.family for one in sockets] == FAMILIES[: 1 + has_ipv6()]
    assert len({one.port for one in sockets}) == 1
    with pytest.raises(EdgeError, match="is taken"):
        open_sockets(sockets[0].port)
    for one in sockets:
        one.close()


def test_the_first_socket_is_given_back_when_the_second_fails() -> None:
    blocker = UdpSocket(socket.AF_INET6, 0)
    with pytest.raises(EdgeError, match="is taken"):
        open_sockets(blocker.port)
    UdpSocket(socket.AF_INET, blocker.port).close()
    blocker.close()


def test_the_kernel_has_a_version() -> None:
    assert kernel() > (3, 0)
