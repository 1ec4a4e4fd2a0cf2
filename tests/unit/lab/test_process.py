import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshnode.lab import LabError, Process, wait_until
from meshnode.lab.process import lives

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Process] = []

    def shell(script: str, *, stdin: bool = False) -> Process:
        started.append(Process(["sh", "-c", script], tmp_path / f"{len(started)}.log", stdin=stdin))
        return started[-1]

    yield shell
    for process in started:
        process.stop()


def test_output_and_errors_go_to_one_log(start: Start) -> None:
    process = start("echo out; echo err >&2; exit 4")
    assert process.wait(10) == 4
    assert process.status == 4
    assert process.output == "out\nerr\n"


def test_a_line_reaches_the_command(start: Start) -> None:
    process = start("read line; echo got $line; sleep 600", stdin=True)
    process.write("hello")
    process.wait_for_output("got hello")
    assert process.status is None


def test_waiting_for_output_ends_when_the_command_does(start: Start) -> None:
    process = start("echo sorry; exit 1")
    process.wait_for_output("sorry")
    with pytest.raises(LabError, match="ended with status 1: sorry"):
        process.wait_for_output("ready")


def test_writing_to_a_command_that_is_gone_is_an_error(start: Start) -> None:
    process = start("exit 0", stdin=True)
    process.wait(10)
    with pytest.raises(LabError, match="is gone: it wrote nothing"):
        process.write("hello")


def test_waiting_has_a_deadline(start: Start) -> None:
    process = start("sleep 600")
    with pytest.raises(LabError, match=r"in vain: `sh -c sleep 600` to end"):
        process.wait(0.05)


def test_stop_reaches_the_children_and_those_that_ignore_sigterm(start: Start) -> None:
    process = start("trap '' TERM; sleep 600 & echo $!; wait; sleep 600")
    wait_until(lambda: "\n" in process.output, "the child's number")
    child = int(process.output)
    process.stop(grace=0.1)
    assert process.status == -signal.SIGKILL
    wait_until(lambda: not lives(child), "the child to die")


def test_children_die_though_their_parent_has_ended(start: Start) -> None:
    process = start("sleep 600 & echo $!")
    assert process.wait(10) == 0
    child = int(process.output)
    assert lives(child)
    process.stop()
    wait_until(lambda: not lives(child), "the child to die")


def test_the_number_of_an_ended_command_stays_taken_until_stop(start: Start) -> None:
    process = start("exit 0")
    process.wait(10)
    os.kill(process.pid, 0)  # a zombie: nobody else can have its number
    process.stop()
    process.stop()
    process.signal(signal.SIGKILL)  # reaches nobody any more
    assert process.status == 0


def test_a_signal_shows_in_the_status(start: Start) -> None:
    process = start("echo ready; exec sleep 600")
    process.wait_for_output("ready")  # before, the signal may meet the Python that becomes the shell
    process.signal(signal.SIGINT)
    assert process.wait(10) == -signal.SIGINT


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no-such-tool not found"):
        Process(["no-such-tool"], tmp_path / "log")


def test_the_lab_may_go_before_the_rest_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/proc/self/autogroup").exists():
        pytest.skip("this kernel has no autogroups")
    monkeypatch.setattr(Process, "niceness", 3)  # above 0 anybody may
    process = Process(["sleep", "60"], tmp_path / "log")
    try:
        assert Path(f"/proc/{process.pid}/autogroup").read_text().strip().endswith("nice 3")
    finally:
        process.stop()
