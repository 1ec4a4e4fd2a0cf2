"""TCP over loopback: traffic both ways, back-pressure, strangers and their limits, dialling, proxies."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import cycle
from typing import Any

import pytest

from meshnode.dataplane.api import Batch
from meshnode.edge import tcp, tcp_connection
from meshnode.edge.errors import EdgeError
from meshnode.edge.proxy import Proxy, ProxyKind
from meshnode.edge.strangers import STRANGERS, STRANGERS_PER_SOURCE
from meshnode.edge.tcp import ACCEPTED
from meshnode.edge.tcp_connection import EARLY_DATAGRAMS, FIRST_QUEUE
from meshnode.edge.tcp_listener import Exhausted, TcpListener
from meshnode.edge.udp import SendResult
from meshnode.values import SECOND, Endpoint, Path, PathKind, PeerId
from tests.unit.edge.streams import DATA, LOOPBACK, Mill, datagram, ended, framed, turn_until

PEER = PeerId(bytes(16))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture
def make(stack: ExitStack) -> Callable[..., Mill]:
    """make(listen, proxy): a transport that is closed at the end."""

    def made(listen: bool = True, proxy: Proxy | None = None, mark: int | None = None) -> Mill:
        mill = Mill(listen, proxy, mark)
        stack.callback(mill.close)
        return mill

    return made


@pytest.fixture
def here(make: Callable[..., Mill]) -> Mill:
    return make()


@pytest.fixture
def there(make: Callable[..., Mill]) -> Mill:
    return make()


@pytest.fixture
def connect(stack: ExitStack) -> Callable[..., socket.socket]:
    """connect(mill, source): a plain socket that has dialled the mill's listener."""

    def connected(mill: Mill, source: str = "127.0.0.1") -> socket.socket:
        stream = stack.enter_context(socket.socket())
        stream.bind((source, 0))
        stream.settimeout(10)
        before = mill.met()
        stream.connect(("127.0.0.1", mill.tcp.port))
        turn_until(lambda: mill.met() > before, mill)
        return stream

    return connected


@pytest.fixture
def server(stack: ExitStack) -> socket.socket:
    """A plain listener, to be dialled."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    listener.settimeout(10)
    return listener


def batch(path: Path, count: int, size: int = 1200) -> Batch:
    return Batch(PEER, path, b"".join(datagram(number, size) for number in range(count)), size, 2, 0)


def bodies(mill: Mill) -> list[bytes]:
    return [bytes(each.data) for each in mill.inbox]


def introduce(here: Mill, there: Mill, family: socket.AddressFamily = socket.AF_INET) -> tuple[Path, Path]:
    """Connect two, and have either's core prove the path; `here`'s path and `there`'s."""
    out = there.path(family)
    here.tcp.send_one(out, datagram(0))
    turn_until(lambda: there.inbox, here, there)
    back = there.inbox.pop().path
    here.tcp.validated(out)
    there.tcp.validated(back)
    return out, back


# --- traffic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", LOOPBACK, ids=["ipv4", "ipv6"])
def test_datagrams_travel_both_ways_on_one_connection(
    here: Mill, there: Mill, family: socket.AddressFamily
) -> None:
    out, back = introduce(here, there, family)
    assert back.kind is PathKind.TCP
    assert back.local == ACCEPTED
    assert back.remote.host == LOOPBACK[family]
    assert here.tcp.send(batch(out, 3)) == SendResult(3)
    assert there.tcp.send_one(back, b"to you") == SendResult(1)
    turn_until(lambda: len(there.inbox) == 3 and here.inbox, here, there)
    assert bodies(there) == [datagram(number) for number in range(3)]
    (got,) = here.inbox
    assert (bytes(got.data), got.path, got.arrived, got.ecn, got.segment_size) == (
        b"to you",
        out,
        here.boot,
        0,
        0,
    )
    assert len(here.watched) == len(there.watched) == 3


def test_a_batch_goes_on_from_the_unsent_datagram(here: Mill, there: Mill) -> None:
    out, _ = introduce(here, there)
    assert here.tcp.send(batch(out, 5), start=3) == SendResult(5)
    turn_until(lambda: len(there.inbox) == 2, here, there)
    assert bodies(there) == [datagram(3), datagram(4)]


