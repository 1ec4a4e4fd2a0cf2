"""The truth about two hosts: can datagrams go directly between them, when both punch as well as one can?

Tests hold the protocol against this. The question is put to the NATs' behaviours (RFC 4787), never to the
protocol.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from tests.sim.nat import Dependence
from tests.sim.network import Network, Plug, Router


class Reach(Enum):
    """`BY_CHANCE`: only by guessing ports (a birthday search), or by help that not every mesh has."""

    YES = "yes"
    NO = "no"
    BY_CHANCE = "by chance"


class Side(NamedTuple):
    """How one host appears to another through all NATs between them: the hardest of each behaviour."""

    mapping: Dependence
    filtering: Dependence


OPEN = Side(Dependence.INDEPENDENT, Dependence.INDEPENDENT)


def direct_path_possible(a: Plug, b: Plug) -> Reach:
    """Whether a direct UDP path between the hosts at `a` and `b` can be made."""
    if not (a.connected and b.connected and a.addresses and b.addresses):
        return Reach.NO
    if a.network is b.network:
        families = [{":" in address for address in plug.addresses} for plug in (a, b)]
        return Reach.YES if families[0] & families[1] else Reach.NO
    chain_a, chain_b = _routers(a.network), _routers(b.network)
    common = [router for router in chain_a if any(router is other for other in chain_b)]
    between = [r for r in chain_a + chain_b if all(r is not c for c in common)]
    if any(r.blocks_udp for r in between):
        return Reach.NO
    if _speaks_ipv6(a) and _speaks_ipv6(b):
        return Reach.YES
    if not (_speaks_ipv4(a) and _speaks_ipv4(b)):
        return Reach.NO
    if common:
        # Behind one CGNAT: its hairpin decides, or an observer inside of it who tells inner addresses.
        return Reach.BY_CHANCE
    return punchable(_side(chain_a), _side(chain_b))


def punchable(a: Side, b: Side) -> Reach:
    """What two sides reach when each first sends to where an observer on the internet saw the other."""
    if any(_arrives(x, y) and _is_answered(x, y) for x, y in ((a, b), (b, a))):
        return Reach.YES
    if Dependence.INDEPENDENT in (a.mapping, b.mapping):
        return Reach.BY_CHANCE
    return Reach.NO


def _arrives(x: Side, y: Side) -> bool:
    """Whether x's probe passes y's filter, at the mapping that y's observer saw; y probes x, too."""
    if y.filtering is Dependence.INDEPENDENT:
        return True
    # y's own probe to x opens this mapping's filter only if y probes from this very mapping.
    if y.mapping is not Dependence.INDEPENDENT:
        return False
    return y.filtering is Dependence.ADDRESS or x.mapping is Dependence.INDEPENDENT


def _is_answered(x: Side, y: Side) -> bool:
    """Whether y's answer, sent to where x's probe came from, passes x's filter, opened towards the seen y."""
    return x.filtering is not Dependence.ADDRESS_AND_PORT or y.mapping is Dependence.INDEPENDENT


def _routers(network: Network) -> list[Router]:
    chain = []
    while network.gateway is not None:
        chain.append(network.gateway)
        network = network.gateway.outside
    return chain


def _side(chain: list[Router]) -> Side:
    if not chain:
        return OPEN
    kinds = [router.nat.kind for router in chain]
    return Side(max(kind.mapping for kind in kinds), max(kind.filtering for kind in kinds))


def _speaks_ipv6(plug: Plug) -> bool:
    """Whether it has an IPv6 address and all networks from there to the internet carry IPv6."""
    networks = [plug.network] + [router.outside for router in _routers(plug.network)]
    return any(":" in address for address in plug.addresses) and all(n.has_ipv6 for n in networks)


def _speaks_ipv4(plug: Plug) -> bool:
    return any(":" not in address for address in plug.addresses)
