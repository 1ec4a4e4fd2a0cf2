"""One valid value and its bytes of every kind that the wire knows, for the tests that maul them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from meshnode.values import Capability, Endpoint, PeerId, Suite
from meshnode.wire import control, frames, handshake, header, ip, state, statement, token

KEY = bytes(range(32))
OTHER_KEY = bytes(range(32, 64))
ID = PeerId(bytes(range(16)))
NO_SIGNATURE = bytes(64)

GENESIS = statement.Genesis(KEY, 1_700_000_000, (bytes([10, 77, 0, 0]), 16), "home")
GRANT = statement.Grant(
    subject=OTHER_KEY,
    static=KEY,
    serial=7,
    not_before=1_700_000_000,
    not_after=1_800_000_000,
    roles=statement.Role.ADMIN | statement.Role.ROUTER,
    ipv4=bytes([10, 77, 0, 3]),
    name="office-2",
    prefixes=((bytes([192, 168, 4, 0]), 22), (bytes.fromhex("20010db8") + bytes(12), 32)),
)
BARE_GRANT = statement.Grant(OTHER_KEY, KEY, 0, 0, 0, statement.Role.NONE, None, "x")
REVOCATION = statement.Revocation(OTHER_KEY, 1_750_000_000)
SUCCESSION = statement.Succession(OTHER_KEY, 1_750_000_001)
RECORD = statement.Record(
    9, True, (1,), (Endpoint("192.0.2.7", 4655), Endpoint("2001:db8::7", 4655), Endpoint("10.0.0.1", 1))
)
BARE_RECORD = statement.Record(0, False, (), ())
BODIES: tuple[statement.Body, ...] = (
    GENESIS,
    GRANT,
    BARE_GRANT,
    REVOCATION,
    SUCCESSION,
    RECORD,
    BARE_RECORD,
)


def signed(body: statement.Body, signer: bytes = KEY) -> bytes:
    """A whole statement with a signature of zeroes."""
    return statement.pack_unsigned(body, signer) + NO_SIGNATURE


TOKEN = token.Token(
    KEY, OTHER_KEY, bytes(range(16)), 1_800_000_000, "home", ("home.example:4655", "[2001:db8::1]:4655")
)
INITIATION_PAYLOAD = handshake.InitiationPayload(
    1_700_000_000_000_000_001,
    3,
    Capability.ECN | Capability.RELAY,
    (Suite.AES_256_GCM, Suite.CHACHA20_POLY1305),
    (signed(GRANT), signed(BARE_GRANT)),
    bytes(range(16)),
)
BARE_INITIATION_PAYLOAD = handshake.InitiationPayload(0, 0, Capability.NONE, ())
RESPONSE_PAYLOAD = handshake.ResponsePayload(4, Capability.SEGMENT, Suite.AES_256_GCM)
INITIATION = handshake.Initiation(0xDEADBEEF, KEY, bytes(48), bytes(80))
RESPONSE = handshake.Response(1, 0xFFFFFFFF, KEY, bytes(25))
COOKIE = handshake.CookieReply(5, bytes(range(24)), OTHER_KEY)
MACS = bytes(32)

FRAMES = (
    frames.Probe(bytes(8), frames.ProbeMode.PATH_MTU, 1200),
    frames.Probe(bytes(range(8)), frames.ProbeMode.LIVENESS),
    frames.Echo(bytes(8), frames.ProbeMode.ECN, 3, 1228, Endpoint("192.0.2.1", 40000)),
    frames.Echo(bytes(8), frames.ProbeMode.LIVENESS, 0, 88, Endpoint("2001:db8::1", 1)),
    frames.Echo(bytes(8), frames.ProbeMode.LIVENESS, 0, 88, None),
    frames.Report(1, 2, 3, 4, 5, 6, -7, 8, 9),
    frames.Relay(ID, PeerId(bytes(16)), 2, 1, 0xFFFE, b"whatever"),
    frames.Fragment(1, 100, 1380, frames.FLAG_PARTIAL, bytes(200)),
    frames.Segment(3, 1220, bytes(60)),
)

CONTROLS: tuple[control.ControlMessage, ...] = (
    control.Redeem(bytes(16), KEY, NO_SIGNATURE, "laptop", True),
    control.EnrolledAnswer((signed(GENESIS), signed(GRANT))),
    control.Refused("used", "this invitation has been used"),
    control.Digest(bytes(16), 2**32 - 1),
    control.Statements((signed(RECORD), signed(REVOCATION))),
    control.GoodbyeMessage("the node stops"),
    control.Buckets((bytes(8),) * 64),
    control.Summary(31, (bytes(8), bytes(range(8)))),
    control.Want((bytes(range(8)),)),
    control.Punch((bytes.fromhex("04122fc0000201"),), False),
)

INVITATION = state.StoredInvitation(
    id=bytes(16),
    psk=KEY,
    redeem=OTHER_KEY,
    name="laptop",
    uses=2,
    expires=1_800_000_000,
    roles=1,
    prefixes=((bytes([10, 0, 0, 0]), 8), (bytes(16), 0)),
    valid_seconds=7_776_000,
    redeemed=((KEY, OTHER_KEY),),
)
BARE_INVITATION = state.StoredInvitation(bytes(16), KEY, OTHER_KEY, None, 1, 0, 0)
STATE = state.StoredState(
    genesis=signed(GENESIS),
    statements=(signed(GRANT), signed(REVOCATION)),
    records=(signed(RECORD),),
    invitations=(INVITATION, BARE_INVITATION),
    endpoints=((ID, (Endpoint("192.0.2.7", 4655), Endpoint("fe80::1%2", 4655))),),
    timestamps=((KEY, 1_700_000_000_000_000_001), (bytes(16), 1)),
    own_timestamp=2**63,
    serial=12,
)
BARE_STATE = state.StoredState(genesis=signed(GENESIS))

IPV4 = bytes.fromhex("45000020000100004011b6a90a4d00010a4d0002") + bytes.fromhex("0035003500 0c0000 61626364")
IPV6 = (
    bytes.fromhex("6000000000081140")
    + bytes.fromhex("fd" + "00" * 14 + "01")
    + bytes.fromhex("fd" + "00" * 14 + "02")
    + bytes.fromhex("0035003500080000")
)


class Sample(NamedTuple):
    """Valid bytes and their parser. `exact`: no shorter and no longer run of bytes is valid."""

    name: str
    parse: Callable[[bytes], Any]
    data: bytes
    exact: bool


def _parse_token(data: bytes) -> token.Token:
    return token.parse_token_untrusted(data.decode("latin-1"))


def _parse_frame(value: Any) -> Callable[[bytes], Any]:
    name = f"parse_{type(value).__name__.lower()}_untrusted"
    parser: Callable[[bytes], Any] = getattr(frames, name)
    return parser


def _finish_checksum(data: bytes) -> bytearray:
    ip.check_packet_untrusted(data)
    packet = bytearray(data)
    ip.finish_partial_checksum(packet)
    return packet


DATA = header.pack_data_header(header.FLAG_ECN, 0xABCD, 0x01020304, 2**64 - 1) + bytes(20)

SAMPLES = (
    Sample("message type", header.message_type_untrusted, DATA, False),
    Sample("data header", header.parse_data_header_untrusted, DATA, False),
    Sample("initiation", handshake.parse_initiation_untrusted, INITIATION.pack() + MACS, False),
    Sample("response", handshake.parse_response_untrusted, RESPONSE.pack() + MACS, False),
    Sample("cookie", handshake.parse_cookie_untrusted, COOKIE.pack(), True),
    Sample(
        "initiation payload", handshake.parse_initiation_payload_untrusted, INITIATION_PAYLOAD.pack(), False
    ),
    Sample("response payload", handshake.parse_response_payload_untrusted, RESPONSE_PAYLOAD.pack(), False),
    Sample(
        "frames",
        frames.split_frames_untrusted,
        frames.pack_transmit_time(1) + frames.pack_frame(1, IPV4) + frames.pack_frame(4, bytes(48)),
        False,
    ),
    *(Sample(f"frame {frame}", _parse_frame(frame), frame.pack(), False) for frame in FRAMES),
    *(
        Sample(f"control {message}", control.parse_control_untrusted, control.pack_control(message), True)
        for message in CONTROLS
    ),
    *(
        Sample(f"statement {body}", statement.parse_statement_untrusted, signed(body), True)
        for body in BODIES
    ),
    Sample("token", _parse_token, TOKEN.encode().encode(), True),
    Sample("ipv4", ip.check_packet_untrusted, IPV4, True),
    Sample("ipv6", ip.check_packet_untrusted, IPV6, True),
    Sample("partial checksum", _finish_checksum, IPV4, True),
    Sample("state", state.parse_state_untrusted, state.pack_state(STATE), True),
)