def test_a_node_that_waits_is_not_woken(here: Mill, there: Mill) -> None:
    introduce(here, there)
    for each in (here, there):
        assert not any(each.watched.values())
        assert each.epoll.poll(0) == []


def test_without_a_list_of_descriptors_all_are_served(here: Mill, there: Mill) -> None:
    here.tcp.send_one(there.path(), datagram(7))
    deadline = time.monotonic() + 10
    while not there.inbox and time.monotonic() < deadline:
        here.inbox += here.tcp.receive_batch()
        there.inbox += there.tcp.receive_batch()
    assert bodies(there) == [datagram(7)]


def test_while_it_connects_the_newest_few_are_kept(here: Mill, there: Mill) -> None:
    for number in range(EARLY_DATAGRAMS + 3):
        assert here.tcp.send_one(there.path(), datagram(number)) == SendResult(1)
    turn_until(lambda: len(there.inbox) == EARLY_DATAGRAMS, here, there)
    assert bodies(there) == [datagram(number) for number in range(3, EARLY_DATAGRAMS + 3)]
    assert here.counters == {"tcp_send_early": 3}


def test_one_turn_brings_only_so_much_and_the_next_the_rest(
    here: Mill, make: Callable[..., Mill], monkeypatch: pytest.MonkeyPatch
) -> None:
    senders = [make(listen=False) for _ in range(3)]
    for sender in senders:
        introduce(sender, here)
    for sender in senders:
        sender.tcp.send_one(here.path(), datagram(1))
    monkeypatch.setattr(tcp, "TURN_BYTES", 1000)
    deadline = time.monotonic() + 10
    while len(here.epoll.poll(0)) < 3:
        assert time.monotonic() < deadline
    for count in (1, 2, 3):
        here.turn()
        assert len(here.inbox) == count


def test_a_datagram_that_no_datagram_can_be(here: Mill, there: Mill) -> None:
    out, _ = introduce(here, there)
    assert here.tcp.send_one(out, bytes(65_508)) == SendResult(1, "too_big")
    assert here.tcp.send_one(out, bytes(65_507)) == SendResult(1)
    turn_until(lambda: there.inbox, here, there)
    assert bodies(there) == [bytes(65_507)]


# --- back-pressure --------------------------------------------------------------------------------------------------


def fill(here: Mill, out: Path) -> int:
    """Send until the connection is full; how many datagrams it took."""
    for number in range(20_000):
        if not here.tcp.send_one(out, datagram(number)).done:
            return number
    raise AssertionError("it is never full")


def test_a_full_connection_is_back_pressure_and_loses_nothing(here: Mill, there: Mill) -> None:
    out, _ = introduce(here, there)
    taken = fill(here, out)
    assert list(here.watched.values()).count(True) == 1
    assert here.epoll.poll(0) == []
    total = taken + 100
    sent = taken

    def go_on() -> bool:
        nonlocal sent
        while sent < total and here.tcp.send_one(out, datagram(sent)).done:
            sent += 1
        return len(there.inbox) == total

    turn_until(go_on, here, there)
    assert bodies(there) == [datagram(number) for number in range(total)]
    assert here.counters == {}
    assert not any(here.watched.values())


def test_what_comes_in_does_not_hide_that_nothing_goes_out(here: Mill, there: Mill) -> None:
    for fd in there.watched:
        with socket.socket(fileno=os.dup(fd)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)  # which does not grow any more
    out, back = introduce(here, there)
    while fill(here, out):
        pass
    there.tcp.send_one(back, b"hello")
    turn_until(lambda: here.inbox, here)
    assert list(here.watched.values()).count(True) == 1


class Miser:
    """A socket that takes little at a time, and every other time nothing."""

    def __init__(self, real: socket.socket) -> None:
        self.real = real
        self.sizes = cycle([1, 0, 2, 0, 1201, 0, 1202, 0, 3000, 0])

    def send(self, data: bytes) -> int:
        size = next(self.sizes)
        if not size:
            raise BlockingIOError
        return self.real.send(data[:size])

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)


