import json
from typing import Any

import pytest

from meshnode.lab import LabError
from meshnode.lab.iperf3 import Load, Throughput, parse_iperf3

CPU = {"host_total": 12.5, "host_user": 0.5, "host_system": 12.0, "remote_total": 9.0}
TCP: dict[str, Any] = {
    "streams": [
        {"sender": {"bits_per_second": 31e6}, "receiver": {"bits_per_second": 30e6}},
        {"sender": {"bits_per_second": 12e6}, "receiver": {"bits_per_second": 10e6}},
    ],
    "sum_sent": {"bits_per_second": 43e6, "retransmits": 7},
    "sum_received": {"bits_per_second": 40e6},
    "cpu_utilization_percent": CPU,
}
UDP: dict[str, Any] = {
    "streams": [{"udp": {"bits_per_second": 20e6, "lost_percent": 25}}],
    "sum": {"bits_per_second": 20e6, "lost_packets": 100, "packets": 400, "lost_percent": 25},
    "sum_sent": {"bits_per_second": 20e6},
    "sum_received": {"bits_per_second": 15e6},
    "cpu_utilization_percent": CPU,
}


def report(end: dict[str, Any]) -> str:
    return json.dumps({"start": {}, "intervals": [], "end": end})


def test_tcp_counts_what_arrived() -> None:
    assert parse_iperf3(report(TCP)) == Throughput(40, 43, (30, 10), 7, cpu_percent=12.5)


def test_a_download_has_no_retransmits_when_the_server_did_not_tell() -> None:
    end = {**TCP, "sum_sent": {"bits_per_second": 43e6}}
    assert parse_iperf3(report(end)).retransmits is None


@pytest.mark.parametrize("absent", [set(), {"sum_sent", "sum_received"}], ids=["new", "old"])
def test_udp_counts_packets(absent: set[str]) -> None:
    end = {key: value for key, value in UDP.items() if key not in absent}
    assert parse_iperf3(report(end)) == Throughput(15, 20, (15,), None, 400, 100, 12.5)


def test_warnings_around_the_report_do_not_matter() -> None:
    text = "warning: UDP block size 9000 exceeds TCP MSS\n" + report(TCP) + "\nwarning: late\n"
    assert parse_iperf3(text).received_mbit == 40


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"error": "unable to connect to server: Connection refused"}', "unable to connect to server"),
        ("", "it wrote nothing"),
        ("iperf3: parameter error", "parameter error"),
        ('{"start": ', "gave no report"),
        ('{"end": {}}', "cut short"),
        ('{"start": {}}', "cut short"),
        (report({**TCP, "sum_received": None}), "cut short"),
    ],
)
def test_failures_are_one_line_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(LabError, match=reason) as caught:
        parse_iperf3(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("load", [Load(), Load(streams=4, reverse=True, dscp="CS1", omit=2)])
def test_tcp_is_always_cubic(load: Load) -> None:
    arguments = load.arguments()
    assert arguments[arguments.index("-C") + 1] == "cubic"
    assert "-u" not in arguments
    assert ("-R" in arguments) == load.reverse
    assert ("--dscp" in arguments) == (load.dscp is not None)


def test_udp_has_a_rate_and_a_size() -> None:
    arguments = " ".join(Load(seconds=2, udp_mbit=2.5, size=64).arguments())
    assert arguments == "-t 2 -P 1 -O 0 -u -b 2.5M -l 64"
