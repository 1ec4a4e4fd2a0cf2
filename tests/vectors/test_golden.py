"""The golden datagrams: this program still builds them, understands them, and the page shows them.

The second half reads them with nothing but the standard library, the page and two ciphers, as another program would.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from nacl.signing import VerifyKey

from meshnode.crypto.noise import Responder
from meshnode.crypto.primitives import SODIUM, hash32
from meshnode.crypto.suites import Aead, aead, open_untrusted
from meshnode.values import Suite
from meshnode.wire import frames, handshake, header
from meshnode.wire.control import SCHEMA, Redeem, parse_control_untrusted
from meshnode.wire.frames import FrameType, split_frames_untrusted
from meshnode.wire.statement import parse_statement_untrusted
from meshnode.wire.token import parse_token_untrusted
from tests.vectors import golden

GOLDEN: dict[str, Any] = json.loads(golden.JSON.read_text())
MEMBER_DATA, JOINER_DATA, FOUNDER_DATA = GOLDEN["data"].values()


def derived(name: str) -> bytes:
    return bytes.fromhex(GOLDEN["derived"][name])


def datagram(name: str) -> bytes:
    return bytes.fromhex(GOLDEN["handshakes"][name])


# --- This program ------------------------------------------------------------------------------------------------


def test_this_program_still_builds_them() -> None:
    assert golden.build() == GOLDEN


def test_the_page_shows_them() -> None:
    _, heading, section = golden.PAGE.read_text().partition(golden.HEADING)
    assert heading + section == golden.render(GOLDEN)


def test_every_frame_and_every_control_message_is_there() -> None:
    names = " ".join(item["name"] for item in MEMBER_DATA + JOINER_DATA + FOUNDER_DATA)
    for kind in FrameType:
        assert kind.name.lower() in names
    for message, _ in SCHEMA.values():
        assert f"control: {message.__name__.removesuffix('Message').removesuffix('Answer').lower()}" in names


def opened(items: list[dict[str, str]], cipher: Aead) -> list[tuple[header.DataHeader, bytes]]:
    """Header and plaintext of each datagram, after the plaintext was compared."""
    result = []
    for counter, item in enumerate(items):
        data = bytes.fromhex(item["datagram"])
        assert header.message_type_untrusted(data) is header.MessageType.DATA
        head = header.parse_data_header_untrusted(data)
        assert head.counter == counter
        plaintext = open_untrusted(cipher, counter, data[:16], data[16:])
        assert plaintext.hex() == item["plaintext"]
        result.append((head, plaintext))
    return result


def test_data_opens_and_parses() -> None:
    parsers: dict[FrameType, Callable[[bytes], Any]] = {
        FrameType.PACKET: bytes,
        FrameType.PADDING: bytes,
        FrameType.CONTROL: parse_control_untrusted,
        FrameType.SEGMENT: frames.parse_segment_untrusted,
        FrameType.PROBE: frames.parse_probe_untrusted,
        FrameType.ECHO: frames.parse_echo_untrusted,
        FrameType.REPORT: frames.parse_report_untrusted,
        FrameType.RELAY: frames.parse_relay_untrusted,
        FrameType.FRAGMENT: frames.parse_fragment_untrusted,
    }
    cipher = aead(Suite.CHACHA20_POLY1305, derived("member data key"))
    for head, plaintext in opened(MEMBER_DATA, cipher):
        assert head.receiver_index == golden.INDICES["founder"]
        time, several = split_frames_untrusted(plaintext)
        assert time == golden.TRANSMIT_TIME
        for frame in several:
            value = parsers[FrameType(frame.type)](frame.body)
            assert value is not None
            if frame.type not in (FrameType.PACKET, FrameType.PADDING, FrameType.CONTROL):
                assert value.pack() == frame.body


def test_the_joiner_is_who_it_says() -> None:
    ((_, plaintext),) = opened(JOINER_DATA, aead(Suite.AES_256_GCM, derived("joiner data key")))
    _, (frame,) = split_frames_untrusted(plaintext)
    redeem = parse_control_untrusted(frame.body)
    assert isinstance(redeem, Redeem)
    covered = (
        b"meshnode redeem" + golden.NETWORK + derived("joiner static") + derived("joiner handshake hash")
    )
    assert SODIUM.verify(redeem.identity, redeem.signature, covered)
    assert redeem.secret == parse_token_untrusted(GOLDEN["token"]).secret


@pytest.mark.parametrize(
    ("name", "psk", "static"),
    [("initiation of the member", bytes(32), "member"), ("initiation of the joiner", None, "joiner")],
)
def test_the_founder_reads_the_initiations(name: str, psk: bytes | None, static: str) -> None:
    secret = bytes.fromhex(GOLDEN["inputs"]["founder static secret"])
    message = handshake.parse_initiation_untrusted(datagram(name))
    responder = Responder(SODIUM, handshake.prologue(golden.NETWORK), secret)
    remote, plaintext = responder.read_initiation_untrusted(
        message.ephemeral, message.sealed_static, message.sealed_payload
    )
    assert remote == derived(f"{static} static")
    payload = handshake.parse_initiation_payload_untrusted(plaintext)
    assert payload.timestamp == golden.TIMESTAMP
    assert [parse_statement_untrusted(grant).raw for grant in payload.grants] == list(payload.grants)
    assert (payload.invitation is None) == (psk is not None)


def test_an_answer_is_never_longer() -> None:
    for first, second in (
        ("initiation of the member", "response to it"),
        ("initiation of the joiner", "response to the joiner"),
        ("initiation of the joiner", "cookie reply to it"),
    ):
        assert len(datagram(second)) <= len(datagram(first)) <= handshake.MAX_INITIATION


# --- Another program, from the page alone ------------------------------------------------------------------------


def blake2s(data: bytes, size: int, key: bytes = b"") -> bytes:
    return hashlib.blake2s(data, digest_size=size, key=key).digest()


def test_identities_by_the_page() -> None:
    network = blake2s(b"meshnode network" + derived("root key"), 32)
    assert network == derived("network id")
    peer = blake2s(b"meshnode peer" + derived("member identity"), 16)
    assert peer == derived("member PeerId")
    interface = bytes([peer[0] & 0xFD]) + peer[1:8]
    assert derived("member link-local") == bytes.fromhex("fe80000000000000") + interface
    assert derived("member IPv6") == b"\xfd" + network[:5] + b"\0\0" + interface


def test_statements_by_the_page() -> None:
    assert [bytes.fromhex(raw)[0] for raw in GOLDEN["statements"].values()] == [1, 2, 2, 2, 3, 4, 16]
    for raw in map(bytes.fromhex, GOLDEN["statements"].values()):
        _, length = struct.unpack(">BH", raw[:3])
        signer, signature = raw[3 + length : 35 + length], raw[35 + length :]
        covered = b"meshnode statement" + derived("network id") + raw[:-64]
        assert VerifyKey(signer).verify(covered, signature) == covered


def test_macs_and_cookie_by_the_page() -> None:
    key = blake2s(b"meshnode mac1" + derived("network id") + derived("founder static"), 32)
    plain, with_cookie = datagram("initiation of the member"), datagram("the same initiation with a cookie")
    assert plain[-32:-16] == blake2s(plain[:-32], 16, key) == with_cookie[-32:-16]
    assert plain[-16:] == bytes(16)
    path = b"\x01" + bytes([192, 0, 2, 2]) + (4655).to_bytes(2, "big")
    cookie = blake2s(path, 16, bytes.fromhex(GOLDEN["inputs"]["cookie secret"]))
    assert cookie == derived("cookie")
    assert with_cookie[-16:] == blake2s(with_cookie[:-16], 16, cookie)
    reply = datagram("cookie reply to it")
    assert len(reply) == 64
    assert reply[:8] == b"\x03\x01\0\0" + plain[4:8]
    cookie_key = hash32(b"meshnode cookie", derived("network id"), derived("founder static"))
    assert SODIUM.xopen_untrusted(cookie_key, reply[8:32], plain[-32:-16], reply[32:]) == cookie


def test_data_by_the_page() -> None:
    suites: list[tuple[list[dict[str, str]], str, Any]] = [
        (MEMBER_DATA, "member data key", ChaCha20Poly1305),
        (JOINER_DATA, "joiner data key", AESGCM),
        (FOUNDER_DATA, "founder to joiner data key", AESGCM),
    ]
    for items, key, cipher in suites:
        for item in items:
            data, plaintext = bytes.fromhex(item["datagram"]), bytes.fromhex(item["plaintext"])
            kind, flags, _, _, counter = struct.unpack(">BBHIQ", data[:16])
            assert (kind, flags) == (4, 1)
            sealed = cipher(derived(key)).encrypt(bytes(4) + struct.pack(">Q", counter), plaintext, data[:16])
            assert data[16:] == sealed
            assert plaintext[:4] == b"\1\2\3\4"
            position = 4
            while position < len(plaintext):
                position += 4 + int.from_bytes(plaintext[position + 2 : position + 4], "big")
            assert position == len(plaintext)
