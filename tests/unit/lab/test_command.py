import pytest

from meshnode.lab import LabError, wait_until
from meshnode.lab.command import environment, last_line, missing_tools, run, search_path


def test_a_command_returns_its_output_and_gets_its_input() -> None:
    assert run(["cat"], stdin="hello\n").stdout == "hello\n"


def test_failures_are_one_line_with_the_tools_own_reason() -> None:
    with pytest.raises(LabError, match=r"^`sh -c .*` failed: the reason$"):
        run(["sh", "-c", "echo first >&2; echo 'the reason' >&2; exit 3"])
    with pytest.raises(LabError, match=r"failed: on stdout$"):
        run(["sh", "-c", "echo on stdout; exit 3"])
    with pytest.raises(LabError, match=r"failed: status 3$"):
        run(["sh", "-c", "exit 3"])


def test_a_status_may_be_looked_at_instead() -> None:
    assert run(["sh", "-c", "exit 3"], check=False).returncode == 3


def test_no_command_waits_for_ever() -> None:
    with pytest.raises(LabError, match=r"did not end within 0\.05 s"):
        run(["sleep", "60"], timeout=0.05)


def test_a_missing_tool_comes_with_its_package() -> None:
    assert missing_tools("sh", "cat") is None
    assert missing_tools("no-such-tool") == "no-such-tool not found: apt-get install no-such-tool"
    with pytest.raises(LabError, match="no-such-tool not found"):
        run(["no-such-tool"])


def test_packages_are_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshnode.lab.command.find_tool", lambda name: None)
    assert missing_tools("tc", "ip", "nft") == "tc, ip, nft not found: apt-get install iproute2 nftables"


def test_system_directories_are_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/bin:/sbin")
    assert search_path() == "/bin:/sbin:/usr/sbin"
    assert environment({"A": "b"})["A"] == "b"
    assert environment()["LC_ALL"] == "C"


def test_long_commands_are_shown_in_part() -> None:
    with pytest.raises(LabError) as caught:
        run(["sh", "-c", "exit 1", "x" * 1000])
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(("output", "line"), [("a\nb\n\n", "b"), (" \n", "status 1"), ("", "status 1")])
def test_the_last_line_that_says_something(output: str, line: str) -> None:
    assert last_line(output, 1) == line


def test_waiting_ends_with_the_condition_or_with_the_deadline() -> None:
    countdown = iter([False, False, True])
    wait_until(lambda: next(countdown), "the countdown", interval=0)
    with pytest.raises(LabError, match="waited 0 s in vain: a miracle"):
        wait_until(lambda: False, "a miracle", timeout=0)
