"""`meshnode status`, `peers`, `ping` and `reload`: the node's answers, for people and for programs."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest

from meshnode.cli.status import not_ready, warnings
from meshnode.edge.errors import EdgeError
from tests.unit.cli.conftest import Machine

QUEUE = {
    "backlog_packets": 3,
    "backlog_bytes": 4200,
    "flows": 1,
    "drops": 12,
    "marks": 7,
    "sojourn_ms_p50": 0.2,
    "sojourn_ms_p95": 4.25,
    "sojourn_ms_p99": 5.0,
}
PATH = {
    "kind": "udp",
    "remote": "203.0.113.5:4655",
    "via": None,
    "rtt_ms": 12.34,
    "mtu": 1400,
    "ecn": True,
    "why": "",
}
BETA = {
    "name": "beta",
    "id": "0a" * 16,
    "addresses": ["10.77.1.2", "fd00::2"],
    "state": "up",
    "since_s": 185,
    "path": PATH,
    "session": {"suite": "chacha20-poly1305", "age_s": 65},
    "queue": QUEUE,
    "queue_in": QUEUE,
    "rate": None,
    "tx": {"packets": 900, "bytes": 1_234_567},
    "rx": {"packets": 10, "bytes": 900},
}
GONE = {
    **BETA,
    "name": "gamma",
    "state": "down",
    "path": None,
    "session": None,
    "queue": None,
    "queue_in": None,
    "tx": None,
    "rx": None,
}
STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "net": "home",
    "node": "alpha",
    "id": "0123456789abcdef" * 2,
    "addresses": ["10.77.1.1", "fd00::1"],
    "interface": "mesh-home",
    "mtu": 1380,
    "listen": {"udp": 4655, "tcp": None},
    "uptime_s": 7300,
    "offloads": {},
    "peers": [BETA, GONE],
    "counters": {"bad tag": 2},
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(STATUS), **changes}


# --- status ---------------------------------------------------------------------------------------------------


def test_the_whole_reply_for_programs(machine: Machine, running) -> None:
    running(status=STATUS)
    done = machine("status", "--net", "home", "--json")
    assert done.code == 0
    assert json.loads(done.out) == STATUS


def test_a_table_for_people(machine: Machine, running) -> None:
    running(status=STATUS)
    node, interface, empty, *table = machine("status", "--net", "home").out.splitlines()
    assert node == "home: node alpha (01234567), up 2 h 1 min, udp 4655"
    assert interface == "mesh-home: 10.77.1.1, fd00::1, MTU 1380"
    assert empty == ""
    titles, beta, gamma = (re.split(r"\s{2,}", line) for line in table)
    assert dict(zip(titles, beta, strict=True)) == {
        "PEER": "beta",
        "STATE": "up",
        "RTT": "12.3 ms",
        "SENT": "1.2 MB",
        "RECEIVED": "900 B",
        "QUEUE P95": "4.2 ms",
        "DROPS": "12",
        "MARKS": "7",
        "PATH": "udp 203.0.113.5:4655",
    }
    assert gamma == ["gamma", "down", *["-"] * 7]


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        ({"member": True, "lost": [], "expires_s": None}, []),
        ({"expires_s": 1000 + 90 * 86_400}, []),
        ({"expires_s": 1000 + 7300}, ["the membership ends in 2 h 1 min: an admin that is up renews it"]),
        ({"lost": ["name alpha"]}, ["lost the name alpha to an older claim: leave, and join anew"]),
        (
            {"member": False},
            ["this node is no member any more, it was revoked or has expired: leave, and join anew"],
        ),
    ],
)
def test_what_is_wrong_with_the_membership_is_said(changes: dict[str, Any], lines: list[str]) -> None:
    assert warnings(changed(**changes), 1000) == lines


def test_warnings_stand_below_the_node(machine: Machine, running) -> None:
    running(status=changed(lost=["name alpha"]))
    assert machine("status", "--net", "home").out.splitlines()[2].startswith("warning: lost the name alpha")


def test_nobody_else_is_no_table(machine: Machine, running) -> None:
    running(status=changed(peers=[]))
    assert len(machine("status", "--net", "home").out.splitlines()) == 2


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (STATUS, None),
        (changed(peers=[]), None),
        (changed(peers=[{**GONE, "state": "revoked"}]), None),
        (changed(interface=None), "the interface is not up"),
        (changed(peers=[GONE]), "the only peer, gamma, is not up"),
        (changed(peers=[GONE, {**GONE, "state": "connecting"}]), "none of 2 peers is up"),
    ],
)
def test_ready_means_that_traffic_can_pass(machine: Machine, running, reply: Any, why: str | None) -> None:
    assert not_ready(reply) == why
    running(status=reply)
    if why is None:
        assert machine("status", "--net", "home", "--check", "ready") == (0, "", "")
    else:
        assert machine.fails("status", "--net", "home", "--check", "ready") == f"not ready: {why}"
    assert machine("status", "--net", "home", "--check", "live") == (0, "", "")


@pytest.mark.parametrize("check", ["live", "ready"])
def test_no_node_is_neither_live_nor_ready(machine: Machine, check: str) -> None:
    line = machine.fails("status", "--net", "home", "--check", check)
    assert line == "the node of network home is not running: start it with `meshnode join --net home`"


# --- peers ----------------------------------------------------------------------------------------------------


def test_peers_for_people_and_programs(machine: Machine, running) -> None:
    running(status=STATUS)
    rows = [re.split(r"\s{2,}", line) for line in machine("peers", "--net", "home").out.splitlines()]
    assert rows == [
        ["PEER", "STATE", "SINCE", "PATH", "ADDRESSES"],
        ["beta", "up", "3 min 5 s", "udp 203.0.113.5:4655", "10.77.1.2 fd00::2"],
        ["gamma", "down", "3 min 5 s", "-", "10.77.1.2 fd00::2"],
    ]
    assert json.loads(machine("peers", "--net", "home", "--json").out) == STATUS["peers"]


def test_no_peers_yet(machine: Machine, running) -> None:
    running(status=changed(peers=[]))
    done = machine("peers", "--net", "home")
    assert (done.code, done.out) == (0, "")
    assert "`meshnode invite`" in done.err


# --- ping -----------------------------------------------------------------------------------------------------


def test_ping_says_how_long_and_which_way(machine: Machine, running) -> None:
    answers = iter(
        [{"rtt_ms": 1.5, "path": PATH}, {"rtt_ms": None, "path": PATH}, {"rtt_ms": 2.5, "path": PATH}]
    )
    node = running(ping=lambda: next(answers))
    done = machine("ping", "--net", "home", "beta", "--count", "3", "--interval", "0.2")
    assert done.code == 0
    assert done.out.splitlines() == [
        "beta: 1.5 ms over udp 203.0.113.5:4655",
        "beta: no answer over udp 203.0.113.5:4655",
        "beta: 2.5 ms over udp 203.0.113.5:4655",
        "2 of 3 answered; least / mean / most 1.5 ms / 2.0 ms / 2.5 ms",
    ]
    assert node.asked[0] == ("ping", {"peer": "beta", "count": 1})


def test_a_peer_that_never_answers_is_a_failure(machine: Machine, running) -> None:
    running(ping={"rtt_ms": None, "path": None})
    done = machine("ping", "--net", "home", "beta", "--count", "1")
    assert (done.code, done.out) == (1, "beta: no answer over -\n")
    assert done.err.startswith("meshnode: beta did not answer")


def test_a_peer_that_is_not_known(machine: Machine, running) -> None:
    running(ping=EdgeError("there is no other member zeta: `meshnode peers` lists them"))
    assert "no other member zeta" in machine.fails("ping", "--net", "home", "zeta")


# --- reload ---------------------------------------------------------------------------------------------------


def test_reload_says_what_changed_and_what_waits(machine: Machine, running) -> None:
    running(reload={"changed": ["log_level"], "needs_restart": ["port"]})
    done = machine("reload", "--net", "home")
    assert done.out.splitlines() == ["changed: log-level", "only after a restart: port"]


def test_reload_with_nothing_new(machine: Machine, running) -> None:
    running(reload={"changed": [], "needs_restart": []})
    assert machine("reload", "--net", "home").out == "changed: nothing\n"


def test_a_mistake_in_the_file_does_not_reach_the_node(machine: Machine, running) -> None:
    node = running(reload={"changed": [], "needs_restart": []})
    machine.config.write_text("mtu = 12\n")
    assert "mtu: must be a number from 1280" in machine.fails("reload", "--net", "home")
    assert node.asked == []
