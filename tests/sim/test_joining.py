"""From tokens to a full mesh."""

from meshnode.values import SECOND
from tests.sim.mesh import Mesh


def test_three_hosts_become_one_network() -> None:
    mesh = Mesh(1)
    mesh.grow(["alpha", "beta", "gamma"])
    mesh.wait_all_up(2 * SECOND)
    mesh.everybody_pings()
