"""The Dockerfile's steps without a container engine: COPY, RUN and ENV carried out in plain directories.

What stands in for `python:3.13-slim-trixie` is Debian trixie by debootstrap with Debian's own Python 3.13. So this
proves the steps, the paths and what is started; it does not prove the base image or an engine's own isolation.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.image.dockerfile import Stage, Step

SUITE = "trixie"
MIRROR = os.environ.get("IMAGE_CHECK_MIRROR", "http://deb.debian.org/debian")
PACKAGES = ("ca-certificates", "python3", "python3-venv")
SHARED = os.environ.get("IMAGE_CHECK_SHARE", "").split()
"""Directories of this machine that are lent to the build, where pip needs them to find its index."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def debian(directory: Path) -> Path:
    """A fresh Debian in `directory`, made once and kept for the next time."""
    if not (directory / "usr/bin/python3").exists():
        shutil.rmtree(directory, ignore_errors=True)
        include = f"--include={','.join(PACKAGES)}"
        run(["debootstrap", "--variant=minbase", include, SUITE, str(directory), MIRROR])
        # The official image calls it so.
        (directory / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    return directory


class RootFs:
    """The file system of one stage while its steps run."""

    def __init__(self, base: Path, directory: Path) -> None:
        self.path = directory
        self.workdir = "/"
        self.environment = {"PATH": PATH, "HOME": "/root"}
        run(["cp", "--archive", "--reflink=auto", str(base), str(directory)])
        shutil.copy("/etc/resolv.conf", directory / "etc/resolv.conf")

    def build(self, stage: Stage, context: Path, others: dict[str, RootFs]) -> None:
        """Carry out the steps of `stage`; `others` are the stages before it, by name."""
        for step in stage.steps:
            if step.instruction == "COPY":
                self._copy(step, context, others)
            elif step.instruction == "RUN":
                self._run(step)
            elif step.instruction == "WORKDIR":
                self.workdir = step.arguments
                self.inside(self.workdir).mkdir(parents=True, exist_ok=True)
            elif step.instruction == "ENV":
                self.environment.update(word.split("=", 1) for word in step.words)
            elif step.instruction == "VOLUME":
                self.inside(step.arguments).mkdir(parents=True, exist_ok=True)

    def inside(self, path: str) -> Path:
        """Where a path of the image is on this machine."""
        return self.path / os.path.join(self.workdir, path).lstrip("/")

    def _copy(self, step: Step, context: Path, others: dict[str, RootFs]) -> None:
        *sources, target = step.words
        origin = step.flags.get("from")
        ignore = None if origin else ignored(context)
        for source in sources:
            found = others[origin].inside(source) if origin else context / source
            goal = self.inside(target)
            if found.is_dir():
                shutil.copytree(found, goal, symlinks=True, ignore=ignore, dirs_exist_ok=True)
            else:
                goal.mkdir(parents=True, exist_ok=True)
                shutil.copy(found, goal)

    def _run(self, step: Step) -> None:
        """In a mount namespace of its own, so that nothing stays mounted whatever happens."""
        pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        environment = [f"{name}={value}" for name, value in {**pip, **self.environment}.items()]
        lend = [
            f'mkdir -p "$root{path}" && mount --rbind "{path}" "$root{path}" && mount -o remount,bind,ro "$root{path}"'
            for path in SHARED
        ]
        script = " && ".join(
            ["mount --make-rprivate /", 'mount -t proc proc "$root/proc"', *lend, 'exec chroot "$root" "$@"']
        )
        inside = ["env", "-i", *environment, "sh", "-c", f"cd {self.workdir} && {step.arguments}"]
        run(["unshare", "--mount", "sh", "-ec", f"root=$1; shift; {script}", "sh", str(self.path), *inside])


def ignored(context: Path) -> object:
    """What .dockerignore keeps out of directories that are copied, as shutil.copytree wants it."""
    lines = (context / ".dockerignore").read_text().splitlines()
    patterns = [line.removeprefix("**/") for line in lines if line.startswith("**/")]
    return lambda _, names: [name for name in names if any(fnmatch.fnmatch(name, each) for each in patterns)]


def run(argv: Sequence[str]) -> None:
    """Run to the end; SystemExit with the command's last words when it fails."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise SystemExit(f"image check: {' '.join(argv[:6])} ... failed:\n{tail}")
