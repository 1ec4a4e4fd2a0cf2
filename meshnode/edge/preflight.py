"""What the machine must offer before a node can run, checked one by one: at start, and by `meshnode doctor`."""

from __future__ import annotations

import errno
import os
import pathlib
import socket
from enum import StrEnum
from typing import NamedTuple

from meshnode.edge import sysctl, tun
from meshnode.edge.errors import EdgeError, reason
from meshnode.edge.udp import has_ipv6, open_sockets

_CAP_NET_ADMIN = 12


class Level(StrEnum):
    """How bad a finding is: a node starts with warnings, and not with an error."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(NamedTuple):
    """`text` says what was found, `fix` what mends it (empty when all is well). Both are one line."""

    level: Level
    text: str
    fix: str = ""


def check_tun(device: pathlib.Path = tun.DEVICE) -> Finding:
    """The TUN device is there and may be opened."""
    try:
        os.close(tun.open_device(device))
    except EdgeError as error:
        text, _, fix = str(error).partition(": ")
        return Finding(Level.ERROR, text, fix)
    return Finding(Level.OK, f"{device} can be opened")


def check_net_admin(status: pathlib.Path = pathlib.Path("/proc/self/status")) -> Finding:
    """The process has CAP_NET_ADMIN: it makes the interface and its routes, and marks its own datagrams."""
    effective = 0
    for line in status.read_text().splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.partition(":")[2], 16)
    if effective >> _CAP_NET_ADMIN & 1:
        return Finding(Level.OK, "CAP_NET_ADMIN is held")
    fix = (
        "run as root, in Docker add --cap-add NET_ADMIN, in a systemd unit AmbientCapabilities=CAP_NET_ADMIN"
    )
    return Finding(Level.ERROR, "CAP_NET_ADMIN is missing: no interface can be made", fix)


def check_ipv6() -> Finding:
    """New interfaces get IPv6, which link-local addresses, and so Babel, need."""
    if not has_ipv6():
        return Finding(
            Level.WARNING, "this kernel has no IPv6: Babel will not work", "boot without ipv6.disable=1"
        )
    off = [name for name in ("all", "default") if sysctl.read(f"net/ipv6/conf/{name}/disable_ipv6") == "1"]
    if not off:
        return Finding(Level.OK, "IPv6 is on")
    command = sysctl.command("net/ipv6/conf/all/disable_ipv6", "0")
    fix = f"run `{command}`, in Docker add --sysctl net.ipv6.conf.all.disable_ipv6=0"
    return Finding(Level.WARNING, f"IPv6 is switched off ({', '.join(off)}): Babel may not work", fix)


def check_port(port: int) -> Finding:
    """Nobody else has the UDP or the TCP port."""
    try:
        for each in open_sockets(port):
            each.close()
    except EdgeError as error:
        text, _, fix = str(error).partition(": ")
        return Finding(Level.ERROR, text, fix)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("0.0.0.0", port))
            listener.listen(1)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return Finding(
                    Level.WARNING, f"TCP port {port} cannot be used: {reason(error)}", "choose another"
                )
            fix = f"stop what uses it (`ss -tlnp sport = :{port}`) or choose another with --port"
            return Finding(
                Level.WARNING, f"TCP port {port} is taken: peers behind UDP-blocking walls stay out", fix
            )
    return Finding(Level.OK, f"port {port} is free")


def check_state_dir(state_dir: pathlib.Path) -> Finding:
    """Keys and state can be written, and nobody else can write there."""
    existing = next(each for each in (state_dir, *state_dir.absolute().parents) if each.exists())
    if not existing.is_dir():
        return Finding(Level.ERROR, f"{existing} is not a directory", "choose another --state-dir")
    if not os.access(existing, os.W_OK | os.X_OK):
        fix = "run as root, mount it writable, or choose a --state-dir that you may write"
        return Finding(Level.ERROR, f"{existing} cannot be written", fix)
    loose = existing == state_dir and existing.stat().st_mode & 0o022
    if loose and not existing.stat().st_mode & 0o1000:
        return Finding(Level.WARNING, f"others can write to {existing}", f"run `chmod go-w {existing}`")
    return Finding(Level.OK, f"{state_dir} can be written")


def check_all(port: int, state_dir: pathlib.Path) -> list[Finding]:
    """All of the above, in that order. For a node that does not run: its port would count as taken."""
    return [check_tun(), check_net_admin(), check_ipv6(), check_port(port), check_state_dir(state_dir)]
