"""Builds the golden datagrams from fixed keys. `python -m tests.vectors.golden` writes golden.json and the page.

Everything that is random in a node is a repeated byte here, so that another program can build the same bytes. The test
beside it builds them anew, opens and parses them, and holds the section of docs/protocol.md against them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple, Protocol

from meshnode.crypto.noise import Initiator, Responder
from meshnode.crypto.primitives import SODIUM, hash32, keyed_hash, short_hash
from meshnode.crypto.suites import aead, data_key, seal
from meshnode.values import Capability, Endpoint, PathKind, Prefix, Suite
from meshnode.values import Path as NetworkPath
from meshnode.wire import address, frames, handshake, header, statement
from meshnode.wire.control import ControlMessage, EnrolledAnswer, Redeem, pack_control
from meshnode.wire.frames import FLAG_PARTIAL, FrameType, pack_frame
from meshnode.wire.token import Token
from tests.unit.wire import samples

JSON = Path(__file__).with_name("golden.json")
PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
HEADING = "## 7. Golden datagrams\n"

SECOND = 1_700_000_000
TIMESTAMP = SECOND * 10**9
NO_PSK = bytes(32)


def repeat(byte: int, size: int = 32) -> bytes:
    return bytes([byte]) * size


class Person(NamedTuple):
    """A node: the seed of its identity and its static secret."""

    identity_seed: bytes
    static_secret: bytes

    @property
    def identity(self) -> bytes:
        return SODIUM.identity_key(self.identity_seed)

    @property
    def static(self) -> bytes:
        return SODIUM.public_key(self.static_secret)


ROOT_SEED = repeat(1)
ROOT = SODIUM.identity_key(ROOT_SEED)
FOUNDER = Person(repeat(2), repeat(3))
MEMBER = Person(repeat(4), repeat(5))
JOINER = Person(repeat(6), repeat(7))
PEOPLE = {"founder": FOUNDER, "member": MEMBER, "joiner": JOINER}
NETWORK = address.network_id(ROOT)
SECRET = repeat(8, 16)
COOKIE_SECRET, COOKIE_NONCE = repeat(9), repeat(10, 24)
EPHEMERALS = {
    "member": repeat(11),
    "founder": repeat(12),
    "joiner": repeat(13),
    "founder to joiner": repeat(14),
}
MEMBER_PATH = NetworkPath(PathKind.UDP, Endpoint("192.0.2.2", 4655))
INDICES = {"member": 0x11111111, "founder": 0x22222222, "joiner": 0x33333333, "founder to joiner": 0x44444444}
EVERYTHING = Capability(31)


# --- Statements ------------------------------------------------------------------------------------------------


def signed(body: statement.Body, seed: bytes) -> bytes:
    unsigned = statement.pack_unsigned(body, SODIUM.identity_key(seed))
    return unsigned + SODIUM.sign(seed, statement.to_be_signed(NETWORK, unsigned))


def grant(
    person: Person, serial: int, roles: statement.Role, host: int, name: str, *prefixes: Prefix
) -> statement.Grant:
    ipv4 = bytes([10, 77, 0, host])
    return statement.Grant(person.identity, person.static, serial, SECOND, 0, roles, ipv4, name, prefixes)


def statements() -> dict[str, bytes]:
    """Whole statements by name."""
    role, subnet = statement.Role, (bytes([192, 168, 1, 0]), 24)
    endpoints = (Endpoint("192.0.2.2", 4655), Endpoint("2001:db8::2", 4655))
    return {
        "genesis": signed(statement.Genesis(ROOT, SECOND, (bytes([10, 77, 0, 0]), 16), "home"), ROOT_SEED),
        "grant of the founder": signed(grant(FOUNDER, 1, role.ADMIN | role.ROUTER, 1, "founder"), ROOT_SEED),
        "grant of the member": signed(
            grant(MEMBER, 2, role.NONE, 2, "member", subnet), FOUNDER.identity_seed
        ),
        "grant of the joiner": signed(grant(JOINER, 3, role.NONE, 3, "laptop"), FOUNDER.identity_seed),
        "revocation": signed(statement.Revocation(MEMBER.identity, SECOND + 1), ROOT_SEED),
        "succession": signed(statement.Succession(FOUNDER.identity, SECOND + 2), ROOT_SEED),
        "record": signed(statement.Record(1, True, (1,), endpoints), MEMBER.identity_seed),
    }


def token() -> str:
    return Token(NETWORK, FOUNDER.static, SECRET, SECOND + 604_800, "home", ("192.0.2.1:4655",)).encode()


# --- Handshakes ------------------------------------------------------------------------------------------------


class Exchange(NamedTuple):
    """One handshake: both datagrams, and the data keys from the initiator and from the responder."""

    initiation: bytes
    response: bytes
    hash: bytes
    suite: Suite
    forth: bytes
    back: bytes


def with_macs(body: bytes, receiver: bytes, cookie: bytes | None = None) -> bytes:
    """mac1 for the owner of the static key `receiver`; mac2 is zero without a cookie."""
    mac1 = keyed_hash(hash32(b"meshnode mac1", NETWORK, receiver), body, 16)
    return body + mac1 + (bytes(16) if cookie is None else keyed_hash(cookie, body + mac1, 16))


def exchange(
    name: str, person: Person, payload: handshake.InitiationPayload, psk: bytes, suite: Suite
) -> Exchange:
    """`person` and the founder shake hands."""
    answer = "founder" if name == "member" else f"founder to {name}"
    initiator = Initiator(
        SODIUM, handshake.prologue(NETWORK), person.static_secret, FOUNDER.static, EPHEMERALS[name]
    )
    responder = Responder(SODIUM, handshake.prologue(NETWORK), FOUNDER.static_secret)
    first = initiator.write_initiation(payload.pack())
    responder.read_initiation_untrusted(*first)
    choice = handshake.ResponsePayload(0, EVERYTHING, suite)
    second = responder.write_response(choice.pack(), psk, EPHEMERALS[answer])
    initiator.read_response_untrusted(*second, psk)
    initiation = handshake.Initiation(INDICES[name], *first).pack()
    response = handshake.Response(INDICES[answer], INDICES[name], *second).pack()
    forth, back = (data_key(key, suite, initiator.hash) for key in initiator.split())
    return Exchange(
        with_macs(initiation, FOUNDER.static),
        with_macs(response, person.static),
        initiator.hash,
        suite,
        forth,
        back,
    )


def member_exchange() -> Exchange:
    known = statements()
    chain = (known["grant of the member"], known["grant of the founder"])
    payload = handshake.InitiationPayload(
        TIMESTAMP, 0, EVERYTHING, (Suite.CHACHA20_POLY1305, Suite.AES_256_GCM), chain
    )
    return exchange("member", MEMBER, payload, NO_PSK, Suite.CHACHA20_POLY1305)


def joiner_exchange() -> Exchange:
    payload = handshake.InitiationPayload(
        TIMESTAMP,
        0,
        EVERYTHING,
        (Suite.AES_256_GCM, Suite.CHACHA20_POLY1305),
        invitation=short_hash(b"id", SECRET),
    )
    return exchange("joiner", JOINER, payload, hash32(b"psk", SECRET), Suite.AES_256_GCM)


def cookie() -> bytes:
    """The cookie of the member's path."""
    return keyed_hash(COOKIE_SECRET, address.encode_path(MEMBER_PATH), 16)


