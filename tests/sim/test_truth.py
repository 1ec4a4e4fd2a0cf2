"""The protocol against the truth: whoever can go direct does so within 15 s, everybody else is relayed.

Every unordered pair of the nine NAT behaviours of RFC 4787, with one public member to meet through.
"""

from itertools import combinations_with_replacement, product

import pytest

from meshnode.values import SECOND, PathKind
from tests.sim.mesh import Mesh
from tests.sim.nat import Dependence, NatKind
from tests.sim.reach import Reach, direct_path_possible

KINDS = [NatKind(m, f, preserves_ports=False) for m, f in product(Dependence, Dependence)]


def name(kind: NatKind) -> str:
    return f"{kind.mapping.name}/{kind.filtering.name}".lower().replace("address_and_port", "port")


@pytest.mark.parametrize("first", KINDS, ids=name)
def test_nats_meet_as_they_can(first: NatKind) -> None:
    for a, b in combinations_with_replacement(KINDS, 2):
        if a is not first:
            continue
        mesh = Mesh(7, cheap=True)
        mesh.grow(["public"])
        left, right = (
            mesh.add_host(who, mesh.add_lan(f"lan-{who}", kind), families="4")
            for who, kind in (("left", a), ("right", b))
        )
        for host in (left, right):
            mesh.enrol(host, mesh.hosts["public"])
        mesh.wait_all_up(15 * SECOND)
        mesh.run_for(15 * SECOND)
        truth = direct_path_possible(left.plug, right.plug)
        kinds = {path.kind for path in (left.path_to(right), right.path_to(left)) if path is not None}
        if truth is Reach.YES:
            assert kinds == {PathKind.UDP}, f"{name(a)} and {name(b)} can meet directly"
        elif truth is Reach.NO:
            # One direction may be direct all the same, where one filter is open and the answers go round.
            assert PathKind.RELAY in kinds, f"{name(a)} and {name(b)} cannot"
        mesh.everybody_pings()
