"""Which records on a LAN become hints: only those of members, of about today, on our own links, and not too many."""

from __future__ import annotations

from ipaddress import ip_interface

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.edge.lan_hints import (
    DAY,
    HINTS_PER_PEER,
    HINTS_PER_WINDOW,
    WINDOW,
    Found,
    LanHints,
    lan_key,
    network_tag,
    node_tag,
    service_txt,
)
from meshnode.edge.netlink import LanLink
from meshnode.values import SECOND, BadPacket, Endpoint, Hint, Now, PeerId

NETWORK = bytes(range(32))
PEER = PeerId(b"p" * 16)
OTHERS = [PeerId(number.to_bytes(16, "big")) for number in range(80)]
WALL = 19_000 * DAY + 3600 * SECOND
NOW = Now(1000 * SECOND, WALL)
LINKS = (
    LanLink(7, tuple(map(ip_interface, ("192.168.1.5/24", "fd00:1::5/64", "fe80::5/64")))),
    LanLink(9, (ip_interface("10.1.0.5/16"),)),
)


@pytest.fixture
def hints() -> LanHints:
    made = LanHints(NETWORK)
    made.set_links(LINKS)
    made.set_members([*OTHERS, PEER])
    return made


def txt_of(peer: PeerId = PEER, network: bytes = NETWORK, wall: int = WALL) -> dict[bytes, bytes | None]:
    return {key.encode(): value for key, value in service_txt(network, peer, 4655, wall).items()}


def found(*addresses: str, **txt: bytes | None) -> Found:
    changed = {key.encode(): value for key, value in txt.items()}
    return Found({**txt_of(), **changed}, 4655, addresses or ("192.168.1.9",))


def test_a_member_is_recognised(hints: LanHints) -> None:
    record = found("192.168.1.9", "10.1.200.1", "fd00:1::9", "fe80::9%7")
    assert hints.match_untrusted(record, NOW) == [
        Hint(PEER, Endpoint(host, 4655)) for host in ("192.168.1.9", "10.1.200.1", "fd00:1::9", "fe80::9%7")
    ]


def test_the_record_has_no_name_and_no_key_in_clear() -> None:
    txt = service_txt(NETWORK, PEER, 4655, WALL)
    assert list(txt) == ["txtvers", "v", "p", "n", "id"]
    assert sum(len(key) + len(value) + 2 for key, value in txt.items()) < 200
    text = b"".join(txt.values())
    for secret in (NETWORK, PEER):
        assert secret.hex().encode() not in text
        assert secret[:4].hex().encode() not in text


def test_tags_depend_on_everything() -> None:
    key = lan_key(NETWORK)
    tags = [
        network_tag(key, 1),
        network_tag(key, 2),
        network_tag(lan_key(bytes(32)), 1),
        node_tag(key, PEER, 1),
        node_tag(key, PEER, 2),
        node_tag(key, OTHERS[0], 1),
        node_tag(lan_key(bytes(32)), PEER, 1),
    ]
    assert len(set(tags)) == len(tags)
    assert all(len(tag) == 16 for tag in tags)


@pytest.mark.parametrize("days", [-1, 0, 1])
def test_clocks_may_differ_by_a_day(hints: LanHints, days: int) -> None:
    assert hints.match_untrusted(found(), Now(NOW.boot, WALL + days * DAY))


@pytest.mark.parametrize("days", [-2, 2, -19_000, -40_000, 80_000])
def test_clocks_may_not_differ_by_more(hints: LanHints, days: int) -> None:
    with pytest.raises(BadPacket, match="other network"):
        hints.match_untrusted(found(), Now(NOW.boot, WALL + days * DAY))


