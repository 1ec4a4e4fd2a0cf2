import os
import sys

import pytest

from meshnode.lab import available, can_unshare, enter_user_namespace, privilege, unshare_command


def test_the_command_line_of_a_user_namespace_ends_with_the_command() -> None:
    line = unshare_command(["meshnode", "demo"])
    assert line[0] == "unshare"
    assert {"--user", "--map-root-user", "--net", "--mount"} <= set(line)
    assert line[-2:] == ["meshnode", "demo"]


def test_a_missing_tool_is_the_first_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshnode.lab.command.find_tool", lambda name: None)
    assert available("iperf3") == "ip, tc, nft, iperf3 not found: apt-get install iperf3 iproute2 nftables"
    assert not can_unshare()


def test_an_ordinary_user_is_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshnode.lab.command.find_tool", lambda name: f"/usr/sbin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    reason = available()
    assert reason is not None
    assert reason.startswith("the lab needs root or a user namespace: run it with sudo, or as unshare --user")


def test_other_systems_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert available() == "the lab needs Linux network namespaces: run it in a Linux machine or VM"


@pytest.mark.parametrize(
    ("user", "environment", "allowed", "entered"),
    [
        (1000, {}, True, True),
        (1000, {}, False, False),
        (1000, {"MESHNODE_LAB_UNSHARED": "1"}, True, False),
        (0, {}, True, False),
    ],
    ids=["user", "refused by the kernel", "inside already", "root"],
)
def test_only_users_who_gain_by_it_enter_a_user_namespace(
    monkeypatch: pytest.MonkeyPatch, user: int, environment: dict[str, str], allowed: bool, entered: bool
) -> None:
    calls = []
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(os, "execvpe", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(privilege, "can_unshare", lambda: allowed)
    enter_user_namespace(["meshnode", "demo"])
    expected = ("unshare", unshare_command(["meshnode", "demo"]), {"MESHNODE_LAB_UNSHARED": "1"})
    assert calls == ([expected] if entered else [])