def cookie_reply(initiation: bytes) -> bytes:
    key = hash32(b"meshnode cookie", NETWORK, FOUNDER.static)
    mac1 = initiation[-32:-16]
    sealed = SODIUM.xseal(key, COOKIE_NONCE, mac1, cookie())
    return handshake.CookieReply(INDICES["member"], COOKIE_NONCE, sealed).pack()


# --- Data ------------------------------------------------------------------------------------------------


class Plain(NamedTuple):
    """What one data datagram carries, before it is sealed."""

    name: str
    tag: int
    frames: bytes


TRANSMIT_TIME = 0x01020304
TOKEN = repeat(0x55, 8)
HEADER, PAYLOAD = samples.IPV4[:28], samples.IPV4[28:]
PROBE = frames.Probe(TOKEN, frames.ProbeMode.LIVENESS)
ECHO = frames.Echo(TOKEN, frames.ProbeMode.LIVENESS, 2, 120, Endpoint("192.0.2.1", 4655))


def member_frames() -> list[Plain]:
    """Every kind of frame, and every control message but those of enrolment, from the member to the founder."""
    packet, ours, theirs = samples.IPV4, address.peer_id(MEMBER.identity), address.peer_id(JOINER.identity)
    relayed = frames.Relay(ours, theirs, 3, 2, 0x1234, b"a whole sealed datagram")
    over_ipv6 = replace(ECHO, seen=Endpoint("2001:db8::1", 4655))
    return [
        Plain("keepalive", header.CONTROL_TAG, b""),
        Plain("padding", header.CONTROL_TAG, pack_frame(FrameType.PADDING, bytes(7))),
        Plain("packet", 0x1234, pack_frame(FrameType.PACKET, samples.IPV6)),
        Plain("packet, checksum partial", 0x1234, pack_frame(FrameType.PACKET, packet, FLAG_PARTIAL)),
        Plain("packets of sparse flows", header.SPARSE_TAG, 2 * pack_frame(FrameType.PACKET, packet)),
        frame("segment", FrameType.SEGMENT, frames.Segment(1, 2, HEADER + PAYLOAD[2:]), 0x1234),
        frame("fragment", FrameType.FRAGMENT, frames.Fragment(7, 16, 32, 0, packet[16:]), header.UNTAGGED),
        frame("probe", FrameType.PROBE, PROBE),
        frame("echo", FrameType.ECHO, ECHO),
        frame("echo, seen over IPv6", FrameType.ECHO, over_ipv6),
        frame("echo, seen through a relay", FrameType.ECHO, replace(ECHO, seen=None)),
        frame("report", FrameType.REPORT, frames.Report(1, 2, 3, 4, 5, 6, -7, 8, 9)),
        frame("relay", FrameType.RELAY, relayed, 0x1234),
        *(message(kind) for kind in samples.CONTROLS if not isinstance(kind, Redeem | EnrolledAnswer)),
    ]