def test_frames_that_leave_in_pieces_arrive_whole(here: Mill, there: Mill) -> None:
    out, _ = introduce(here, there)
    connection: Any = here.tcp._by_path[out]
    connection._socket = Miser(connection._socket)
    whole, done = batch(out, 50, size=1200), 0

    def go_on() -> bool:
        nonlocal done
        done = here.tcp.send(whole, done).done
        return len(there.inbox) == 50

    turn_until(go_on, here, there)
    assert bodies(there) == [bytes(each) for each in whole.datagrams()]


def test_what_waits_below_us_is_bounded(here: Mill, there: Mill) -> None:
    out, _ = introduce(here, there)
    train = batch(out, 54)
    while here.tcp.send(train).done == train.datagram_count:
        pass
    (fd,) = [fd for fd, wants_write in here.watched.items() if wants_write]
    with socket.socket(fileno=os.dup(fd)) as same:
        info = same.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 168)
    (unsent,) = struct.unpack_from("@I", info, 144)
    assert 0 < unsent < FIRST_QUEUE + 1202


def test_a_connection_that_takes_nothing_for_a_second_is_not_waited_for(
    here: Mill, there: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp_connection, "_SIZING_INTERVAL", 1 << 60)  # more rate, more room
    out, _ = introduce(here, there)
    while fill(here, out):
        pass
    here.boot += SECOND - 1
    assert here.tcp.send_one(out, b"x") == SendResult(0)
    here.boot += 1
    assert here.tcp.send(batch(out, 4)) == SendResult(4, "stalled")
    assert here.counters == {"tcp_send_stalled": 4}
    turn_until(lambda: not any(here.watched.values()), here, there)
    assert here.tcp.send_one(out, b"again") == SendResult(1)
    turn_until(lambda: there.inbox and bytes(there.inbox[-1].data) == b"again", here, there)


# --- strangers ------------------------------------------------------------------------------------------------------


def test_a_stranger_hears_nothing_and_has_five_seconds(
    here: Mill, connect: Callable[..., socket.socket]
) -> None:
    stranger = connect(here)
    here.after(4.9)
    assert here.counters == {}
    due = here.tcp.poll_timeout()
    assert due is not None
    assert due - here.boot < 0.2 * SECOND
    here.after(0.1)
    assert ended(stranger) == b""
    assert here.counters == {"tcp_unproven": 1}
    assert here.tcp.poll_timeout() is None


def test_plausible_datagrams_of_a_stranger_are_handed_on_and_buy_no_time(
    here: Mill, connect: Callable[..., socket.socket]
) -> None:
    stranger = connect(here)
    stranger.sendall(framed(datagram(1), datagram(2)))
    turn_until(lambda: len(here.inbox) == 2, here)
    here.after(4.9)
    stranger.sendall(framed(datagram(3)))
    turn_until(lambda: len(here.inbox) == 3, here)
    here.after(0.1)
    assert ended(stranger) == b""
    assert here.counters == {"tcp_unproven": 1}


def test_a_dribbler_has_five_seconds_too(here: Mill, connect: Callable[..., socket.socket]) -> None:
    stranger = connect(here)
    for byte in framed(datagram(1))[:50]:
        stranger.sendall(bytes([byte]))
        here.after(0.1)
    assert ended(stranger) == b""
    assert here.inbox == []
    assert here.counters == {"tcp_unproven": 1}


@pytest.mark.parametrize(
    "words",
    [
        b"\0\0",
        b"\xff\xff",
        struct.pack(">H", 2049),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\0\1\0",
        b"SSH-2.0-x\r\n",
        framed(b"nonsense"),
        framed(b"\x01\x02\0\0" + bytes(148)),
        framed(bytes([DATA]) + bytes(34)),
        framed(datagram(0)) + b"\0\0",
    ],
)
def test_garbage_closes_at_once(here: Mill, connect: Callable[..., socket.socket], words: bytes) -> None:
    stranger = connect(here)
    stranger.sendall(words)
    turn_until(lambda: here.counters, here)
    assert here.counters == {"tcp_garbage": 1}
    assert ended(stranger) == b""


