"""The stored state: it comes back, and a disk that lies is noticed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.values import BadPacket, Endpoint, PeerId
from meshnode.wire import schema, state
from meshnode.wire.state import (
    MAX_STATE,
    STATE_VERSION,
    StoredInvitation,
    StoredState,
    pack_state,
    parse_state_untrusted,
)
from meshnode.wire.statement import Role
from tests.unit.wire.samples import BARE_INVITATION, BARE_STATE, ID, INVITATION, KEY, STATE

statements = st.lists(st.binary(min_size=99, max_size=512), max_size=3).map(tuple)
endpoints = st.builds(Endpoint, st.ip_addresses(v=4).map(str), st.integers(1, 0xFFFF))
u64 = st.integers(0, 2**64 - 1)


@settings(max_examples=50, deadline=None)
@given(
    stored=st.builds(
        StoredState,
        st.binary(min_size=99, max_size=512),
        statements,
        statements,
        st.lists(st.sampled_from([INVITATION, BARE_INVITATION]), max_size=2).map(tuple),
        st.lists(
            st.tuples(
                st.binary(min_size=16, max_size=16).map(PeerId), st.lists(endpoints, max_size=3).map(tuple)
            ),
            max_size=3,
        ).map(tuple),
        st.lists(st.tuples(st.binary(min_size=32, max_size=32), u64), max_size=3).map(tuple),
        u64,
        st.integers(0, 2**32 - 1),
    )
)
def test_states_come_back(stored: StoredState) -> None:
    assert parse_state_untrusted(pack_state(stored)) == stored


@pytest.mark.parametrize("stored", [STATE, BARE_STATE])
def test_samples_come_back(stored: StoredState) -> None:
    again = parse_state_untrusted(pack_state(stored))
    assert again == stored
    assert all(isinstance(endpoint, Endpoint) for _, known in again.endpoints for endpoint in known)


def test_roles_are_stored_as_a_number() -> None:
    stored = replace(BARE_STATE, invitations=(replace(INVITATION, roles=Role.ADMIN),))
    (again,) = parse_state_untrusted(pack_state(stored)).invitations
    assert type(again.roles) is int


def test_a_torn_file_is_noticed() -> None:
    data = pack_state(STATE)
    for length in range(len(data)):
        with pytest.raises(BadPacket, match="state damaged"):
            parse_state_untrusted(data[:length])
    with pytest.raises(BadPacket, match="state damaged"):
        parse_state_untrusted(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BadPacket, match="state damaged"):
        parse_state_untrusted(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def test_a_file_of_any_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pack_state(STATE)
    monkeypatch.setattr(state, "MAX_STATE", len(data) - 1)
    with pytest.raises(BadPacket, match="state damaged"):
        parse_state_untrusted(data)
    assert MAX_STATE > 2**20


def stored_as(value: Any) -> bytes:
    body = schema.pack(value)
    return body + state._check(body)


PLAIN: list[Any] = schema.unpack_untrusted(pack_state(STATE)[:-16], 9)


def with_field(position: int, value: Any) -> list[Any]:
    return [*PLAIN[:position], value, *PLAIN[position + 1 :]]


def with_invitation(position: int, value: Any) -> list[Any]:
    invitation = PLAIN[4][0]
    return with_field(4, [[*invitation[:position], value, *invitation[position + 1 :]]])


def test_a_newer_program_wrote_it() -> None:
    for version in (0, STATE_VERSION + 1):
        with pytest.raises(BadPacket, match="state too new"):
            parse_state_untrusted(stored_as(with_field(0, version)))


@pytest.mark.parametrize(
    "value",
    [
        [],
        ["1"],
        PLAIN[:-1],
        [*PLAIN, 1],
        with_field(0, True),
        with_field(1, bytes(98)),
        with_field(2, [bytes(513)]),
        with_field(5, [[bytes(15), []]]),
        with_field(5, [[ID, [["host.example", 1]]]]),
        with_field(5, [[ID, [["10.0.0.1", 0]]]]),
        with_field(5, [[ID, [["10.0.0.1"]]]]),
        with_field(6, [[KEY, -1]]),
        with_field(6, [[bytes(33), 1]]),
        with_field(8, 2**32),
        with_invitation(0, bytes(15)),
        with_invitation(1, bytes(31)),
        with_invitation(3, "../x"),
        with_invitation(7, [[bytes(5), 1]]),
        with_invitation(7, [[bytes(4), 33]]),
        with_invitation(9, [[KEY]]),
    ],
)
def test_a_right_hash_over_a_wrong_content(value: Any) -> None:
    with pytest.raises(BadPacket, match="malformed fields"):
        parse_state_untrusted(stored_as(value))


@pytest.mark.parametrize(
    "stored",
    [
        replace(BARE_STATE, genesis=b""),
        replace(BARE_STATE, serial=-1),
        replace(BARE_STATE, own_timestamp=2**64),
        replace(BARE_STATE, endpoints=((ID, (Endpoint("host.example", 1),)),)),
        replace(BARE_STATE, invitations=(replace(BARE_INVITATION, psk=b""),)),
    ],
)
def test_nothing_is_stored_that_could_not_be_read(stored: StoredState) -> None:
    with pytest.raises(ValueError, match=r"."):
        pack_state(stored)


def test_secrets_are_not_shown() -> None:
    shown = repr(StoredInvitation(bytes(16), b"PSK" * 10, b"REDEEM" * 5, None, 1, 0, 0))
    assert "PSK" not in shown
    assert "REDEEM" not in shown