def joiner_frames(handshake_hash: bytes) -> list[Plain]:
    """What a joiner says first."""
    covered = b"meshnode redeem" + NETWORK + JOINER.static + handshake_hash
    signature = SODIUM.sign(JOINER.identity_seed, covered)
    return [message(Redeem(SECRET, JOINER.identity, signature, "laptop", False))]


def founder_frames() -> list[Plain]:
    """What the joiner is answered."""
    known = statements()
    chain = (known["genesis"], known["grant of the joiner"], known["grant of the founder"])
    return [message(EnrolledAnswer(chain))]


class Body(Protocol):
    """The body of a frame."""

    def pack(self) -> bytes: ...


def frame(name: str, kind: FrameType, body: Body, tag: int = header.CONTROL_TAG) -> Plain:
    return Plain(name, tag, pack_frame(kind, body.pack()))


def message(value: ControlMessage) -> Plain:
    kind = type(value).__name__.removesuffix("Message").removesuffix("Answer").lower()
    return Plain(f"control: {kind}", header.CONTROL_TAG, pack_frame(FrameType.CONTROL, pack_control(value)))


def sealed(items: list[Plain], suite: Suite, key: bytes, receiver: int) -> Iterator[dict[str, str]]:
    """The datagrams of one direction, with counters from 0 on."""
    cipher = aead(suite, key)
    for counter, item in enumerate(items):
        head = header.pack_data_header(header.FLAG_ECN, item.tag, receiver, counter)
        plaintext = frames.pack_transmit_time(TRANSMIT_TIME) + item.frames
        datagram = head + seal(cipher, counter, head, plaintext)
        yield {"name": item.name, "plaintext": plaintext.hex(), "datagram": datagram.hex()}


# --- All of it -------------------------------------------------------------------------------------------


