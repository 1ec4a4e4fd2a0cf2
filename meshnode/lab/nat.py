"""Kinds of NAT, as rule sets of nftables for a router whose uplink is one interface.

In the words of RFC 4787, Linux' masquerade has an endpoint-independent mapping while the port is free (it
keeps the port), and an address-and-port-dependent filter. All kinds but NONE guard IPv6, too, untranslated.
"""

from enum import Enum
from ipaddress import IPv4Address
from typing import Final

TABLES: Final = ("ip lab_nat", "inet lab_firewall")


class Nat(Enum):
    """What a router does with packets between its LAN and its uplink."""

    NONE = "none"
    """Routes: every address of the LAN can be reached from outside."""
    FIREWALL = "firewall"
    """Routes, but lets in from outside only what belongs to a flow from inside."""
    CONE = "cone"
    """One mapping for all destinations, a filter by address and port: the usual home router."""
    FULL_CONE = "full-cone"
    """One mapping for all destinations and no filter: all UDP from outside reaches one host inside."""
    SYMMETRIC = "symmetric"
    """A new random port for each destination, a filter by address and port."""

    @property
    def translates(self) -> bool:
        """Whether the addresses of the LAN are unknown outside (IPv4 only: IPv6 is never translated)."""
        return self not in (Nat.NONE, Nat.FIREWALL)


def nat_rules(kind: Nat, uplink: str, inside: IPv4Address | None = None) -> str:
    """The nftables script that makes a router this kind of NAT, whatever it was before.

    `uplink` names the interface towards the internet ("wan*" is allowed); `inside` is the host that a
    FULL_CONE exposes (with None it is a CONE for the time being).
    """
    parts = [f"add table {table}\ndelete table {table}" for table in TABLES]
    exposed = inside if kind is Nat.FULL_CONE else None
    if kind.translates:
        parts.append(_translation(uplink, exposed, randomly=kind is Nat.SYMMETRIC))
    if kind is not Nat.NONE:
        parts.append(_firewall(uplink, open_for_udp=exposed is not None))
    return "\n".join(parts) + "\n"


def _translation(uplink: str, exposed: IPv4Address | None, *, randomly: bool) -> str:
    redirect = f'iifname "{uplink}" meta l4proto udp dnat to {exposed}' if exposed is not None else ""
    return f"""table ip lab_nat {{
  chain incoming {{
    type nat hook prerouting priority dstnat
    {redirect}
  }}
  chain outgoing {{
    type nat hook postrouting priority srcnat
    oifname "{uplink}" masquerade{" fully-random" if randomly else ""}
  }}
}}"""


def _firewall(uplink: str, *, open_for_udp: bool) -> str:
    # The input chain matters for hole punching: a stranger's packet that is not dropped here would be tracked
    # as a flow to the router itself, occupy the mapping that the host behind is about to need, and cost it
    # its port.
    udp = f'iifname "{uplink}" meta l4proto udp accept' if open_for_udp else ""
    return f"""table inet lab_firewall {{
  chain through {{
    type filter hook forward priority filter
    ct state established,related accept
    {udp}
    iifname "{uplink}" drop
  }}
  chain to_router {{
    type filter hook input priority filter
    ct state established,related accept
    iifname "{uplink}" meta l4proto {{ icmp, icmpv6 }} accept
    iifname "{uplink}" drop
  }}
}}"""