def test_the_day_is_followed(hints: LanHints) -> None:
    assert hints.match_untrusted(found(), NOW)
    later = Now(NOW.boot, WALL + 5 * DAY)
    with pytest.raises(BadPacket):
        hints.match_untrusted(found(), later)
    assert hints.match_untrusted(Found(txt_of(wall=later.wall), 4655, ("192.168.1.9",)), later)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (Found({}, 4655, ("192.168.1.9",)), "lan other network"),
        (Found(txt_of(network=bytes(32)), 4655, ("192.168.1.9",)), "lan other network"),
        (Found(txt_of(PeerId(b"x" * 16)), 4655, ("192.168.1.9",)), "lan unknown node"),
        (found(id=None), "lan unknown node"),
        (found(id=b""), "lan unknown node"),
        (found(n=None), "lan other network"),
        (found(v=b"2"), "lan record"),
        (found(v=None), "lan record"),
        (found(p=b"4656"), "lan record"),
        (found(p=b"04655"), "lan record"),
        (Found(txt_of(), 4656, ("192.168.1.9",)), "lan record"),
        (Found({**txt_of(), b"p": b"0"}, 0, ("192.168.1.9",)), "lan address"),
        (Found(txt_of(), 4655, ()), "lan address"),
    ],
)
def test_what_is_not_for_us(hints: LanHints, record: Found, reason: str) -> None:
    with pytest.raises(BadPacket) as bad:
        hints.match_untrusted(record, NOW)
    assert bad.value.reason == reason


@pytest.mark.parametrize(
    "host",
    [
        "192.168.2.9",
        "8.8.8.8",
        "192.168.1.5",
        "127.0.0.1",
        "0.0.0.0",
        "224.0.0.251",
        "2001:db8::1",
        "::1",
        "::ffff:192.168.1.9",
        "ff02::fb%7",
        "fe80::9",
        "fe80::9%8",
        "fe80::9%eth0",
        "fd00:1::9%7",
        "fe80::9%",
        "localhost",
        "",
        "192.168.1.9.example.org",
    ],
)
def test_addresses_that_are_not_on_our_links(hints: LanHints, host: str) -> None:
    with pytest.raises(BadPacket, match="lan address"):
        hints.match_untrusted(found(host), NOW)
    assert hints.match_untrusted(found(host, "192.168.1.9"), NOW) == [
        Hint(PEER, Endpoint("192.168.1.9", 4655))
    ]


def test_a_record_counts_with_a_few_addresses_only(hints: LanHints) -> None:
    record = found(*(f"192.168.1.{number}" for number in range(10, 30)))
    assert len(hints.match_untrusted(record, NOW)) == 4


def test_one_peers_record_repeated_gives_a_few_hints_a_minute(hints: LanHints) -> None:
    for number in range(HINTS_PER_PEER):
        hints.match_untrusted(found(f"192.168.1.{10 + number}"), NOW)
    with pytest.raises(BadPacket, match="flood"):
        hints.match_untrusted(found("192.168.1.99"), NOW)
    assert hints.match_untrusted(Found(txt_of(OTHERS[0]), 4655, ("192.168.1.9",)), NOW)
    assert hints.match_untrusted(found("192.168.1.99"), Now(NOW.boot + WINDOW, WALL))


def test_all_peers_together_give_so_many_hints_a_minute(hints: LanHints) -> None:
    given = 0
    for peer in OTHERS:
        for number in range(HINTS_PER_PEER):
            try:
                given += len(
                    hints.match_untrusted(Found(txt_of(peer), 4655, (f"192.168.1.{10 + number}",)), NOW)
                )
            except BadPacket as bad:
                assert bad.reason == "lan flood"  # noqa: PT017
    assert given == HINTS_PER_WINDOW


def test_members_may_come_and_go(hints: LanHints) -> None:
    hints.set_members(OTHERS)
    with pytest.raises(BadPacket, match="unknown node"):
        hints.match_untrusted(found(), NOW)
    hints.set_members([PEER])
    assert hints.match_untrusted(found(), NOW)


@settings(max_examples=80)
@given(
    st.dictionaries(
        st.sampled_from([b"n", b"id", b"v", b"p", b"x"]), st.none() | st.binary(max_size=300), max_size=5
    ),
    st.integers(-1, 70_000),
    st.lists(st.text(max_size=40) | st.sampled_from(["192.168.1.9", "fe80::9%7"]), max_size=4).map(tuple),
)
def test_whatever_is_heard_is_a_hint_or_ignored(
    txt: dict[bytes, bytes | None], port: int, addresses: tuple[str, ...]
) -> None:
    hints = LanHints(NETWORK)
    hints.set_links(LINKS)
    hints.set_members([PEER])
    try:
        given = hints.match_untrusted(Found({**txt_of(), **txt}, port, addresses), NOW)
    except BadPacket:
        return
    assert all(hint.peer == PEER and hint.endpoint.port == 4655 for hint in given)
