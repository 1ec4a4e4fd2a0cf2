"""Which peer an address belongs to, and who may use it as a source."""

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from meshnode.dataplane.next_hops import MAX_WANTED, OURSELVES, NextHops, PrefixTable
from meshnode.dataplane.source_check import REMEMBERED_SOURCES, SourceCheck
from meshnode.values import PeerId, Prefix
from tests.unit.dataplane.pair import address, link_local, peer_id

A, B, C = peer_id(1), peer_id(2), peer_id(3)


def net(text: str) -> Prefix:
    network = ipaddress.ip_network(text)
    return network.network_address.packed, network.prefixlen


def ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


class Answers:
    """A resolver with a fixed answer for each destination."""

    def __init__(self, known: dict[bytes, PeerId]) -> None:
        self.known = known

    def lookup(self, destination: bytes) -> PeerId | None:
        return self.known.get(destination)


def table() -> NextHops:
    hops = NextHops()
    hops.set_owner(OURSELVES, (address(9), link_local(9)), (net("192.168.9.0/24"), net("192.168.50.0/24")))
    hops.set_owner(A, (address(1), link_local(1)), (net("0.0.0.0/0"), net("2001:db8::/32")))
    hops.set_owner(B, (address(2), link_local(2)), (net("192.168.0.0/16"), net("192.168.50.0/24")))
    return hops


def test_exact_addresses_win_then_the_longest_prefix() -> None:
    hops = table()
    assert hops.lookup(address(1)) == A
    assert hops.lookup(link_local(2)) == B
    assert hops.lookup(address(9)) == OURSELVES
    assert hops.lookup(ip("8.8.8.8")) == A
    assert hops.lookup(ip("192.168.7.7")) == B
    assert hops.lookup(ip("192.168.9.7")) == OURSELVES
    assert hops.lookup(ip("192.168.50.7")) == B  # ours too, but the kernel has decided that it is not for us
    assert hops.lookup(ip("2001:db8::7")) == A
    assert hops.lookup(ip("2001:db9::7")) is None
    assert hops.lookup(link_local(7)) is None


def test_loops_are_what_would_go_back() -> None:
    hops = table()
    assert hops.returns_to(A, address(1))
    assert hops.returns_to(A, ip("8.8.8.8"))
    assert not hops.returns_to(B, ip("8.8.8.8"))
    assert not hops.returns_to(B, ip("192.168.50.7"))
    assert not hops.returns_to(B, address(9))
    assert not hops.returns_to(B, ip("2001:db9::7"))
    hops.resolver = Answers({ip("2001:db9::7"): B})
    assert hops.returns_to(B, ip("2001:db9::7"))


def test_a_member_that_is_gone_owns_nothing() -> None:
    hops = table()
    hops.remove(A)
    hops.remove(A)
    assert hops.lookup(address(1)) is None
    assert hops.lookup(ip("8.8.8.8")) is None
    assert hops.owners(ip("192.168.7.7")) == (B,)


def test_nobody_takes_over_our_address() -> None:
    hops = table()
    hops.set_owner(A, (address(9), address(1)), ())
    assert hops.is_ours(address(9))
    assert hops.lookup(address(9)) == OURSELVES


def test_the_resolver_is_asked_for_what_is_no_members_address() -> None:
    hops = table()
    hops.resolver = Answers({ip("8.8.8.8"): C, address(1): C})
    assert hops.lookup(ip("8.8.8.8")) == C
    assert hops.lookup(address(1)) == A
    assert hops.take_wanted() == []
    assert hops.lookup(ip("9.9.9.9")) == A  # by the grant, until the resolver knows better
    assert hops.lookup(ip("9.9.9.9")) == A
    assert hops.take_wanted() == [ip("9.9.9.9")]
    for number in range(1000):
        hops.lookup(number.to_bytes(4, "big"))
    assert len(hops.take_wanted()) == MAX_WANTED


@given(
    st.lists(st.tuples(st.binary(min_size=4, max_size=4), st.integers(0, 32)), max_size=20),
    st.binary(min_size=4, max_size=4),
)
def test_longest_match_is_longest_match(prefixes: list[Prefix], where: bytes) -> None:
    longest = PrefixTable(4)
    covering: dict[int, set[PeerId]] = {}
    for number, (network, length) in enumerate(prefixes):
        owner = peer_id(number + 1)
        longest.add(network, length, owner)
        if ipaddress.ip_address(where) in ipaddress.ip_network((network, length), strict=False):
            covering.setdefault(length, set()).add(owner)
    expected = sorted(covering[max(covering)]) if covering else []
    assert list(longest.owners(where)) == expected


def test_sources() -> None:
    hops = table()
    plain = SourceCheck(B, link_local(2), False, hops)
    router = SourceCheck(B, link_local(2), True, hops)
    for refused in ("127.0.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255"):
        assert plain.refusal(ip(refused)) == router.refusal(ip(refused)) == "source martian"
    for refused in ("::", "::1", "::ffff:10.0.0.1", "::10.0.0.1", "ff02::1"):
        assert plain.refusal(ip(refused)) == router.refusal(ip(refused)) == "source martian"
    for check in (plain, router):
        assert check.refusal(address(9)) == "source ours"
        assert check.refusal(link_local(9)) == "source link-local"
        assert check.refusal(link_local(1)) == "source link-local"
        assert check.refusal(link_local(2)) is None
        assert check.refusal(address(2)) is None
        assert check.refusal(ip("192.168.1.1")) is None
    for foreign in (address(1), ip("8.8.8.8"), ip("192.168.9.1"), ip("2001:db8::1"), ip("2001:db9::1")):
        assert plain.refusal(foreign) == "source foreign"
        assert router.refusal(foreign) is None


def test_only_good_sources_are_remembered_and_not_too_many() -> None:
    check = SourceCheck(A, link_local(1), True, table())
    for number in range(10 * REMEMBERED_SOURCES):
        check.refusal((0x0B000000 + number).to_bytes(4, "big"))
        check.refusal(ip("127.0.0.1"))
    assert len(check.good) <= REMEMBERED_SOURCES
    assert ip("127.0.0.1") not in check.good
    newest = (0x0B000000 + 10 * REMEMBERED_SOURCES - 1).to_bytes(4, "big")
    assert newest in check.good
    assert check.refusal(newest) is None
