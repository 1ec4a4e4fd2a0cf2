"""`make image-check`: build the image's steps, then run two containers of it as config/compose.yaml would.

Needs root, debootstrap, and a mirror. Prints what it has checked, line by line; ends with 1 at the first that fails.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from meshnode.lab import Lab, Nat, available, sites, wait_until
from meshnode.lab.ping import reaches
from tests.image.container import Container
from tests.image.dockerfile import Stage, parse
from tests.image.rootfs import RootFs, debian

CONTEXT = Path(__file__).parents[2]
CACHE = CONTEXT / "build" / "image-check"
CAP_NET_ADMIN = 1 << 12
GRACE = 10.0


def main() -> None:
    missing = available("ping", "unshare", "nsenter", "setpriv")
    if missing is not None or shutil.which("debootstrap") is None:
        raise SystemExit(f"image check: {missing or 'apt-get install debootstrap'}")
    with tempfile.TemporaryDirectory(prefix="meshnode-image-") as directory, Lab() as lab:
        stages = parse((CONTEXT / "Dockerfile").read_text())
        image = build(stages, Path(directory))
        say("the Dockerfile's steps run, in order, in a fresh Debian")
        two_containers(lab, image, stages[-1])
    print("image check: all of it holds")


def build(stages: list[Stage], directory: Path) -> RootFs:
    """The root file system of the last stage."""
    base = debian(CACHE / "debian")
    built: dict[str, RootFs] = {}
    for stage in stages:
        built[stage.name] = RootFs(base, directory / stage.name)
        built[stage.name].build(stage, CONTEXT, built)
    return built[stages[-1].name]


def two_containers(lab: Lab, image: RootFs, stage: Stage) -> None:
    """The life of config/compose.yaml: init, invite, up, traffic, stop, up again."""
    entrypoint, command = stage.last("ENTRYPOINT").words, stage.last("CMD").words
    first, second = sites(lab, ("alpha", "beta"), nat=Nat.NONE).hosts
    reachable = f"{first.address4}:4655"
    common = {"MESHNODE_NET": "home"}
    alpha = Container(
        first, image, entrypoint, {**common, "MESHNODE_NAME": "alpha", "MESHNODE_ADVERTISE": reachable}
    )
    token = {"MESHNODE_TOKEN": "file:/run/secrets/token"}
    beta = Container(second, image, entrypoint, {**common, **token, "MESHNODE_NAME": "beta"})

    refuse(alpha, command)
    assert_done(alpha.run("init"))
    invited = assert_done(alpha.run("invite"))
    (beta.secrets / "token").write_text(invited)
    say("init and invite work as one-off containers; the token is the only line on standard output")

    for container in (alpha, beta):
        container.start(*command)
    for container in (alpha, beta):
        wait_until(lambda c=container: healthy(c, stage), f"{container.host.label} to be healthy", timeout=20)
    say("join by MESHNODE_ variables and a token from a secret file; HEALTHCHECK becomes healthy")

    assert alpha.command_line()[1:] == ["/opt/meshnode/bin/meshnode", "join"], alpha.command_line()
    assert alpha.capabilities() == CAP_NET_ADMIN, hex(alpha.capabilities())
    say("PID 1 is meshnode itself, with CAP_NET_ADMIN and no other capability")
    traffic(alpha, beta)
    stop_and_start(alpha, beta, stage, command)
    without_ipv6(alpha, beta, stage, command)


def refuse(container: Container, command: list[str]) -> None:
    """Without the device or the capability there is one line that says so, and status 1."""
    for lacks, keywords in (("/dev/net/tun", {"tun": False}), ("NET_ADMIN", {"net_admin": False})):
        shutil.rmtree(container.state)
        container.state.mkdir()
        assert_done(container.run("init"))
        done = container.run(*command, **keywords)
        lines = done.stderr.strip().splitlines()
        assert done.returncode == 1, done
        assert lines[-1].startswith("meshnode: "), done.stderr
        assert lacks in lines[-1], done.stderr
        assert not any("Traceback" in line for line in lines), done.stderr
        say(f"without {lacks}: {lines[-1]}")
    shutil.rmtree(container.state)
    container.state.mkdir()


def traffic(alpha: Container, beta: Container) -> None:
    for one, other in ((alpha, beta), (beta, alpha)):
        for address in status(other)["addresses"]:
            wait_until(lambda h=one.host, a=address: reaches(h, a), f"{one.host.label} to reach {address}")
    say("they ping each other over IPv4 and IPv6")


def stop_and_start(alpha: Container, beta: Container, stage: Stage, command: list[str]) -> None:
    code = beta.stop(GRACE)
    assert code == 0, f"SIGTERM ended beta with status {code}: {beta.log}"
    wait_until(lambda: state_of(alpha, "beta") != "up", "alpha to hear beta's goodbye", timeout=5)
    say("SIGTERM ends it with status 0, and its peer hears the goodbye at once")
    (beta.secrets / "token").write_text("mn1thisisnotatoken")
    beta.start(*command)
    wait_until(lambda: healthy(beta, stage), "beta to be healthy again", timeout=20)
    say("started again on the same volume it is a member at once, whatever the token says now")
    beta.stop(GRACE)


def without_ipv6(alpha: Container, beta: Container, stage: Stage, command: list[str]) -> None:
    """Many engines switch IPv6 off, and /proc/sys is read-only: a warning with the fix, and IPv4 goes on."""
    beta.host.write_sysctls({f"net/ipv6/conf/{each}/disable_ipv6": "1" for each in ("all", "default")})
    beta.start(*command)
    wait_until(lambda: healthy(beta, stage), "beta to be healthy without IPv6", timeout=20)
    address = status(beta)["addresses"][0]
    wait_until(lambda: reaches(alpha.host, address), f"alpha to reach {address}")
    warning = next(
        line for line in beta.log.splitlines() if "--sysctl net.ipv6.conf.all.disable_ipv6=0" in line
    )
    say(f"with IPv6 switched off IPv4 goes on: {warning}")
    alpha.stop(GRACE)
    beta.stop(GRACE)


def healthy(container: Container, stage: Stage) -> bool:
    return container.execute(stage.healthcheck()).returncode == 0


def status(container: Container) -> dict:
    return json.loads(assert_done(container.execute(["meshnode", "status", "--json"])))


def state_of(container: Container, peer: str) -> str:
    return next(each["state"] for each in status(container)["peers"] if each["name"] == peer)


def assert_done(done) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def say(line: str) -> None:
    print(f"  {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
