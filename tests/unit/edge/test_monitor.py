"""The monitor's reading of netlink messages, also of those that no kernel would send."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.edge.monitor import EVERYTHING, Change, NetworkMonitor

OURS, OTHER = 7, 3


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def route(*attributes: tuple[int, bytes], protocol: int = 4) -> bytes:
    body = bytes([2, 0, 0, 0, 254, protocol, 0, 1]) + bytes(4)
    for kind, value in attributes:
        body += struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
    return body


def leading_to(index: int) -> tuple[int, bytes]:
    return (4, struct.pack("=I", index))


class FakeSocket:
    def __init__(self, *reads: bytes | int) -> None:
        self.reads = list(reads)

    def recv(self, _: int) -> bytes:
        if not self.reads:
            raise BlockingIOError
        read = self.reads.pop(0)
        if isinstance(read, int):
            raise OSError(read, "told so")
        return read

    def close(self) -> None:
        pass


def drained(monkeypatch: pytest.MonkeyPatch, *reads: bytes | int) -> Change:
    watch = NetworkMonitor(frozenset({OURS}))
    watch.close()
    monkeypatch.setattr(watch, "_socket", FakeSocket(*reads))
    return watch.drain()


@pytest.mark.parametrize(
    ("read", "change"),
    [
        (message(16, bytes(4) + struct.pack("=I", OTHER)), Change.LINK),
        (message(17, bytes(4) + struct.pack("=I", OURS)), Change.OURS),
        (message(20, bytes(4) + struct.pack("=I", OTHER)), Change.ADDRESS),
        (message(21, bytes(4) + struct.pack("=I", OURS)), Change.OURS),
        (message(24, route((1, b"abc"), leading_to(OTHER))), Change.ROUTE),
        (message(24, route((1, b"abc"), leading_to(OURS))), Change.OURS),
        (message(25, route(leading_to(OTHER), protocol=77)), Change.OURS),
        (message(25, route()), Change.ROUTE),
        (message(32, bytes(12)), Change.RULE),
        (message(104, bytes(8)), Change.ROUTE),
        (message(2, bytes(20)), Change(0)),
        (message(32, bytes(12)) + message(16, bytes(8)), Change.RULE | Change.LINK),
    ],
)
def test_messages_are_sorted_by_what_they_are_about(
    monkeypatch: pytest.MonkeyPatch, read: bytes, change: Change
) -> None:
    assert drained(monkeypatch, read) == change


def test_a_full_buffer_means_that_everything_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drained(monkeypatch, errno.ENOBUFS, message(32, bytes(12))) == EVERYTHING
    with pytest.raises(OSError, match="told so"):
        drained(monkeypatch, errno.EBADF)


@given(
    st.lists(
        st.one_of(st.binary(max_size=80), st.builds(message, st.integers(16, 33), st.binary(max_size=60)))
    )
)
def test_no_bytes_break_it(reads: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        assert drained(patch, *reads) in EVERYTHING
