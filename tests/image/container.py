"""A process in the image's root file system as an engine would start it: PID 1, own mounts, NET_ADMIN and no more."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from meshnode.lab import Host, LabError, Process, wait_until
from tests.image.rootfs import RootFs

# $1 root file system, $2 state volume, $3 secrets, $4 "tun" or "", $5 capabilities for setpriv, then the command.
# /proc/sys is read-only and /run is empty, as in an engine.
_START = """
root=$1 state=$2 secrets=$3 tun=$4 capabilities=$5; shift 5
mount --make-rprivate /
mount --bind "$root" "$root"; cd "$root"
mount -t proc proc proc; mount --bind proc/sys proc/sys; mount -o remount,bind,ro proc/sys
mount -t tmpfs tmpfs run; mount -t tmpfs tmpfs dev; mount -t tmpfs tmpfs tmp
for name in null zero random urandom; do touch dev/$name; mount --bind /dev/$name dev/$name; done
if [ "$tun" ]; then mkdir dev/net; touch dev/net/tun; mount --bind /dev/net/tun dev/net/tun; fi
mkdir run/secrets; mount --bind -o ro "$secrets" run/secrets
mount --bind "$state" var/lib/meshnode
exec chroot . setpriv --no-new-privs --inh-caps=-all --bounding-set="$capabilities" "$@"
"""


class Container:
    """One service: its image, where it runs, its volume, its secrets and its environment."""

    def __init__(
        self, host: Host, image: RootFs, entrypoint: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self.host = host
        self.image = image
        self.entrypoint = list(entrypoint)
        self.environment = dict(environment)
        self.state = host.directory / "state"
        self.secrets = host.directory / "secrets"
        self._process: Process | None = None
        for directory in (self.state, self.secrets):
            directory.mkdir()

    def run(self, *words: str, tun: bool = True, net_admin: bool = True) -> subprocess.CompletedProcess[str]:
        """`docker run --rm`: the entry point with these words, to its end."""
        return self.host.run(self._argv(words, tun=tun, net_admin=net_admin), check=False)

    def start(self, *words: str) -> None:
        """`docker run -d`."""
        self._process = self.host.popen(self._argv(words))
        wait_until(lambda: self._children() != [], "the container to start")

    @property
    def pid(self) -> int:
        """The number on this machine of the container's PID 1."""
        return self._children()[0]

    @property
    def log(self) -> str:
        assert self._process is not None
        return self._process.output

    def execute(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """`docker exec`, and how an engine runs HEALTHCHECK."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--root", "--wd"]
        return self.host.run([*enter, *self._clean(), *argv], check=False)

    def stop(self, grace: float) -> int:
        """`docker stop`: SIGTERM to PID 1. The exit status; LabError when it takes longer than `grace` seconds."""
        assert self._process is not None
        os.kill(self.pid, signal.SIGTERM)
        status = self._process.wait(grace)
        self._process.stop()
        return status

    def capabilities(self) -> int:
        """CapEff of PID 1."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("CapEff")), 16)

    def command_line(self) -> list[str]:
        """What PID 1 is."""
        return Path(f"/proc/{self.pid}/cmdline").read_text().rstrip("\0").split("\0")

    def _argv(self, words: Sequence[str], *, tun: bool = True, net_admin: bool = True) -> list[str]:
        places = [str(self.image.path), str(self.state), str(self.secrets), "tun" if tun else ""]
        capabilities = "-all,+net_admin" if net_admin else "-all"
        start = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", _START, "sh", *places]
        return [*start, capabilities, *self._clean(), *self.entrypoint, *words]

    def _clean(self) -> list[str]:
        variables = {**self.image.environment, **self.environment}
        return ["env", "-i", *(f"{name}={value}" for name, value in variables.items())]

    def _children(self) -> list[int]:
        assert self._process is not None
        if self._process.status is not None:
            raise LabError(f"the container on {self.host.label} has ended: {self.log.strip()}")
        pid = self._process.pid
        try:
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except FileNotFoundError:
            return []
