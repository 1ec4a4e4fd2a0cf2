"""What stands in config/, and the Dockerfile: each parses, and says what the program really has."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

import pytest
import yaml

from meshnode.cli.main import meshnode
from meshnode.cli.place import RUNTIME_DIR, STATE_DIR
from meshnode.settings import DEFAULT_PORT, INTERFACE_NAME_LIMIT
from tests.image.dockerfile import Stage, parse

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"


def join_variables() -> set[str]:
    """The environment variables that `meshnode join` reads."""
    return {str(param.envvar) for param in meshnode.commands["join"].params if param.envvar}


def assert_is_a_command_line(words: list[str]) -> None:
    """`words` after the program's name are a verb that exists, with options that it has."""
    verb = meshnode.commands[words[0]]
    verb.make_context(words[0], words[1:], resilient_parsing=False).close()


# --- systemd --------------------------------------------------------------------------------------------------


@pytest.fixture
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((CONFIG / "meshnode@.service").read_text())
    return parser


@pytest.mark.parametrize("key", ["ExecStart", "ExecReload"])
def test_the_unit_calls_verbs_that_exist(unit: configparser.ConfigParser, key: str) -> None:
    words = shlex.split(unit["Service"][key])
    assert Path(words[0]).name == "meshnode"
    assert_is_a_command_line([word.replace("%i", "home") for word in words[1:]])


def test_the_unit_has_our_directories_and_no_more_rights_than_needed(unit: configparser.ConfigParser) -> None:
    service = unit["Service"]
    assert Path("/var/lib", service["StateDirectory"]) == STATE_DIR
    assert Path("/run", service["RuntimeDirectory"]) == RUNTIME_DIR
    assert service["StateDirectoryMode"] == service["RuntimeDirectoryMode"] == "0700"
    assert service["CapabilityBoundingSet"] == "CAP_NET_ADMIN"
    assert service["DeviceAllow"] == "/dev/net/tun rw"
    assert {"AF_INET", "AF_INET6", "AF_NETLINK", "AF_UNIX"} == set(service["RestrictAddressFamilies"].split())


# --- sysctl, Babel --------------------------------------------------------------------------------------------


def test_the_sysctls_exist() -> None:
    lines = [
        line for line in (CONFIG / "60-meshnode.conf").read_text().splitlines() if line and line[0] != "#"
    ]
    assert lines
    for line in lines:
        match = re.fullmatch(r"([a-z0-9_.]+) = (\d+)", line)
        assert match, line
        assert Path("/proc/sys", match[1].replace(".", "/")).exists(), line


def test_the_babel_sample_has_statements_that_babeld_knows() -> None:
    lines = [line for line in (CONFIG / "babeld.conf").read_text().splitlines() if line and line[0] != "#"]
    interface, *filters = [line.split() for line in lines]
    assert interface[0] == "interface"
    assert interface[1].startswith("mesh-")
    assert len(interface[1]) <= INTERFACE_NAME_LIMIT
    known = {"type", "hello-interval", "update-interval", "rtt-min", "rtt-max", "max-rtt-penalty"}
    assert set(interface[2::2]) <= known
    assert all(words[0] == "redistribute" for words in filters)
    assert filters[-1] == ["redistribute", "local", "deny"]


# --- container ------------------------------------------------------------------------------------------------


@pytest.fixture
def image() -> Stage:
    """The last stage, which is the image."""
    return parse((ROOT / "Dockerfile").read_text())[-1]


def test_the_node_is_pid_1_and_takes_sigterm_itself(image: Stage) -> None:
    entry, command = image.last("ENTRYPOINT"), image.last("CMD")
    assert entry.arguments.startswith("[")
    assert command.arguments.startswith("[")
    assert entry.words == ["meshnode"]
    assert_is_a_command_line(command.words)
    assert image.last("STOPSIGNAL").words == ["SIGTERM"]


def test_health_is_asked_for_with_a_command_line_that_exists(image: Stage) -> None:
    program, *words = image.healthcheck()
    assert program == "meshnode"
    assert words == ["status", "--check", "ready"]
    assert_is_a_command_line(words)


def test_the_image_keeps_the_state_and_names_the_port(image: Stage) -> None:
    assert image.last("VOLUME").words == [str(STATE_DIR)]
    assert image.last("EXPOSE").words == [f"{DEFAULT_PORT}/udp"]


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    build, image = parse((ROOT / "Dockerfile").read_text())
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = {word for step in build.steps if step.instruction == "COPY" for word in step.words[:-1]}
    assert sources == allowed
    assert all((ROOT / name).exists() for name in sources)
    assert {step.flags["from"] for step in image.steps if step.instruction == "COPY"} == {build.name}
    assert build.base == image.base


def test_compose_has_two_services_with_the_rights_needed_and_no_others() -> None:
    compose = yaml.safe_load((CONFIG / "compose.yaml").read_text())
    assert len(compose["services"]) == 2
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"]
        assert service["cap_add"] == ["NET_ADMIN"]
        assert service["devices"] == ["/dev/net/tun"]
        assert "privileged" not in service
        assert set(service["environment"]) <= join_variables()
        assert service["environment"]["MESHNODE_NAME"] == name
        assert [volume.partition(":")[2] for volume in service["volumes"]] == [str(STATE_DIR)]
        assert {volume.partition(":")[0] for volume in service["volumes"]} <= set(compose["volumes"])
    token = compose["services"]["beta"]["environment"]["MESHNODE_TOKEN"]
    assert token.removeprefix("file:/run/secrets/") in compose["secrets"]
    assert compose["services"]["alpha"]["ports"] == [f"{DEFAULT_PORT}:{DEFAULT_PORT}/udp"]
