"""Traffic between the hosts of a lab, made in the test's own process: sockets belong to the namespace they are made in.

What is sent is pseudo-random, so that a datagram or a stream which arrives changed, twice or elsewhere is noticed.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from meshnode.lab import wait_until
from meshnode.lab.counters import snmp, snmp6
from meshnode.lab.namespace import Namespace

PORT = 7001
BLOCK = random.Random(7).randbytes(1 << 16)

# linux/udp.h and linux/in.h, in6.h, where Python has no name for it
UDP_SEGMENT = 103
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER = 10, 23
PMTUDISC_DONT, PMTUDISC_DO = 0, 2


def checksum_errors(*hosts: Namespace) -> int:
    """Packets, inner and outer, that a protocol of these hosts threw away for a wrong checksum."""
    count = 0
    for host in hosts:
        groups = snmp(host)
        count += sum(groups[name]["InCsumErrors"] for name in ("Tcp", "Udp", "Icmp"))
        count += groups["Ip"]["InHdrErrors"]
        count += sum(value for name, value in snmp6(host).items() if name.endswith("InCsumErrors"))
    return count


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Transfer:
    """A TCP stream from one host to another, both ends hashing it, in the background until it has `size` bytes.

    `pace` bytes a second at most; without a `size` it goes on until `finish`.
    """

    def __init__(
        self,
        source: Namespace,
        sink: Namespace,
        address: str,
        size: int | None = None,
        pace: int | None = None,
    ) -> None:
        family = family_of(address)
        self._size, self._pace = size, pace
        self._stop = threading.Event()
        self._sent, self._got = hashlib.sha256(), hashlib.sha256()
        self.received = 0
        self.error: OSError | None = None
        with sink.socket(family, socket.SOCK_STREAM) as server:
            server.bind((address, 0))
            server.listen(1)
            server.settimeout(30)
            self._client = source.socket(family, socket.SOCK_STREAM)
            self._client.settimeout(30)
            self._client.connect(server.getsockname()[:2])
            self._server, _ = server.accept()
        self._server.settimeout(90)
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def finish(self, timeout: float = 60.0) -> bool:
        """Let it end; whether all that was sent has arrived, unchanged."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout)
        done = not any(thread.is_alive() for thread in self._threads)
        for each in (self._client, self._server):
            each.close()
        return done and self.error is None and self._sent.digest() == self._got.digest()

    def _send(self) -> None:
        sent, began = 0, time.monotonic()
        try:
            while sent < self._size if self._size is not None else not self._stop.is_set():
                piece = BLOCK if self._size is None else BLOCK[: self._size - sent]
                piece = piece if self._pace is None else piece[: max(1, self._pace // 20)]
                self._client.sendall(piece)
                self._sent.update(piece)
                sent += len(piece)
                if self._pace is not None:
                    self._stop.wait(max(0.0, began + sent / self._pace - time.monotonic()))
            self._client.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.error = error
            self._client.close()

    def _receive(self) -> None:
        try:
            while chunk := self._server.recv(1 << 20):
                self._got.update(chunk)
                self.received += len(chunk)
        except OSError as error:
            self.error = error


def transfer(source: Namespace, sink: Namespace, address: str, size: int) -> bool:
    """Send `size` bytes over TCP; whether they arrived unchanged."""
    return Transfer(source, sink, address, size).finish()


class Arrival(NamedTuple):
    """One UDP datagram that came, with the DSCP and ECN byte of its IP header."""

    data: bytes
    tos: int

    @property
    def ecn(self) -> int:
        return self.tos & 3


class Sink:
    """A UDP socket on `host` that keeps what comes, in the order in which it came."""

    def __init__(self, host: Namespace, address: str, port: int = PORT) -> None:
        family = family_of(address)
        self.address = (address, port)
        self.arrivals: list[Arrival] = []
        self._socket = host.socket(family)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        if family == socket.AF_INET6:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        else:
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        self._socket.bind(self.address)
        self._socket.setblocking(False)

    def poll(self) -> int:
        """Take what has come; how many there are by now."""
        try:
            while True:
                data, ancillary, _, _ = self._socket.recvmsg(65_535, 64)
                tos = next((int.from_bytes(value, sys.byteorder) for _, _, value in ancillary), 0)
                self.arrivals.append(Arrival(data, tos))
        except BlockingIOError:
            return len(self.arrivals)

    def wait(self, count: int, timeout: float = 15.0) -> list[Arrival]:
        """Until `count` datagrams are there; what has come, which may be more."""
        wait_until(lambda: self.poll() >= count, f"{count} datagrams at {self.address}", timeout=timeout)
        return self.arrivals

    def close(self) -> None:
        self._socket.close()


@contextmanager
def sink(host: Namespace, address: str, port: int = PORT) -> Iterator[Sink]:
    made = Sink(host, address, port)
    try:
        yield made
    finally:
        made.close()


def payloads(count: int, size: int, seed: int = 1) -> list[bytes]:
    """Different datagrams of one size: a number, then noise."""
    dice = random.Random(seed)
    return [struct.pack(">II", seed, number) + dice.randbytes(size - 8) for number in range(count)]


def send_udp(
    source: Namespace,
    to: tuple[str, int],
    data: list[bytes],
    tos: int = 0,
    pace: float = 0.0,
    fragment: bool = False,
) -> None:
    """Send datagrams, `pace` seconds apart; with `fragment` the Don't Fragment bit stays clear (IPv4)."""
    family = family_of(to[0])
    with source.socket(family) as client:
        set_tos(client, tos)
        if fragment and family == socket.AF_INET:
            client.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DONT)
        for each in data:
            client.sendto(each, to)
            if pace:
                time.sleep(pace)


def send_udp_train(source: Namespace, to: tuple[str, int], data: list[bytes]) -> None:
    """Send datagrams of one size with one call, for the kernel to cut up (UDP_SEGMENT)."""
    with source.socket(family_of(to[0])) as client:
        client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, len(data[0]))
        client.sendto(b"".join(data), to)


