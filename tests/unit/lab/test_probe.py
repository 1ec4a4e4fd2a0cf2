import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meshnode.lab import probe


def test_a_probe_is_found_again_in_its_echo() -> None:
    for size in (0, probe.SMALLEST, 1200):
        sent = probe.Probe(7, 1_700_000_000_123_456_789, held=42_000)
        packed = probe.pack_probe(sent, size)
        assert len(packed) == max(size, probe.SMALLEST)
        assert probe.unpack_probe(packed) == sent


def test_what_the_echo_held_back_is_not_the_networks_delay() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        sent_at = time.time_ns() - 5_000_000_000
        there.send(probe.pack_probe(probe.Probe(3, sent_at, held=4_900_000_000), 0))
        rtts: dict[int, float] = {}
        probe._collect(here, rtts, until=time.monotonic())
    assert 100_000 <= rtts[3] < 4_000_000


@pytest.mark.parametrize("data", [b"", b"mnpb", b"x" * 64], ids=["empty", "short", "foreign"])
def test_other_datagrams_are_no_probes(data: bytes) -> None:
    assert probe.unpack_probe(data) is None


def test_a_report_is_in_milliseconds_by_number() -> None:
    result = probe.parse_probe('{"sent": 4, "rtts_us": {"0": 1500.0, "3": 250.0}}')
    assert result == probe.ProbeResult(4, {0: 1.5, 3: 0.25})
    assert result.loss == 0.5
    assert probe.ProbeResult(0, {}).loss == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_probes_come_back_over_loopback(host: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as free:
        free.bind(("::", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-I", probe.__file__, "serve", str(port)], stdout=subprocess.PIPE
    )
    with server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        report = probe.send(host, port, rate=200, seconds=0.1, size=64, tos=0x10)
        server.kill()
    result = probe.parse_probe(json.dumps(report))
    assert (result.sent, sorted(result.rtts_ms)) == (20, list(range(20)))
    assert all(0 < rtt < 10_000 for rtt in result.rtts_ms.values())


def test_probes_without_an_echo_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_LONGEST_TAIL", 0.0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        report = probe.send("127.0.0.1", silent.getsockname()[1], rate=1000, seconds=0.01, size=0, tos=0)
    assert report == {"sent": 10, "rtts_us": {}}


def test_late_replies_are_waited_for_in_proportion() -> None:
    assert probe._tail({}) == probe._tail({0: 900_000.0}) == 3.0
    assert probe._tail({0: 500.0, 1: 10_000.0}) == pytest.approx(0.54)


def test_the_program_explains_itself() -> None:
    done = subprocess.run([sys.executable, probe.__file__], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("usage: probe serve PORT | probe send")
