"""What a listener learns from headers: session indices that count, names or keys in clear."""

from collections import Counter
from itertools import count

import pytest

from meshnode.proto.context import Context
from tests.attacks.field import settled
from tests.sim.mesh import Mesh

DRAWS = 10_000
BINS = 256
LIMIT = 330.5
"""Chi-square with 255 degrees of freedom exceeds this once in a thousand times; the seed is fixed."""


def chi_square() -> float:
    """How far the highest bytes of indices are from even."""
    field = settled()
    assert field.alpha.node is not None
    context = field.alpha.node._context
    drawn = Counter(context.new_index(field) >> 24 for _ in range(DRAWS))
    expected = DRAWS / BINS
    return sum((drawn[n] - expected) ** 2 / expected for n in range(BINS))


def test_indices_tell_nothing() -> None:
    assert chi_square() < LIMIT


def test_indices_that_count_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = count(1)

    def new_index(self: Context, owner: object) -> int:
        index = next(numbers)
        self.indices[index] = owner
        return index

    monkeypatch.setattr(Context, "new_index", new_index)
    assert chi_square() > LIMIT


def readable_secrets(mesh: Mesh) -> list[str]:
    """Which of the things that name a node or network are in clear on the wire while it joins, restarts and talks."""
    mallory = mesh.add_attacker()
    alpha, beta = mesh.add_host("alpha-the-first"), mesh.add_host("beta-the-second")
    for host in (alpha, beta):
        mallory.tap(host.plug)
    mesh.found(alpha)
    token = alpha.invite()
    beta.join(token)
    mesh.wait_all_up(5 * 10**9)
    mesh.run_for(10**9)
    beta.restart()
    mesh.run_for(60 * 10**9)
    assert alpha.node is not None
    wire = b"|".join(packet.data for packet in mallory.overheard)
    known = {"network id": alpha.node.membership.network_id, "token": token.secret, "network": b"home"}
    for host in (alpha, beta):
        node = host.node
        assert node is not None
        known |= {
            f"{host.name} static": node.static,
            f"{host.name} identity": node.identity,
            f"{host.name} id": node.id,
            f"{host.name} name": host.name.encode(),
        }
    return [what for what, value in known.items() if value in wire]


def test_no_key_name_or_id_is_in_clear_on_the_wire() -> None:
    assert readable_secrets(Mesh(4)) == []


def test_ciphers_that_hide_nothing_are_noticed() -> None:
    found = readable_secrets(Mesh(4, cheap=True))
    assert "token" in found
    assert "alpha-the-first static" in found
