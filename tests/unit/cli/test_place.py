"""Which network a verb is about, and which settings hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshnode.cli import place
from meshnode.cli.failure import Failure
from meshnode.cli.place import Place
from tests.unit.cli.conftest import Machine


def at(machine: Machine, net: str | None = None, config: Path | None = None) -> Place:
    return Place(net, machine.state_dir, machine.runtime_dir, config)


def test_the_only_network_need_not_be_named(machine: Machine) -> None:
    machine("init", "--net", "work")
    assert at(machine).net == "work"


def test_of_two_networks_one_must_be_named(machine: Machine) -> None:
    machine("init", "--net", "work")
    machine("init", "--net", "home")
    with pytest.raises(Failure, match="name it with --net: home, work"):
        _ = at(machine).net
    assert at(machine, "home").net == "home"


def test_without_a_network_the_first_steps_are_named(machine: Machine) -> None:
    assert "`meshnode init` or `meshnode join`" in machine.fails("status")


def test_a_state_directory_of_somebody_else_is_explained(machine: Machine) -> None:
    machine.state_dir.mkdir(mode=0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)  # root may read everything
    try:
        line = machine.fails("status")
    finally:
        if root:
            os.seteuid(0)
    assert str(machine.state_dir) in line
    assert "Permission denied" in line


def test_the_environment_names_the_network(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHNODE_NET", "work")
    assert machine.fails("status").startswith("the node of network work is not running")


def test_settings_come_from_init_then_the_file(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "CONFIG_DIR", machine.config.parent)
    machine.config.unlink()
    machine("init", "--net", "home", "--port", "5000", "--advertise", "a.example:1", "--config", "/dev/null")
    assert at(machine, "home").settings().port == 5000
    machine.config.write_text("port = 6000\n")
    settings = at(machine, "home").settings()
    assert settings.port == 6000
    assert str(settings.advertise[0]) == "a.example:1"
    assert at(machine, "home", Path("/dev/null")).settings().port == 5000
