"""Findings about the machine: each with one line that mends it."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from meshnode.edge import preflight, sysctl
from meshnode.edge import tun as tun_module
from meshnode.edge.errors import EdgeError
from meshnode.edge.preflight import Finding, Level
from meshnode.edge.tun import Tun


def refusing(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        (errno.ENOENT, "mknod /dev/net/tun c 10 200"),
        (errno.ENODEV, "modprobe tun"),
        (errno.ENXIO, "modprobe tun"),
        (errno.EACCES, "run as root"),
        (errno.EPERM, "--device /dev/net/tun"),
    ],
)
def test_a_tun_device_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, code: int, fix: str) -> None:
    refusing(monkeypatch, code)
    finding = preflight.check_tun()
    assert finding.level is Level.ERROR
    assert fix in finding.fix
    assert os.strerror(code) in finding.text
    with pytest.raises(EdgeError) as caught:
        Tun.open("mesh-t", 1380)
    assert str(caught.value) == f"{finding.text}: {finding.fix}"


def test_a_tun_device_that_can_be_opened(tmp_path: Path) -> None:
    device = tmp_path / "tun"
    device.write_bytes(b"")
    assert preflight.check_tun(device) == Finding(Level.OK, f"{device} can be opened")


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        (errno.EPERM, "NET_ADMIN"),
        (errno.EBUSY, "--interface"),
        (errno.EINVAL, "--interface"),
        (errno.EIO, ""),
    ],
)
def test_an_interface_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, fix: str
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    device = tmp_path / "tun"
    device.write_bytes(b"")
    monkeypatch.setattr("fcntl.ioctl", refuse)
    monkeypatch.setattr(tun_module, "open_device", lambda: os.open(device, os.O_RDWR))
    before = os.listdir("/proc/self/fd")
    with pytest.raises(EdgeError, match="mesh-t") as caught:
        Tun.open("mesh-t", 1380)
    assert fix in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("mask", "level"), [(1 << 12, Level.OK), (~(1 << 12), Level.ERROR), (0, Level.ERROR)]
)
def test_the_capability(tmp_path: Path, mask: int, level: Level) -> None:
    status = tmp_path / "status"
    status.write_text(f"Name:\tpython\nCapEff:\t{mask & (1 << 64) - 1:016x}\nCapBnd:\tffffffffffffffff\n")
    finding = preflight.check_net_admin(status)
    assert finding.level is level
    assert ("NET_ADMIN" in finding.fix) is (level is Level.ERROR)


@pytest.mark.parametrize(
    ("values", "level"), [("00", Level.OK), ("10", Level.WARNING), ("01", Level.WARNING)]
)
def test_ipv6(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: str, level: Level) -> None:
    monkeypatch.setattr(sysctl, "ROOT", tmp_path)
    for name, value in zip(("all", "default"), values, strict=True):
        path = tmp_path / f"net/ipv6/conf/{name}/disable_ipv6"
        path.parent.mkdir(parents=True)
        path.write_text(f"{value}\n")
    finding = preflight.check_ipv6()
    assert finding.level is level
    assert ("--sysctl" in finding.fix) is (level is Level.WARNING)


def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "has_ipv6", lambda: False)
    assert preflight.check_ipv6().level is Level.WARNING


def test_ports() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = preflight.check_port(port)
        assert finding.level is Level.WARNING
        assert f"TCP port {port} is taken" in finding.text
    assert preflight.check_port(port) == Finding(Level.OK, f"port {port} is free")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", port))
        finding = preflight.check_port(port)
        assert finding.level is Level.ERROR
        assert finding.text == f"UDP port {port} is taken"
        assert "--port" in finding.fix


def test_state_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o755)
    assert preflight.check_state_dir(tmp_path / "made" / "later").level is Level.OK
    (tmp_path / "file").write_text("")
    assert preflight.check_state_dir(tmp_path / "file").level is Level.ERROR
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose").chmod(0o777)
    finding = preflight.check_state_dir(tmp_path / "loose")
    assert finding.level is Level.WARNING
    assert finding.fix == f"run `chmod go-w {tmp_path / 'loose'}`"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert preflight.check_state_dir(tmp_path).level is Level.ERROR


def test_all_of_them(tmp_path: Path) -> None:
    findings = preflight.check_all(0, tmp_path)
    assert len(findings) == 5
    for finding in findings:
        assert (finding.fix == "") is (finding.level is Level.OK)
        assert "\n" not in finding.text + finding.fix
