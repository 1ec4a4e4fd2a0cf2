"""The state of a network whose node does not run here, locked while one command changes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from meshnode.cli.failure import Failure
from meshnode.crypto.primitives import SODIUM
from meshnode.edge import clock
from meshnode.edge.store import Secret, Store
from meshnode.proto.invitations import Invitations
from meshnode.proto.membership import Member, Membership
from meshnode.proto.registrar import Registrar
from meshnode.values import BadPacket
from meshnode.wire.address import network_id
from meshnode.wire.state import StoredState, pack_state, parse_state_untrusted
from meshnode.wire.statement import parse_statement_untrusted


class StoppedNode:
    """What a command needs of a node that is not running: who belongs to the network, and the pen to sign with."""

    def __init__(self, store: Store, state: StoredState, identity_seed: bytes, static_secret: bytes) -> None:
        self._store = store
        self._state = state
        self.static = SODIUM.public_key(static_secret)
        self.membership = Membership(SODIUM, state.genesis, clock.now().wall)
        for raw in (*state.statements, *state.records):
            self.membership.add_untrusted(raw, clock.now().wall)
        self._invitations = Invitations(state.invitations)
        self.registrar = Registrar(
            SODIUM, self.membership, self._invitations, identity_seed, store.read_secret(Secret.ROOT)
        )

    def save(self) -> None:
        """Put the state on disk. Raises EdgeError: then nothing has changed."""
        self._state = replace(
            self._state,
            statements=tuple(self.membership.statements()),
            records=tuple(self.membership.records()),
            invitations=self._invitations.stored(),
        )
        self._store.write_state(pack_state(self._state))

    def member(self, name: str) -> Member:
        """The member called `name`, or whose id begins so. Raises Failure."""
        members = self.membership.members.values()
        found = [m for m in members if m.label == name] or [
            m for m in members if m.peer.hex().startswith(name)
        ]
        if len(found) == 1:
            return found[0]
        raise Failure(
            f"{name} is no member of this network" if not found else f"several ids begin with {name}"
        )


@contextmanager
def stopped_node(store: Store) -> Iterator[StoppedNode]:
    """Lock and open the state. Raises EdgeError (StoreBusy where a node runs), Failure where it cannot be used."""
    with store.lock():
        data = store.read_state()
        identity, static = store.read_secret(Secret.IDENTITY), store.read_secret(Secret.STATIC)
        if data is None or identity is None or static is None:
            raise Failure(
                "this machine has no part in the network yet: `meshnode init` or `meshnode join` first"
            )
        try:
            node = StoppedNode(store, parse_state_untrusted(data), identity, static)
        except BadPacket as error:
            raise _unusable(error) from error
        yield node


def stored_network_id(store: Store) -> bytes:
    """Which network the state in `store` belongs to. Raises Failure where it cannot be used."""
    data = store.read_state()
    try:
        genesis = parse_statement_untrusted(parse_state_untrusted(data or b"").genesis)
    except BadPacket as error:
        raise _unusable(error) from error
    return network_id(genesis.signer)


def _unusable(error: BadPacket) -> Failure:
    return Failure(f"the stored state cannot be used ({error.reason}): restore it, or leave and join anew")