def test_one_source_holds_only_a_few_connections(here: Mill, connect: Callable[..., socket.socket]) -> None:
    held = [connect(here) for _ in range(STRANGERS_PER_SOURCE)]
    turn_until(lambda: len(here.watched) == 2 + STRANGERS_PER_SOURCE, here)
    assert ended(connect(here)) == b""
    turn_until(lambda: here.counters, here)
    assert here.counters == {"tcp_accept_source_limit": 1}
    held[0].close()
    turn_until(lambda: here.counters["tcp_ended"], here)
    connect(here, "127.0.0.1")
    connect(here, "127.0.0.2")
    turn_until(lambda: len(here.watched) == 2 + STRANGERS_PER_SOURCE + 1, here)


def test_the_oldest_stranger_goes_when_there_are_too_many(
    here: Mill, connect: Callable[..., socket.socket]
) -> None:
    sources = [f"127.0.1.{number}" for number in range(1, STRANGERS // STRANGERS_PER_SOURCE + 2)]
    strangers = [connect(here, source) for source in sources for _ in range(STRANGERS_PER_SOURCE)]
    turn_until(lambda: here.counters["tcp_accept_evicted"] == STRANGERS_PER_SOURCE, here)
    assert len(here.watched) == 2 + STRANGERS
    assert ended(strangers[0]) == b""
    strangers[-1].sendall(framed(datagram(1)))
    turn_until(lambda: here.inbox, here)


def test_members_are_not_counted_as_strangers(here: Mill, connect: Callable[..., socket.socket]) -> None:
    for number in range(STRANGERS_PER_SOURCE + 2):
        connect(here).sendall(framed(datagram(number)))
        turn_until(lambda: len(here.inbox) == number + 1, here)  # noqa: B023
        here.tcp.validated(here.inbox[-1].path)
    assert here.counters == {}
    assert len(here.watched) == 2 + STRANGERS_PER_SOURCE + 2


def test_one_port_of_a_stranger_makes_one_path(here: Mill, stack: ExitStack) -> None:
    first = stack.enter_context(socket.socket())
    second = stack.enter_context(socket.socket())
    for stream, target in ((first, "127.0.0.1"), (second, "127.0.0.2")):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stream.bind(first.getsockname() if stream is second else ("127.0.0.1", 0))
        stream.settimeout(10)
        stream.connect((target, here.tcp.port))
    turn_until(lambda: here.counters, here)
    assert here.counters == {"tcp_accept_duplicate": 1}
    assert ended(second) == b""
    first.sendall(framed(datagram(1)))
    turn_until(lambda: here.inbox, here)


def test_when_descriptors_run_out_nobody_is_let_in_for_a_second(
    here: Mill, connect: Callable[..., socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> list[object]:
        raise Exhausted

    with monkeypatch.context() as patch:
        patch.setattr(TcpListener, "accept", refuse)
        with socket.create_connection(("127.0.0.1", here.tcp.port)) as waiting:
            turn_until(lambda: not here.watched, here)
            here.after(0.9)
            assert here.watched == {}
            waiting.close()
    here.after(0.2)
    assert len(here.watched) == 2
    connect(here)


# --- members --------------------------------------------------------------------------------------------------------


def test_a_member_may_send_large_frames_and_stays_while_it_is_heard(here: Mill, there: Mill) -> None:
    out, _ = introduce(here, there)
    for each in (here, there):
        each.after(170)
    here.tcp.send_one(out, bytes(60_000))
    turn_until(lambda: there.inbox, here, there)
    there.after(170)
    assert there.counters == {}
    there.after(10)
    assert there.counters == {"tcp_silent": 1}
    turn_until(lambda: len(here.watched) == 2, here)
    assert here.counters == {"tcp_ended": 1}


def test_with_too_many_members_the_most_silent_goes(
    here: Mill, connect: Callable[..., socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "MAX_PROVEN", 2)
    members = [connect(here) for _ in range(3)]
    for number, member in enumerate(members):
        member.sendall(framed(datagram(number)))
        turn_until(lambda: len(here.inbox) == number + 1, here)  # noqa: B023
        here.boot += SECOND
        here.tcp.validated(here.inbox[-1].path)
    assert here.counters == {"tcp_crowded_out": 1}
    assert ended(members[0]) == b""


def test_nothing_proves_a_path_that_is_not_there(here: Mill) -> None:
    here.tcp.validated(here.path())
    assert here.counters == {}


def test_who_has_left_cannot_be_dialled_back(here: Mill, connect: Callable[..., socket.socket]) -> None:
    stranger = connect(here)
    stranger.sendall(framed(datagram(1)))
    turn_until(lambda: here.inbox, here)
    stranger.close()
    turn_until(lambda: here.counters["tcp_ended"], here)
    assert here.tcp.send_one(here.inbox[0].path, b"x") == SendResult(1, "unreachable")
    assert len(here.watched) == 2


# --- dialling -------------------------------------------------------------------------------------------------------


def test_a_refused_connection_is_told_and_held_off(here: Mill, stack: ExitStack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        remote = Endpoint("127.0.0.1", closed.getsockname()[1])
    path = Path(PathKind.TCP, remote)
    assert here.tcp.failure(remote) is None
    here.tcp.send_one(path, b"x")
    turn_until(lambda: here.counters["tcp_dial_refused"], here)
    assert here.tcp.failure(remote) == "connection refused"
    assert here.tcp.send_one(path, b"x") == SendResult(1, "unreachable")
    assert len(here.watched) == 2
    here.boot += SECOND
    assert here.tcp.send_one(path, b"x") == SendResult(1)
    turn_until(lambda: here.counters["tcp_dial_refused"] == 2, here)


def test_a_success_ends_the_story_of_failures(here: Mill, there: Mill) -> None:
    path = there.path()
    here.tcp._failures[path.remote] = (0, "long ago")
    introduce(here, there)
    assert here.tcp.failure(path.remote) is None


def test_an_address_without_a_route(here: Mill) -> None:
    remote = Endpoint("255.255.255.255", 4655)
    assert here.tcp.send_one(Path(PathKind.TCP, remote), b"x").error == "unreachable"
    assert here.tcp.failure(remote)
    assert sum(here.counters.values()) == 2


def test_a_listener_that_does_not_answer(here: Mill, stack: ExitStack) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        remote = Endpoint("127.0.0.1", deaf.getsockname()[1])
        for _ in range(2):  # its queue holds one more than it says
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(remote)
        here.tcp.send_one(Path(PathKind.TCP, remote), b"x")
        here.after(4.9)
        assert here.counters == {}
        here.after(0.2)
    assert here.counters == {"tcp_dial_timeout": 1}
    assert here.tcp.failure(remote) == "it did not answer within 5 s"


def test_who_answers_but_cannot_prove_itself_is_left(here: Mill, server: socket.socket) -> None:
    remote = Endpoint("127.0.0.1", server.getsockname()[1])
    here.tcp.send_one(Path(PathKind.TCP, remote), b"hello")
    with server.accept()[0] as stream:
        stream.settimeout(10)
        turn_until(lambda: not any(here.watched.values()), here)
        assert stream.recv(100) == framed(b"hello")
        here.after(5)
        assert here.counters == {"tcp_unproven": 1}
        assert ended(stream) == b""


def test_only_so_many_dials_at_once(here: Mill, there: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "MAX_DIALS", 2)
    paths = [Path(PathKind.TCP, Endpoint(f"127.0.0.{number}", there.tcp.port)) for number in (1, 2, 3)]
    assert [here.tcp.send_one(path, b"x").error for path in paths] == [None, None, "unreachable"]
    here.tcp.validated(paths[0])
    assert here.tcp.send_one(paths[2], b"x").error is None


# --- proxies --------------------------------------------------------------------------------------------------------


def by_proxy(make: Callable[..., Mill], server: socket.socket, kind: ProxyKind) -> Mill:
    mill = make(listen=False, proxy=Proxy(kind, "127.0.0.1", server.getsockname()[1]))
    assert isinstance(mill, Mill)
    return mill


def test_dialling_through_an_http_proxy(make: Callable[..., Mill], server: socket.socket) -> None:
    here = by_proxy(make, server, ProxyKind.HTTP)
    path = Path(PathKind.TCP, Endpoint("203.0.113.9", 4655))
    here.tcp.send_one(path, datagram(1))
    with server.accept()[0] as stream:
        stream.settimeout(10)
        turn_until(lambda: not any(here.watched.values()), here)
        assert stream.recv(1000).startswith(b"CONNECT 203.0.113.9:4655 HTTP/1.1\r\n")
        stream.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + framed(datagram(2)))
        turn_until(lambda: here.inbox, here)
        assert stream.recv(2000) == framed(datagram(1))
        assert (here.inbox[0].path, bodies(here)) == (path, [datagram(2)])


def test_dialling_through_a_socks_proxy(make: Callable[..., Mill], server: socket.socket) -> None:
    here = by_proxy(make, server, ProxyKind.SOCKS5)
    here.tcp.send_one(Path(PathKind.TCP, Endpoint("2001:db8::9", 4655)), datagram(1))
    with server.accept()[0] as stream:
        stream.settimeout(10)
        turn_until(lambda: not any(here.watched.values()), here)
        assert stream.recv(100) == bytes([5, 1, 0])
        stream.sendall(bytes([5, 0]))
        here.turn()
        assert stream.recv(100)[:4] == bytes([5, 1, 0, 4])
        stream.sendall(bytes([5, 0, 0, 1]) + bytes(6))
        here.turn()
        assert stream.recv(2000) == framed(datagram(1))


@pytest.mark.parametrize(
    ("answer", "counter", "text"),
    [
        (b"HTTP/1.1 403 No\r\n\r\n", "tcp_proxy_refused", "the proxy: it answers 403"),
        (b"", "tcp_dial_timeout", "the proxy did not answer within 5 s"),
    ],
)
def test_a_proxy_that_does_not_help(
    make: Callable[..., Mill], server: socket.socket, answer: bytes, counter: str, text: str
) -> None:
    here = by_proxy(make, server, ProxyKind.HTTP)
    remote = Endpoint("203.0.113.9", 4655)
    here.tcp.send_one(Path(PathKind.TCP, remote), b"x")
    with server.accept()[0] as stream:
        turn_until(lambda: not any(here.watched.values()), here)
        stream.sendall(answer)
        if not answer:
            here.after(5)
        turn_until(lambda: here.counters, here)
    assert here.counters == {counter: 1}
    assert here.tcp.failure(remote) == text


def test_a_proxy_whose_name_is_not_resolved_is_an_error(make: Callable[..., Mill]) -> None:
    with pytest.raises(EdgeError, match=r"proxy\.example"):
        make(proxy=Proxy(ProxyKind.HTTP, "proxy.example", 3128))


# --- start and end --------------------------------------------------------------------------------------------------


def test_both_families_listen_on_one_port_and_a_taken_one_is_named(here: Mill) -> None:
    for host in LOOPBACK.values():
        socket.create_connection((host, here.tcp.port), timeout=10).close()
    with pytest.raises(EdgeError, match=f"TCP port {here.tcp.port} is taken"):
        TcpListener(here.tcp.port)


def test_a_node_may_only_dial(make: Callable[..., Mill], there: Mill) -> None:
    here = make(listen=False)
    assert here.tcp.port == 0
    assert here.watched == {}
    introduce(here, there)


def test_every_socket_is_marked(make: Callable[..., Mill]) -> None:
    mark = 0x4D00_0000
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        except PermissionError:
            pytest.skip("SO_MARK needs CAP_NET_ADMIN")
    here, there = make(mark=mark), make(mark=mark)
    introduce(here, there)
    marks = []
    for fd in (*here.watched, *there.watched):
        with socket.socket(fileno=os.dup(fd)) as same:
            marks.append(same.getsockopt(socket.SOL_SOCKET, socket.SO_MARK))
    assert marks == [mark] * 6


def test_closing_ends_what_is_there(stack: ExitStack) -> None:
    here, there = Mill(), Mill()
    introduce(here, there)
    here.close()
    turn_until(lambda: len(there.watched) == 2, there)
    assert there.counters == {"tcp_ended": 1}
    there.close()
