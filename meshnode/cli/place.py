"""Which network a command is about, and where its files are: the options that every verb has."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from meshnode.cli.failure import Failure
from meshnode.edge import control
from meshnode.edge.errors import NotRunning
from meshnode.edge.store import Store, networks, validate_network
from meshnode.settings import Settings, load_settings

STATE_DIR = Path("/var/lib/meshnode")
RUNTIME_DIR = Path("/run/meshnode")
CONFIG_DIR = Path("/etc/meshnode")


class Place:
    """The network that the options name, with its directories. `net` may be left out where there is only one."""

    def __init__(self, net: str | None, state_dir: Path, runtime_dir: Path, config: Path | None) -> None:
        self._given = net
        self._config = config
        self.state_dir = state_dir
        self.runtime_dir = runtime_dir

    def named(self, net: str) -> Place:
        """The same place for the network `net`, unless the options say another."""
        return Place(self._given or net, self.state_dir, self.runtime_dir, self._config)

    @property
    def given(self) -> str | None:
        """The network, if an option or the environment names it."""
        return self._given

    @cached_property
    def net(self) -> str:
        """The network's name. Raises Failure when none is given and there is not exactly one."""
        if self._given is not None:
            return validate_network(self._given)
        known = networks(self.state_dir)
        if len(known) == 1:
            return known[0]
        if not known:
            raise Failure(
                f"there is no network in {self.state_dir}: begin with `meshnode init` or `meshnode join`"
            )
        raise Failure(f"which network? name it with --net: {', '.join(known)}")

    @property
    def store(self) -> Store:
        return Store(self.state_dir, self.net)

    @property
    def kept_settings(self) -> Path:
        """Where `init` puts the options that hold for every later `join`. The settings file wins over it."""
        return self.state_dir / self.net / "settings.toml"

    def settings(self) -> Settings:
        """What --config names, else /etc/meshnode/NET.toml where there is one. Raises SettingsError."""
        kept = load_settings(self.kept_settings) if self.kept_settings.exists() else Settings()
        path = self._config or CONFIG_DIR / f"{self.net}.toml"
        return load_settings(path, kept) if self._config or path.exists() else kept

    def call(self, command: str, arguments: Mapping[str, Any] | None = None, timeout: float = 10.0) -> Any:
        """Ask the running node. Raises NotRunning, or EdgeError with the node's own line."""
        return control.call(control.socket_path(self.runtime_dir, self.net), command, arguments, timeout)

    def ask(self, command: str, arguments: Mapping[str, Any] | None = None, timeout: float = 10.0) -> Any:
        """`call` for verbs that only a running node can answer. Raises Failure when there is none."""
        try:
            return self.call(command, arguments, timeout)
        except NotRunning as error:
            raise Failure(
                f"the node of network {self.net} is not running: start it with `meshnode join --net {self.net}`"
            ) from error


def at_place(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options of a Place; it gets the Place as its first argument."""

    @functools.wraps(verb)
    def with_place(
        net: str | None, state_dir: Path, runtime_dir: Path, config: Path | None, **others: Any
    ) -> None:
        verb(Place(net, state_dir, runtime_dir, config), **others)

    decorated: Callable[..., None] = with_place
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


_OPTIONS = (
    click.option(
        "--net", metavar="NET", envvar="MESHNODE_NET", help="The network, where there is more than one."
    ),
    click.option(
        "--config",
        metavar="FILE",
        type=Path,
        envvar="MESHNODE_CONFIG",
        help=f"Settings.  [default: {CONFIG_DIR}/NET.toml]",
    ),
    click.option(
        "--state-dir",
        metavar="DIR",
        type=Path,
        default=STATE_DIR,
        show_default=True,
        envvar="MESHNODE_STATE_DIR",
        help="Keys and state.",
    ),
    click.option(
        "--runtime-dir",
        metavar="DIR",
        type=Path,
        default=RUNTIME_DIR,
        show_default=True,
        envvar="MESHNODE_RUNTIME_DIR",
        help="Where the running node listens for commands.",
    ),
)
