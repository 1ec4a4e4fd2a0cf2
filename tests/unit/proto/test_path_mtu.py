"""The search for the path MTU against paths of every size, with loss, shrinking and growing."""

from __future__ import annotations

from random import Random

import pytest

from meshnode.proto.constants import LEAST_MTU
from meshnode.proto.path_mtu import COMMON_SIZES, PathMtu
from meshnode.values import MILLISECOND, SECOND

RTT = 20 * MILLISECOND
WANTED = 1472


class Road:
    """A path that carries packets of up to `limit` bytes, and loses some of the others."""

    def __init__(self, limit: int, loss: float = 0.0, seed: int = 0) -> None:
        self.limit = limit
        self.loss = loss
        self.now = 0
        self.sent = 0
        self.mtu = PathMtu(WANTED, 0)
        self._random = Random(seed)
        self._number = 0
        self._coming: list[tuple[int, bytes]] = []

    def run(self, seconds: float) -> None:
        end = self.now + int(seconds * SECOND)
        while self.now <= end:
            for size in self.mtu.due(self.now):
                self._send(size)
            due = [e for e in self._coming if e[0] <= self.now]
            self._coming = [e for e in self._coming if e[0] > self.now]
            for _, token in due:
                assert self.mtu.echoed(token, self.now) is not None
            ahead = [self.mtu.next_wakeup(), *(when for when, _ in self._coming)]
            self.now = max(min(ahead), self.now + 1)
        self.now = end

    def _send(self, size: int) -> None:
        self.sent += 1
        self._number += 1
        token = self._number.to_bytes(8, "big")
        self.mtu.sent(size, token, self.now)
        if size <= self.limit and self._random.random() >= self.loss:
            self._coming.append((self.now + RTT, token))


def largest(limit: int) -> int:
    return max(s for s in (*COMMON_SIZES, WANTED) if s <= min(limit, WANTED))


@pytest.mark.parametrize("limit", [512, 576, 800, 1280, 1300, 1420, 1471, 1472, 1500, 9000])
def test_the_largest_common_size_that_passes_is_found(limit: int) -> None:
    road = Road(limit)
    road.run(10)
    assert road.mtu.size == largest(limit)
    assert road.mtu.confirmed


def test_a_usual_path_is_known_after_one_round_trip() -> None:
    road = Road(1500)
    road.run(0.021)
    assert (road.mtu.size, road.sent) == (WANTED, 2)


@pytest.mark.parametrize("seed", range(10))
def test_loss_of_a_fifth_does_not_mislead_for_long(seed: int) -> None:
    road = Road(1500, loss=0.2, seed=seed)
    road.run(200)
    assert road.mtu.size == WANTED


def test_what_is_used_before_anything_is_confirmed_is_the_base() -> None:
    mtu = PathMtu(WANTED, 0)
    assert (mtu.size, mtu.confirmed) == (1280, False)


def test_a_black_hole_is_left_within_seconds_under_traffic() -> None:
    road = Road(1500)
    road.run(1)
    road.limit = 1300
    for _ in range(30):
        road.mtu.busy(road.now)
        road.run(1)
    assert road.mtu.size == 1300


def test_a_path_that_has_grown_is_used() -> None:
    road = Road(1280)
    road.run(10)
    assert road.mtu.size == 1280
    road.limit = 1500
    road.run(130)
    assert road.mtu.size == WANTED


def test_emsgsize_counts_as_a_miss_at_once() -> None:
    road = Road(1500)
    road.run(1)
    road.limit = 1000
    assert road.mtu.too_big(WANTED, road.now)
    assert road.mtu.size == LEAST_MTU
    road.run(10)
    assert road.mtu.size == largest(1000)


def test_emsgsize_of_a_probe_says_nothing_about_the_size_in_use() -> None:
    mtu = PathMtu(WANTED, 0)
    for size in mtu.due(0):
        mtu.sent(size, size.to_bytes(8, "big"), 0)
    mtu.echoed((1280).to_bytes(8, "big"), RTT)
    assert not mtu.too_big(WANTED, RTT)
    assert mtu.size == 1280
    assert max(mtu.due(RTT)) < WANTED


def test_idle_paths_cost_two_probes_a_minute() -> None:
    road = Road(1500)
    road.run(1)
    before = road.sent
    road.run(600)
    assert road.sent - before <= 22


def test_an_echo_that_nobody_asked_for_is_named() -> None:
    assert PathMtu(WANTED, 0).echoed(bytes(8), 0) is None
