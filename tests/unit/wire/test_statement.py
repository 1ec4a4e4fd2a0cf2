"""Statements and records: layouts, limits, and what is signed."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.values import BadPacket, Endpoint, Prefix
from meshnode.wire.statement import (
    MAX_ENDPOINTS,
    MAX_PREFIXES,
    MAX_STATEMENT,
    MAX_VERSIONS,
    Body,
    Genesis,
    Grant,
    Record,
    Revocation,
    Role,
    Succession,
    pack_unsigned,
    parse_statement_untrusted,
    to_be_signed,
    valid_name,
)
from tests.unit.wire.samples import (
    BARE_GRANT,
    BODIES,
    GENESIS,
    GRANT,
    KEY,
    NO_SIGNATURE,
    OTHER_KEY,
    RECORD,
    REVOCATION,
    signed,
)

keys, u8 = st.binary(min_size=32, max_size=32), st.integers(0, 255)
u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)


def networks(size: int) -> st.SearchStrategy[Prefix]:
    """Prefixes of addresses of `size` bytes, host bits zero."""

    def prefix(address: int, length: int) -> Prefix:
        host_bits = 8 * size - length
        return (address >> host_bits << host_bits).to_bytes(size, "big"), length

    return st.builds(prefix, st.integers(0, 2 ** (8 * size) - 1), st.integers(0, 8 * size))


endpoints = st.builds(Endpoint, st.ip_addresses(v=4).map(str), st.integers(1, 0xFFFF))
bodies: st.SearchStrategy[Body] = st.one_of(
    st.builds(Genesis, st.just(KEY), u64, networks(4), names),
    st.builds(
        Grant,
        keys,
        keys,
        u32,
        u64,
        u64,
        st.integers(0, 3).map(Role),
        st.none() | st.binary(min_size=4, max_size=4).filter(any),
        names,
        st.lists(networks(4) | networks(16), max_size=MAX_PREFIXES).map(tuple),
    ),
    st.builds(Revocation, keys, u64),
    st.builds(Succession, keys, u64),
    st.builds(
        Record,
        u64,
        st.booleans(),
        st.lists(u8, max_size=MAX_VERSIONS).map(tuple),
        st.lists(endpoints, max_size=MAX_ENDPOINTS).map(tuple),
    ),
)


@settings(max_examples=100, deadline=None)
@given(body=bodies, signature=st.binary(min_size=64, max_size=64))
def test_statements_come_back(body: Body, signature: bytes) -> None:
    raw = pack_unsigned(body, KEY) + signature
    parsed = parse_statement_untrusted(raw)
    assert (parsed.body, parsed.signer, parsed.signature, parsed.raw) == (body, KEY, signature, raw)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_samples_come_back(body: Body) -> None:
    assert parse_statement_untrusted(signed(body)).body == body


def test_a_layout_by_hand() -> None:
    body = bytes([2, 0, 107]) + OTHER_KEY + KEY + bytes(4 + 8 + 8 + 1 + 4) + b"\x01x" + b"\0"
    assert pack_unsigned(BARE_GRANT, KEY)[3:] == body[3:] + KEY
    assert pack_unsigned(BARE_GRANT, KEY)[:3] == bytes([2, 0, len(body) - 3])
    assert (
        pack_unsigned(REVOCATION, KEY) == b"\x03\0\x28" + OTHER_KEY + (1_750_000_000).to_bytes(8, "big") + KEY
    )


def test_hash_and_signed_bytes() -> None:
    raw = signed(GRANT)
    parsed = parse_statement_untrusted(raw)
    assert parsed.hash == hashlib.blake2s(raw, digest_size=16).digest()
    assert parsed.signed_bytes(OTHER_KEY) == b"meshnode statement" + OTHER_KEY + raw[:-64]
    assert parsed.signed_bytes(KEY) == to_be_signed(KEY, pack_unsigned(GRANT, KEY))


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_a_tail_of_newer_fields_is_signed_kept_and_ignored(body: Body) -> None:
    raw = signed(body)
    length = int.from_bytes(raw[1:3], "big")
    longer = raw[:1] + (length + 5).to_bytes(2, "big") + raw[3 : 3 + length] + b"newer" + raw[3 + length :]
    parsed = parse_statement_untrusted(longer)
    assert parsed.body == body
    assert parsed.raw == longer
    assert b"newer" in parsed.signed_bytes(KEY)


def spoiled(body: Body, position: int, value: bytes) -> bytes:
    """The sample with other bytes from `position` of its body on."""
    raw = signed(body)
    return raw[: 3 + position] + value + raw[3 + position + len(value) :]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (bytes(MAX_STATEMENT + 1), "statement length"),
        (signed(GRANT) + b"\0", "statement length"),
        (b"\0" + signed(GRANT)[1:], "statement kind"),
        (b"\x05" + signed(REVOCATION)[1:], "statement kind"),
        (b"\xff" + signed(REVOCATION)[1:], "statement kind"),
        (signed(GENESIS)[:-96] + OTHER_KEY + NO_SIGNATURE, "genesis signer"),
        (spoiled(GENESIS, 44, b"\x21"), "statement prefix"),  # /33
        (spoiled(GENESIS, 44, b"\x08"), "statement prefix"),  # 10.77.0.0/8 has host bits
        (spoiled(GENESIS, 46, b"/"), "statement name"),
        (spoiled(GENESIS, 46, b".home"), "statement name"),
        (spoiled(GENESIS, 46, b"h\0me"), "statement name"),
        (spoiled(GENESIS, 46, b"h\xf6me"), "statement name"),
        (spoiled(GENESIS, 45, b"\0"), "statement name"),
        (spoiled(GRANT, 98, b"\x09"), "statement list"),  # prefixes
        (spoiled(GRANT, 99, b"\x21"), "statement prefix"),
        (spoiled(GRANT, 100, b"\x05"), "address family"),
        (spoiled(RECORD, 9, b"\x11"), "statement list"),  # versions
        (spoiled(RECORD, 11, b"\x11"), "statement list"),  # endpoints
        (spoiled(RECORD, 12, b"\0"), "address family"),  # 0 is for echoes
        (spoiled(RECORD, 13, b"\0\0"), "port"),
    ],
)
def test_statements_that_are_against_the_rules(raw: bytes, reason: str) -> None:
    with pytest.raises(BadPacket, match=reason):
        parse_statement_untrusted(raw)


def test_unknown_roles_and_flags_are_not_shown() -> None:
    grant = parse_statement_untrusted(spoiled(GRANT, 84, b"\xff")).body
    assert isinstance(grant, Grant)
    assert grant.roles == Role.ADMIN | Role.ROUTER
    record = parse_statement_untrusted(spoiled(RECORD, 8, b"\xfe")).body
    assert isinstance(record, Record)
    assert record.relays is False


@pytest.mark.parametrize(
    ("body", "signer"),
    [
        (Genesis(KEY, 0, (bytes(4), 0), "no blanks"), KEY),
        (Genesis(KEY, 0, (bytes(4), 0), "ä"), KEY),
        (Genesis(KEY, 0, (bytes(4), 0), ""), KEY),
        (Genesis(KEY, 0, (bytes([10, 0, 0, 1]), 8), "home"), KEY),
        (Genesis(KEY, 0, (bytes(4), 0), "home"), OTHER_KEY),
        (Genesis(KEY, -1, (bytes(4), 0), "home"), KEY),
        (Genesis(KEY, 0, (bytes(4), 300), "home"), KEY),
        (Revocation(KEY, 2**64), KEY),
        (Revocation(KEY, 0), KEY[1:]),
        (Grant(KEY, KEY, 0, 0, 0, Role.NONE, None, "x", ((bytes(4), 300),)), KEY),
        (Grant(KEY, KEY, 0, 0, 0, Role.NONE, None, "x", ((bytes(4), 0),) * 9), KEY),
        (Grant(KEY, KEY, 0, 0, 0, Role.NONE, None, "x" * 300), KEY),
        (Record(0, True, (1,) * 17, ()), KEY),
        (Record(0, True, (), (Endpoint("10.0.0.1", 1),) * 17), KEY),
        (Record(0, True, (), (Endpoint("10.0.0.1", 0),)), KEY),
        (Record(0, True, (), (Endpoint("10.0.0.1", 70000),)), KEY),
        (Record(0, True, (), (Endpoint("host.example", 1),)), KEY),
    ],
)
def test_nothing_is_signed_that_others_would_refuse(body: Body, signer: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        pack_unsigned(body, signer)


def test_the_greatest_statement() -> None:
    def longest(endpoints: tuple[Endpoint, ...]) -> bytes:
        return signed(Record(2**64 - 1, True, tuple(range(MAX_VERSIONS)), endpoints))

    assert len(longest((Endpoint("2001:db8::1", 1),) * MAX_ENDPOINTS)) <= MAX_STATEMENT
    prefixes = tuple((bytes(16), 0) for _ in range(MAX_PREFIXES))
    grant = Grant(KEY, KEY, 1, 1, 1, Role.ADMIN, bytes([1] * 4), "x" * 63, prefixes)
    assert len(signed(grant)) <= MAX_STATEMENT


@pytest.mark.parametrize("name", ["a", "A", "9", "a" * 63, "a.b_c-d", "0--", "x." * 31])
def test_good_names(name: str) -> None:
    assert valid_name(name)


@pytest.mark.parametrize(
    "name", ["", ".a", "-a", "_a", "a" * 64, "a b", "a/b", "a\n", "\na", "ä", "٣", "a\0", "..", "a%b"]
)
def test_bad_names(name: str) -> None:
    assert not valid_name(name)


def test_what_is_kept_of_a_view_is_a_copy() -> None:
    buffer = bytearray(signed(GRANT))
    parsed = parse_statement_untrusted(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert parsed.raw == signed(GRANT)