class Flood:
    """UDP datagrams of 1,200 bytes at `mbit` Mbit/s from `source`, in the background until `stop`."""

    def __init__(self, source: Namespace, to: tuple[str, int], mbit: float) -> None:
        self._client = source.socket(family_of(to[0]))
        self._client.connect(to)
        self._rate = mbit * 1e6 / 8 / 1200
        self._stop = threading.Event()
        self._sent = 0
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """How many datagrams were sent."""
        self._stop.set()
        self._thread.join()
        self._client.close()
        return self._sent

    def _send(self) -> None:
        data, began = bytes(1200), time.monotonic()
        while not self._stop.wait(0.01):
            while self._sent < (time.monotonic() - began) * self._rate:
                self._client.send(data)
                self._sent += 1


def best_of(attempts: int, measure: Callable[[], float], enough: float) -> float:
    """The best of some measurements: others use this machine, and may spoil one. Ends with one that is `enough`."""
    best = measure()
    while best <= enough and (attempts := attempts - 1):
        best = max(best, measure())
    return best


def set_tos(client: socket.socket, tos: int) -> None:
    if client.family == socket.AF_INET6:
        client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
    else:
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)


class Tally:
    """Counts what passes through `router`, by name; each match is an nftables expression."""

    def __init__(self, router: Namespace, **matches: str) -> None:
        self._router = router
        counters = "".join(f"  counter {name} {{ }}\n" for name in matches)
        rules = "".join(f"    {match} counter name {name}\n" for name, match in matches.items())
        chain = f"  chain passing {{\n    type filter hook forward priority 0\n{rules}  }}\n"
        router.nft(
            f"add table inet tally\ndelete table inet tally\ntable inet tally {{\n{counters}{chain}}}\n"
        )

    def packets(self) -> dict[str, int]:
        """By name, since this object was made. A superpacket counts once: see Interface.set_superpackets."""
        listed = json.loads(
            self._router.run(["nft", "-j", "list", "counters", "table", "inet", "tally"]).stdout
        )
        counters = (each["counter"] for each in listed["nftables"] if "counter" in each)
        return {each["name"]: each["packets"] for each in counters}


def rewrite(router: Namespace, *rules: str) -> None:
    """Let nftables change what passes through `router`: the rules of a chain, none to end it."""
    body = "".join(f"    {rule}\n" for rule in rules)
    chain = f"  chain passing {{\n    type filter hook forward priority mangle\n{body}  }}\n" if rules else ""
    router.nft(f"add table inet rewrite\ndelete table inet rewrite\ntable inet rewrite {{\n{chain}}}\n")
