"""A program for tests: says hostile things on multicast DNS from the given address, "once" or "for-ever"."""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Iterator

GROUP = ("224.0.0.251", 5353)
TYPE = "_meshnode._udp.local"
PTR, A, TXT, SRV, IN, FLUSH, TTL = 12, 1, 16, 33, 1, 0x8001, 4500


def name(text: str | list[bytes]) -> bytes:
    labels = [label.encode() for label in text.split(".")] if isinstance(text, str) else text
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def record(owner: bytes, kind: int, data: bytes, klass: int = FLUSH) -> bytes:
    return owner + struct.pack(">HHIH", kind, klass, TTL, len(data)) + data


def response(*records: bytes) -> bytes:
    return struct.pack(">HHHHHH", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def service(instance: bytes, txt: bytes, port: int = 4655, target: bytes = b"x") -> bytes:
    full, host = bytes([len(instance)]) + instance + name(TYPE), name([target, b"local"])
    return response(
        record(name(TYPE), PTR, full, IN),
        record(full, SRV, struct.pack(">HHH", 0, 0, port) + host),
        record(full, TXT, txt),
        record(host, A, socket.inet_aton("198.51.100.1")),
    )


def words() -> Iterator[bytes]:
    huge = b"".join(bytes([255]) + b"n=" + b"x" * 253 for _ in range(25))
    for _ in range(500):
        label = os.urandom(8).hex().encode()
        yield service(label, b"\x09txtvers=1\x04v=1\0", target=label)
    yield service(b"huge", huge)
    yield service(b"empty", b"")
    yield service(b"torn", b"\xffn=x")
    yield service(b"\xff\xfe\x00\x1b[2J", b"\x02n=")
    yield service(b"dots.and spaces", b"\x01n\x02id\x03p=x")
    yield service(b"zero", b"\x03p=0", port=0)
    yield response(record(name(TYPE), PTR, name("elsewhere.example"), IN))
    yield response(record(name(TYPE), PTR, name(TYPE), IN))
    yield response(record(name(TYPE), PTR, b"\xc0\x0c", IN))
    yield response(record(name(TYPE), PTR, b"\xc0\xff", IN))
    yield response(record(name(f"half.{TYPE}"), SRV, b"\0", FLUSH))
    for size in (0, 1, 11, 12, 13, 600, 8000):
        yield os.urandom(size)
        yield response(*[b""] * 3) + os.urandom(size)


def main(address: str, how_often: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as speaker:
        speaker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        speaker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        speaker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        speaker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        speaker.bind((address, 5353))
        while True:
            for word in words():
                speaker.sendto(word, GROUP)
                time.sleep(0.0002)  # or the switch drops most of it
            print("said it all", flush=True)
            if how_often == "once":
                return


main(*sys.argv[1:])
