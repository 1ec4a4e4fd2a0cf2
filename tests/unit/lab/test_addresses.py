from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

import pytest

from meshnode.lab import LabError
from meshnode.lab.addresses import AddressPlan, Subnet

DOCUMENTATION = [IPv4Network(each) for each in ("203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24")]


def test_a_subnet_counts_from_one() -> None:
    subnet = Subnet(IPv4Network("192.0.2.0/24"), IPv6Network("2001:db8::/64"))
    assert subnet.take() == (IPv4Interface("192.0.2.1/24"), IPv6Interface("2001:db8::1/64"))
    assert subnet.take() == (IPv4Interface("192.0.2.2/24"), IPv6Interface("2001:db8::2/64"))


def test_a_full_subnet_says_so() -> None:
    subnet = Subnet(IPv4Network("192.0.2.0/30"), IPv6Network("2001:db8::/64"))
    subnet.take()
    subnet.take()
    with pytest.raises(LabError, match=r"192\.0\.2\.0/30 is full"):
        subnet.take()


def test_links_are_public_and_distinct_until_there_are_no_more() -> None:
    plan = AddressPlan()
    links = [plan.link() for _ in range(192)]
    assert len({each.ipv4 for each in links}) == len({each.ipv6 for each in links}) == 192
    assert all(any(each.ipv4.subnet_of(block) for block in DOCUMENTATION) for each in links)
    assert all(each.ipv6.subnet_of(IPv6Network("2001:db8::/32")) for each in links)
    with pytest.raises(LabError, match="out of addresses"):
        plan.link()


def test_lans_and_switches_are_private_and_apart() -> None:
    plan = AddressPlan()
    subnets = [plan.lan(), plan.lan(), plan.switch(), plan.switch(), plan.link()]
    for index, one in enumerate(subnets):
        for other in subnets[index + 1 :]:
            assert not one.ipv4.overlaps(other.ipv4)
            assert not one.ipv6.overlaps(other.ipv6)
    assert all(each.ipv4.is_private for each in subnets[:4])
    assert not any(each.ipv4.overlaps(IPv4Network("10.0.0.0/8")) for each in subnets)  # the mesh's own


def test_a_prefix_may_be_chosen_and_repeated() -> None:
    plan, prefix = AddressPlan(), IPv4Network("192.168.1.0/24")
    one, other = plan.lan(prefix), plan.lan(prefix)
    assert one.ipv4 == other.ipv4 == prefix
    assert one.ipv6 != other.ipv6
