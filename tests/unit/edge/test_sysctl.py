"""Kernel settings: nothing is written that is right, and what may not be written becomes a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshnode.edge import sysctl

KEY = "net/ipv6/conf/mesh-home/disable_ipv6"


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sysctl, "ROOT", tmp_path)
    path = tmp_path / KEY
    path.parent.mkdir(parents=True)
    path.write_text("1\n")
    return path


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """What /proc/sys is in a container."""

    def read_only(path: Path, _: str) -> int:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "write_text", read_only)


def test_what_differs_is_written(setting: Path) -> None:
    assert sysctl.read(KEY) == "1"
    assert sysctl.ensure(KEY, "0") is None
    assert setting.read_text() == "0"


def test_what_is_right_is_not_written(setting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch)
    assert sysctl.ensure(KEY, "1") is None


def test_what_may_not_be_written_becomes_a_command(setting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch)
    warning = sysctl.ensure(KEY, "0")
    assert warning is not None
    assert "sysctl -w net.ipv6.conf.mesh-home.disable_ipv6=0" in warning
    assert "Read-only" in warning
    assert "\n" not in warning


def test_a_setting_that_the_kernel_does_not_have(setting: Path) -> None:
    assert sysctl.read("net/ipv9/forwarding") is None
    warning = sysctl.ensure("net/ipv9/forwarding", "1")
    assert warning is not None
    assert "net.ipv9.forwarding=1" in warning


def test_interface_names_with_dots_keep_slashes() -> None:
    assert (
        sysctl.command("net/ipv4/conf/eth0.7/rp_filter", "2") == "sysctl -w net/ipv4/conf/eth0.7/rp_filter=2"
    )
