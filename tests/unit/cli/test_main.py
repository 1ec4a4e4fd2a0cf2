"""Exit codes, errors as one line, and help that ends with an example, for every verb."""

from __future__ import annotations

import subprocess
import sys

import pytest

from meshnode import __version__
from meshnode.cli.main import meshnode
from tests.unit.cli.conftest import Machine


@pytest.mark.parametrize("verb", list(meshnode.commands))
def test_every_help_has_an_example_of_its_verb(machine: Machine, verb: str) -> None:
    done = machine(verb, "--help")
    assert done.code == 0
    examples = done.out.partition("Example")[2].splitlines()[1:]
    assert examples
    assert all(line.startswith("  ") and f"meshnode {verb}" in line for line in examples)


@pytest.mark.parametrize("verb", list(meshnode.commands))
def test_the_list_of_verbs_says_what_each_does(machine: Machine, verb: str) -> None:
    line = next(line for line in machine().out.splitlines() if line.split()[:1] == [verb])
    assert not line.endswith("...")


def test_without_a_verb_there_is_help(machine: Machine) -> None:
    assert machine() == machine("--help")
    assert machine().code == 0


def test_version(machine: Machine) -> None:
    assert machine("--version").out == f"meshnode {__version__}\n"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["dance"], "No such command 'dance'"),
        (["status", "--jason"], "--json"),
        (["status", "--check", "alive"], "'live', 'ready'"),
        (["invite", "--uses", "0"], "1<=x<=10000"),
        (["ping"], "PEER"),
    ],
)
def test_a_wrong_call_is_one_line_that_names_the_help(machine: Machine, words: list[str], hint: str) -> None:
    line = machine.fails(*words, code=2)
    assert hint in line
    assert line.endswith("--help)")


def test_an_error_of_the_machine_is_one_line(machine: Machine) -> None:
    machine.state_dir.write_text("a file where a directory should be")
    assert str(machine.state_dir) in machine.fails("init", "--net", "home")


def test_a_settings_file_with_a_mistake_is_one_line(machine: Machine) -> None:
    assert machine("init", "--net", "home").code == 0
    machine.config.write_text("prot = 5000\n")
    assert machine.fails("invite") == f'{machine.config}:1: unknown key "prot"; did you mean "port"?'


def test_a_settings_file_that_is_named_must_be_there(machine: Machine) -> None:
    assert machine("init", "--net", "home").code == 0
    assert "no such file" in machine.fails("invite", "--config", str(machine.config.parent / "other.toml"))


def test_the_package_runs_as_a_module_too() -> None:
    argv = [sys.executable, "-m", "meshnode", "--version"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"meshnode {__version__}\n"


def test_a_reader_that_has_had_enough_is_no_error() -> None:
    argv = f"{sys.executable} -m meshnode --help | true"
    done = subprocess.run(["sh", "-c", argv], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