def build() -> dict[str, Any]:
    """Everything that golden.json holds, bytes in hexadecimal."""
    member, joiner = member_exchange(), joiner_exchange()
    first = member.initiation
    return {
        "inputs": {
            "root seed": ROOT_SEED.hex(),
            **{f"{name} identity seed": person.identity_seed.hex() for name, person in PEOPLE.items()},
            **{f"{name} static secret": person.static_secret.hex() for name, person in PEOPLE.items()},
            **{f"{name} ephemeral secret": secret.hex() for name, secret in EPHEMERALS.items()},
            "token secret": SECRET.hex(),
            "cookie secret": COOKIE_SECRET.hex(),
            "cookie nonce": COOKIE_NONCE.hex(),
        },
        "derived": {
            "root key": ROOT.hex(),
            "network id": NETWORK.hex(),
            **{f"{name} identity": person.identity.hex() for name, person in PEOPLE.items()},
            **{f"{name} static": person.static.hex() for name, person in PEOPLE.items()},
            **{f"{name} PeerId": address.peer_id(person.identity).hex() for name, person in PEOPLE.items()},
            "member link-local": address.link_local(address.peer_id(MEMBER.identity)).hex(),
            "member IPv6": address.unique_local(NETWORK, address.peer_id(MEMBER.identity)).hex(),
            "cookie": cookie().hex(),
            "member handshake hash": member.hash.hex(),
            "member data key": member.forth.hex(),
            "joiner handshake hash": joiner.hash.hex(),
            "joiner data key": joiner.forth.hex(),
            "founder to joiner data key": joiner.back.hex(),
        },
        "token": token(),
        "statements": {name: raw.hex() for name, raw in statements().items()},
        "handshakes": {
            "initiation of the member": first.hex(),
            "cookie reply to it": cookie_reply(first).hex(),
            "the same initiation with a cookie": with_macs(first[:-32], FOUNDER.static, cookie()).hex(),
            "response to it": member.response.hex(),
            "initiation of the joiner": joiner.initiation.hex(),
            "response to the joiner": joiner.response.hex(),
        },
        "data": {
            "member to founder": [*sealed(member_frames(), member.suite, member.forth, INDICES["founder"])],
            "joiner to founder": [
                *sealed(joiner_frames(joiner.hash), joiner.suite, joiner.forth, INDICES["founder to joiner"])
            ],
            "founder to joiner": [*sealed(founder_frames(), joiner.suite, joiner.back, INDICES["joiner"])],
        },
    }


def render(golden: dict[str, Any]) -> str:
    """The section of the page."""
    short = {title: short_lines(golden[title]) for title in ("inputs", "derived")}
    long = {title: long_lines(golden[title].items()) for title in ("statements", "handshakes")}
    long["statements"] += ["token", *indented(golden["token"])]
    data = {
        title: long_lines((item["name"], item[part]) for item in items for part in ("plaintext", "datagram"))
        for title, items in golden["data"].items()
    }
    sections = {**short, **long, **data}
    return f"{HEADING}\n{PREFACE}\n" + "\n".join(
        f"### {title.capitalize()}\n\n{EXPLAINED[title]}\n\n```\n" + "\n".join(lines) + "\n```\n"
        for title, lines in sections.items()
    )


def short_lines(items: dict[str, str]) -> list[str]:
    """One line each."""
    return [f"{name:36}{value}" for name, value in items.items()]


def long_lines(items: Iterable[tuple[str, str]]) -> list[str]:
    """A name, and its bytes below it. A name that comes twice in a row is said once."""
    lines: list[str] = []
    last = ""
    for name, value in items:
        lines += [name] if name != last else [""]
        lines += indented(value)
        last = name
    return lines


def indented(value: str) -> list[str]:
    """At most 112 characters a line, 56 bytes of hexadecimal."""
    return ["  " + line for line in wrap(value, 112, break_on_hyphens=False)]


PREFACE = """\
Built by `tests/vectors/golden.py`, with repeated bytes for all that is random, and checked by the test beside it, which
builds, opens and parses them and compares this section. After a change of the protocol `python -m tests.vectors.golden`
writes it anew. All is hexadecimal but the token.
"""
EXPLAINED = {
    "inputs": "Ed25519 seeds and X25519 secrets. The founder has two ephemeral secrets, one for each who initiates.",
    "derived": "The data keys are the sender's. The cookie is for UDP from 192.0.2.2 port 4655.",
    "statements": "All of 1,700,000,000 s or a second or two later; the token expires after a week.",
    "handshakes": "Timestamps are 1.7e18 ns, the member's psk is zero. The joiner gets suite 2, the member suite 1.",
    "member to founder": "Suite 1. Plaintext, then datagram. The transmit time is 01020304, counters go up from 0.",
    "joiner to founder": "Suite 2.",
    "founder to joiner": "Suite 2.",
}


def main() -> None:
    """Write golden.json and the section of the page, which is its last."""
    golden = build()
    JSON.write_text(json.dumps(golden, indent=1) + "\n")
    before, _, _ = PAGE.read_text().partition(HEADING)
    PAGE.write_text(before.rstrip("\n") + "\n\n" + render(golden))


if __name__ == "__main__":
    main()
