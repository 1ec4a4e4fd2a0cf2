"""`meshnode join`: which token, which network, which settings reach the runner; nothing is written before it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from meshnode.edge import runner
from meshnode.edge.errors import EdgeError
from meshnode.edge.runner import RunOptions
from meshnode.settings import DEFAULT_PORT, HostPort
from meshnode.wire.token import Token
from tests.unit.cli.conftest import Machine

TOKEN = Token(bytes(32), bytes(range(32)), b"sixteen secrets!", 4_000_000_000, "home", ("192.0.2.1:4655",))
TEXT = TOKEN.encode()


@pytest.fixture(autouse=True)
def ran(monkeypatch: pytest.MonkeyPatch) -> list[RunOptions]:
    """What the runner was started with; it ends at once with 0."""
    options: list[RunOptions] = []

    def main(given: RunOptions) -> int:
        options.append(given)
        return 0

    monkeypatch.setattr(runner, "main", main)
    return options


def test_a_token_brings_the_name_of_its_network(machine: Machine, ran: list[RunOptions]) -> None:
    assert machine("join", TEXT).code == 0
    (options,) = ran
    assert (options.net, options.token) == ("home", TOKEN)
    assert (options.name, options.explicit_name) == ("attic", False)
    assert (options.state_dir, options.runtime_dir) == (machine.state_dir, machine.runtime_dir)
    assert not machine.state_dir.exists()


def test_the_runner_says_how_it_ends(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "main", lambda options: 1)
    assert machine("join", TEXT).code == 1


def test_a_token_from_standard_input(
    machine: Machine, ran: list[RunOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{TEXT}\n"))
    machine("join", "-")
    assert ran[0].token == TOKEN


def test_a_token_from_a_file(machine: Machine, ran: list[RunOptions], tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"\n{TEXT}\n")
    machine("join", f"file:{tmp_path / 'token'}")
    assert ran[0].token == TOKEN


def test_everything_from_the_environment(
    machine: Machine, ran: list[RunOptions], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TEXT)
    variables = {
        "NET": "home",
        "TOKEN": f"file:{tmp_path / 'token'}",
        "NAME": "beta",
        "PORT": "5000",
        "ADVERTISE": "a.example:1,192.0.2.2:2",
        "INTERFACE": "mesh7",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"MESHNODE_{name}", value)
    assert machine("join").code == 0
    (options,) = ran
    assert (options.net, options.token, options.name, options.explicit_name) == ("home", TOKEN, "beta", True)
    assert (options.settings.port, options.settings.interface) == (5000, "mesh7")
    assert options.settings.advertise == (HostPort("a.example", 1), HostPort("192.0.2.2", 2))


def test_options_win_over_the_environment_and_that_over_the_file(
    machine: Machine, ran: list[RunOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.config.write_text('name = "file"\nport = 1\nmtu = 1300\n')
    monkeypatch.setenv("MESHNODE_PORT", "2")
    monkeypatch.setenv("MESHNODE_NAME", "environment")
    machine("join", TEXT, "--name", "option")
    assert (ran[0].name, ran[0].settings.port, ran[0].settings.mtu) == ("option", 2, 1300)


def test_settings_are_read_again_with_the_same_options(machine: Machine, ran: list[RunOptions]) -> None:
    machine("join", TEXT, "--port", "5000")
    machine.config.write_text('log-level = "debug"\nport = 6000\n')
    fresh = ran[0].read_settings()
    assert (fresh.log_level, fresh.port) == ("debug", 5000)
    machine.config.write_text("prot = 1")
    with pytest.raises(EdgeError, match="did you mean"):
        ran[0].read_settings()


def test_a_name_in_the_file_is_explicit(machine: Machine, ran: list[RunOptions]) -> None:
    machine.config.write_text('name = "file"\n')
    machine("join", TEXT)
    assert (ran[0].name, ran[0].explicit_name) == ("file", True)


def test_a_member_needs_no_token(machine: Machine, ran: list[RunOptions]) -> None:
    machine("init", "--net", "home", "--port", "5000")
    assert machine("join").code == 0
    assert (ran[0].net, ran[0].token, ran[0].settings.port) == ("home", None, 5000)


@pytest.mark.parametrize("token", ["mn1", "file:/nonexistent/token", "old words"])
def test_a_member_does_not_mind_a_token_that_is_gone(
    machine: Machine, ran: list[RunOptions], token: str
) -> None:
    machine("init", "--net", "home")
    assert machine("join", "--net", "home", token).code == 0
    assert ran[0].token is None


def test_a_member_may_be_given_its_token_again(machine: Machine, ran: list[RunOptions]) -> None:
    machine("init", "--net", "home")
    token = machine("invite").out.strip()
    assert machine("join", token).code == 0
    assert ran[0].token is None
    assert ran[0].settings.port == DEFAULT_PORT


def test_a_token_of_another_network_of_the_same_name_is_refused(
    machine: Machine, ran: list[RunOptions]
) -> None:
    machine("init", "--net", "home")
    assert "is for another network" in machine.fails("join", TEXT)
    assert ran == []


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ([], "`meshnode init` or `meshnode join`"),
        (["--net", "home"], "`meshnode invite` prints one"),
        (["--net", "work", TEXT], "is for the network home, not for work"),
        (["hello"], "begins with mn1"),
        ([TEXT[:-5]], "copy the whole line again"),
        ([TEXT[:80] + "_" + TEXT[81:]], "copy the whole line again"),
        (["mn2" + TEXT[3:]], "newer meshnode"),
        (["file:/nonexistent/token"], "cannot read the token from /nonexistent/token: no such file"),
        ([TEXT, "--name", "a/b"], "cannot be a node's name"),
        ([TEXT, "--name", "a" * 300], "cannot be a node's name"),
        ([Token(bytes(32), bytes(32), bytes(16), 1_000, "home", ()).encode()], "the token expired"),
    ],
)
def test_what_cannot_be_joined_is_refused_and_nothing_is_written(
    machine: Machine, ran: list[RunOptions], words: list[str], hint: str
) -> None:
    assert hint in machine.fails("join", *words)
    assert ran == []
    assert not machine.state_dir.exists()


def test_a_token_in_two_words_is_not_repeated(machine: Machine) -> None:
    line = machine.fails("join", TEXT[:50], TEXT[50:], code=2)
    assert "give one token, as one word" in line
    assert TEXT[10:50] not in line


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--interface", "sixteen-letters-"], "at most 15 bytes"),
        (["--advertise", "vpn.example.org"], 'must be "host:port"'),
        (["--port", "0"], "1<=x<=65535"),
    ],
)
def test_options_that_make_no_sense(machine: Machine, words: list[str], hint: str) -> None:
    assert hint in machine.fails("join", TEXT, *words, code=2)


def test_an_endless_file_is_not_read_to_its_end(machine: Machine) -> None:
    assert "no meshnode token" in machine.fails("join", "file:/dev/zero")


def test_a_state_that_is_damaged_is_said_so(machine: Machine) -> None:
    machine("init", "--net", "home")
    (machine.state_dir / "home" / "state").write_bytes(b"torn")
    assert "state damaged" in machine.fails("join", "--net", "home", TEXT)
