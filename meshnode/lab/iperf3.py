"""Bulk load and its rate: iperf3, with CUBIC always, as BBR (some kernels' default) hides AQM faults."""

import json
from dataclasses import dataclass
from typing import Any, Final

from meshnode.lab.command import LabError
from meshnode.lab.counters import wait_for_listener
from meshnode.lab.interface import Address
from meshnode.lab.namespace import Namespace
from meshnode.lab.process import Process

_MARGIN: Final = 30.0  # seconds that a loaded machine may add to a measurement before it counts as failed


@dataclass(frozen=True, slots=True)
class Load:
    """What iperf3 shall send: TCP, or UDP at `udp_mbit` Mbit/s per stream in datagrams of `size` bytes."""

    seconds: float = 5.0
    streams: int = 1
    reverse: bool = False
    """The server sends (a download)."""
    udp_mbit: float | None = None
    size: int | None = None
    omit: float = 0.0
    """Seconds at the start that do not count (slow start)."""
    dscp: str | None = None

    def arguments(self) -> list[str]:
        """The client's options."""
        words = ["-t", f"{self.seconds:g}", "-P", str(self.streams), "-O", f"{self.omit:g}"]
        words += ["-u", "-b", f"{self.udp_mbit:g}M"] if self.udp_mbit is not None else ["-C", "cubic"]
        words += ["-R"] if self.reverse else []
        words += ["-l", str(self.size)] if self.size is not None else []
        words += ["--dscp", self.dscp] if self.dscp is not None else []
        return words


@dataclass(frozen=True, slots=True)
class Throughput:
    """The outcome, in Mbit/s of payload; what counts is `received_mbit`, and per stream `streams_mbit`."""

    received_mbit: float
    sent_mbit: float
    streams_mbit: tuple[float, ...]
    retransmits: int | None
    """TCP segments, where the sender told."""
    packets: int | None = None
    """UDP datagrams that were sent, and those that did not arrive."""
    lost_packets: int | None = None
    cpu_percent: float = 0.0
    """Of the client's process."""


def parse_iperf3(text: str) -> Throughput:
    """From the client's output with --json; LabError with iperf3's own reason when the test failed."""
    try:
        report, _ = json.JSONDecoder().raw_decode(text, text.index("{"))  # warnings may surround it
    except ValueError:
        raise LabError(f"iperf3 gave no report: {text.strip()[:80] or 'it wrote nothing'}") from None
    if "error" in report:
        raise LabError(f"iperf3 failed: {report['error']}")
    try:
        return _throughput(report["end"])
    except (LookupError, TypeError):
        raise LabError("iperf3's report lacks its sums: the test was cut short") from None


def _throughput(end: dict[str, Any]) -> Throughput:
    cpu = end["cpu_utilization_percent"]["host_total"]
    if "sum_received" in end and "udp" not in end["streams"][0]:
        sent, received = end["sum_sent"], end["sum_received"]
        streams = tuple(each["receiver"]["bits_per_second"] / 1e6 for each in end["streams"])
        rates = received["bits_per_second"] / 1e6, sent["bits_per_second"] / 1e6
        return Throughput(*rates, streams, sent.get("retransmits"), cpu_percent=cpu)
    total = end["sum"]
    arrived = 1 - total["lost_percent"] / 100
    sent_mbit = end.get("sum_sent", total)["bits_per_second"] / 1e6  # absent before iperf3 3.7
    shares = (each["udp"] for each in end["streams"])
    streams = tuple(each["bits_per_second"] / 1e6 * (1 - each["lost_percent"] / 100) for each in shares)
    lost, packets = total["lost_packets"], total["packets"]
    return Throughput(sent_mbit * arrived, sent_mbit, streams, None, packets, lost, cpu)


class Iperf3:
    """A running measurement: a server of its own on `port`, and a client that sends the load."""

    def __init__(
        self,
        client: Namespace,
        server: Namespace,
        address: Address | str,
        load: Load,
        *,
        port: int = 5201,
    ) -> None:
        """Start both; `address` is the server's for the client. Runs side by side need their own ports."""
        self._load = load
        self._server: Process = server.popen(["iperf3", "-s", "-1", "-p", str(port)])
        wait_for_listener(server, port)
        options = ["--json", "--connect-timeout", "10000", "-c", str(address), "-p", str(port)]
        self._client: Process = client.popen(["iperf3", *options, *load.arguments()])

    def result(self) -> Throughput:
        """Wait for the end; LabError when the measurement failed."""
        try:
            self._client.wait(self._load.seconds + self._load.omit + _MARGIN)
            return parse_iperf3(self._client.output)
        finally:
            self.stop()

    def stop(self) -> None:
        """End both now."""
        self._client.stop()
        self._server.stop()


def measure(
    client: Namespace,
    server: Namespace,
    address: Address | str,
    load: Load = Load(),  # a frozen value
    *,
    port: int = 5201,
    attempts: int = 3,
) -> Throughput:
    """One measurement, begun anew when iperf3 failed (a server that was late), `attempts` times at most.

    A rate that is low is a result and not a failure. LabError with the last reason.
    """
    for attempt in range(1, attempts + 1):
        try:
            return Iperf3(client, server, address, load, port=port).result()
        except LabError:
            if attempt == attempts:
                raise
    raise LabError("iperf3 needs at least one attempt")
