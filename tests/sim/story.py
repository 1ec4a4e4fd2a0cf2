"""Histories of a mesh: what people and fate do to it, and a reference model that says what must follow.

The model is far simpler than the system: it knows who was let in, whose node runs, and who can hear whom. It says
nothing about *how* nodes get there. After each `settle`, whoever must be connected is, nobody else is, and pings agree.

Node0 is the anchor: it founded the network, stays on the public internet at one address, and invites. Without some such
fixed point two nodes that move at the same time cannot find each other, whatever they do.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

from meshnode.proto.invitations import InvitationTerms
from meshnode.values import MILLISECOND, SECOND, Nanos, PathKind
from tests.sim.footprint import check_bounds
from tests.sim.host import Host, Power
from tests.sim.mesh import UPLINK, Mesh
from tests.sim.nat import FULL_CONE, PORT_RESTRICTED, SYMMETRIC
from tests.sim.reach import Reach, direct_path_possible

NETWORKS = ("internet", "home", "office", "mobile")
PATIENCE: Nanos = 60 * SECOND
"""After the last disturbance everything must be back within this: two of the slowest retries, and loss."""


@dataclass(slots=True)
class Fate:
    """What the model knows of one host."""

    member: bool = False
    revoked: bool = False
    running: bool = False


class Story:
    """A mesh and its model. Every public method but `settle` is one thing that can happen; all are always allowed:
    what makes no sense (to stop a node that does not run) does nothing.
    """

    def __init__(self, seed: int, size: int = 6, cheap: bool = False) -> None:
        self.mesh = Mesh(seed, cheap, trace_limit=100_000)
        self.log: list[str] = []
        lans = (("home", FULL_CONE), ("office", PORT_RESTRICTED), ("mobile", SYMMETRIC))
        self.networks = {name: self.mesh.add_lan(name, kind) for name, kind in lans}
        self.networks["internet"] = self.mesh.internet
        self.hosts = [self.mesh.add_host(f"node{number}") for number in range(size)]
        self.fates = {host.name: Fate() for host in self.hosts}
        self.anchor = self.hosts[0]
        self.groups: list[set[str]] = []
        self.mesh.found(self.anchor)
        self.fates[self.anchor.name] = Fate(member=True, running=True)

    # --- what can happen ----------------------------------------------------------------------------

    def join(self, number: int) -> None:
        """A host that is no member joins with a fresh token of the anchor."""
        host, fate = self._pick(number)
        if fate.member or not self._anchor_hears(host) or host.power is not Power.ON:
            return
        self._say(f"{host.name} joins")
        if host.disk.read("state") is not None:
            host.disk.wipe()
        host.join(self.anchor.invite(InvitationTerms()))
        self.mesh.wait_for(lambda: host.running, 30 * SECOND, f"{host.name} is let in")
        self.fates[host.name] = Fate(member=True, running=True)

    def crash(self, number: int) -> None:
        """A node is killed."""
        host, fate = self._pick(number)
        if fate.running:
            self._flush_disks()
            self._say(f"{host.name} crashes")
            host.crash()
            fate.running = False

    def stop(self, number: int) -> None:
        """A node is stopped and says goodbye."""
        host, fate = self._pick(number)
        if fate.running and host.power is Power.ON:
            self._say(f"{host.name} stops")
            host.stop()
            fate.running = False

    def start(self, number: int) -> None:
        """A member's node is started again."""
        host, fate = self._pick(number)
        if fate.member and not fate.running and host.power is Power.ON and not fate.revoked:
            self._say(f"{host.name} starts")
            host.start()
            fate.running = True

    def restart(self, number: int) -> None:
        """A node is killed and comes back at once."""
        host, fate = self._pick(number)
        if fate.running and host.power is Power.ON and not fate.revoked:
            self._flush_disks()
            self._say(f"{host.name} restarts")
            host.restart()

    def lose_disk(self, number: int) -> None:
        """A host comes back with an empty disk: a stranger."""
        host, fate = self._pick(number)
        if host is not self.anchor and fate.member and host.power is Power.ON:
            self._say(f"{host.name} loses its disk")
            host.restart(wipe=True)
            self.fates[host.name] = Fate()

    def suspend(self, number: int) -> None:
        """A lid is closed."""
        host, _ = self._pick(number)
        if host.power is Power.ON and host is not self.anchor:
            self._say(f"{host.name} sleeps")
            host.suspend()

    def resume(self, number: int) -> None:
        """A lid is opened."""
        host, _ = self._pick(number)
        if host.power is Power.SUSPENDED:
            self._say(f"{host.name} wakes")
            host.resume()

    def move(self, number: int, network: str) -> None:
        """A host roams to another network."""
        host, _ = self._pick(number)
        if host is not self.anchor:
            self._say(f"{host.name} moves to {network}")
            host.move_to(self.networks[network])

    def flush_nat(self, lan: str) -> None:
        """A router forgets all its mappings."""
        self._say(f"the router of {lan} forgets")
        self.mesh.router(lan).flush()

    def renumber_router(self, lan: str) -> None:
        """A provider gives a router another address."""
        self._say(f"the router of {lan} gets another address")
        self.mesh.router(lan).change_address()

    def set_clock(self, number: int, skew: int) -> None:
        """A wall clock is set, wrong by `skew` seconds. Two that differ by more than a day disagree on grants."""
        host, _ = self._pick(number)
        self._say(f"the clock of {host.name} is wrong by {skew} s")
        host.clock.step_wall(skew * SECOND - host.clock.skew)

    def spoil_line(self, number: int, loss: float) -> None:
        """What a host sends is lost in part, doubled and mixed up."""
        host, _ = self._pick(number)
        self._say(f"{host.name} has a bad line, {loss:.0%} loss")
        host.plug.up.link = replace(UPLINK, loss=loss, duplication=loss / 3, reordering=loss / 3)

    def partition(self, number: int) -> None:
        """The hosts up to `number` and the others hear nothing of each other."""
        names = [host.name for host in self.hosts]
        cut = 1 + number % (len(names) - 1)
        self._say(f"partition after {names[cut - 1]}")
        self.groups = [set(names[:cut]), set(names[cut:])]
        self.mesh.partition(*self.groups)

    def heal(self) -> None:
        """All hear all again."""
        if self.groups:
            self._say("the partition is over")
        self.groups = []
        self.mesh.heal()

    def revoke(self, number: int) -> None:
        """The anchor revokes a member."""
        host, fate = self._pick(number)
        if host is self.anchor or not fate.member or fate.revoked or not self.fates[self.anchor.name].running:
            return
        self._say(f"{host.name} is revoked")
        assert host.disk.read("state") is not None
        host.tolerates_errors = True
        self.anchor.revoke(self._label(host))
        fate.revoked = True

    def pass_time(self, milliseconds: int) -> None:
        """Nothing happens for a while."""
        self._say(f"{milliseconds} ms pass")
        self.mesh.run_for(milliseconds * MILLISECOND)

    def send(self, number: int, other: int) -> None:
        """An application sends a message; whether it comes does not matter here, only that it does not come twice."""
        host, fate = self._pick(number)
        to, to_fate = self._pick(other)
        if fate.running and to_fate.running and host.running and to.running and host is not to:
            if to.node is None or to.node.own is None or not host.applications.addresses:
                return
            host.applications.send(to.member.ipv6, b"hello")

    # --- what must follow ---------------------------------------------------------------------------

    def settle(self) -> None:
        """Give the mesh time, then hold it against the model."""
        self._say("settle")
        began = self.mesh.world.time
        while missing := self._missing():
            if self.mesh.world.time - began > PATIENCE:
                raise AssertionError(f"not back after {PATIENCE // SECOND} s: {'; '.join(missing)}")
            self.mesh.run_for(250 * MILLISECOND)
        self._check_strangers()
        for host in self._running():
            check_bounds(host)
        self._check_pings()

    def _missing(self) -> list[str]:
        """What ought to be and is not yet."""
        missing = []
        for a, b in combinations(self._running(), 2):
            if self._must_meet(a, b):
                if not self.mesh.is_up(a, b):
                    missing.append(f"{a.name} and {b.name} are not connected")
                elif direct_path_possible(a.plug, b.plug) is Reach.YES and self._is_relayed(a, b):
                    missing.append(f"{a.name} and {b.name} are still relayed")
        for host in self._running():
            if self._anchor_hears(host) and self._may_know(host):
                missing.extend(
                    f"{host.name} still takes {name} for up"
                    for name in host.up()
                    if name in self._gone_labels(host)
                )
        return missing

    def _check_strangers(self) -> None:
        """Nobody who was never let in, or was revoked, is anybody's peer."""
        members = {host.node.id for host in self.hosts if host.node is not None}
        for host in self._running():
            assert host.node is not None
            for peer in host.node.peers.values():
                if peer.up and peer.id in members:
                    other = next(h for h in self.hosts if h.node is not None and h.node.id == peer.id)
                    fate = self.fates[other.name]
                    assert fate.member, f"{host.name} is connected to the stranger {other.name}"

    def _check_pings(self) -> None:
        pairs = [(a, b) for a, b in combinations(self._running(), 2) if self._must_meet(a, b)]
        waiting = [(a, b) for pair in pairs for a, b in (pair, pair[::-1])]
        for _ in range(20):
            pings = [(a, b, a.applications.ping(b.member.ipv6)) for a, b in waiting]
            self.mesh.run_for(SECOND)
            waiting = [(a, b) for a, b, ping in pings if not ping.answered]
            if not waiting:
                return
        raise AssertionError(f"no answer: {'; '.join(f'{a.name} to {b.name}' for a, b in waiting)}")

    def _must_meet(self, a: Host, b: Host) -> bool:
        """Whether the two must be connected: the anchor hears both and relays where nothing else goes."""
        return self._anchor_hears(a) and self._anchor_hears(b)

    @staticmethod
    def _is_relayed(a: Host, b: Host) -> bool:
        return any(path is not None and path.kind is PathKind.RELAY for path in (a.path_to(b), b.path_to(a)))

    def _running(self) -> list[Host]:
        return [h for h in self.hosts if h.running and not self.fates[h.name].revoked]

    def _anchor_hears(self, host: Host) -> bool:
        """Whether the anchor's node runs, on the same side of a partition as `host`."""
        side = next((group for group in self.groups if host.name in group), None)
        return self.fates[self.anchor.name].running and (side is None or self.anchor.name in side)

    def _may_know(self, host: Host) -> bool:
        """Whether `host` hears the anchor directly, and so learns of revocations."""
        return host is self.anchor or self._must_meet(self.anchor, host)

    def _gone_labels(self, host: Host) -> list[str]:
        """How `host` calls those who were revoked."""
        assert host.node is not None
        gone = {h.node.id for h in self.hosts if h.node is not None and self.fates[h.name].revoked}
        return [p.member.label for p in host.node.peers.values() if p.id in gone]

    def _label(self, host: Host) -> str:
        """What the anchor calls a member, by the id that its keys give."""
        seed = host.disk.read("identity.key")
        assert seed is not None
        assert self.anchor.node is not None
        identity = self.mesh.equipment.ciphers.identity_key(seed)
        return next(m.label for m in self.anchor.node.membership.members.values() if m.identity == identity)

    def _flush_disks(self) -> None:
        """Nobody dies within a disk write of a start.

        If its clock had also been hours ahead then, and is right again later, its timestamps would lie behind those it
        has used, and nobody would talk to it for so long. That takes three faults within a millisecond.
        """
        self.mesh.run_for(10 * MILLISECOND)

    def _pick(self, number: int) -> tuple[Host, Fate]:
        host = self.hosts[number % len(self.hosts)]
        return host, self.fates[host.name]

    def _say(self, text: str) -> None:
        self.log.append(f"{self.mesh.world.time / SECOND:10.3f}  {text}")
        self.mesh.world.note("story", "fault", text)


def tell(
    seed: int, length: int = 60, size: int = 6, begun: Callable[[Story], None] = lambda story: None
) -> Story:
    """A random story: everybody joins, things happen, and in between it settles. Raises where the model is right.

    `begun` gets the story before anything happens in it: to look at it after a failure.
    """
    dice = random.Random(seed)
    story = Story(seed, size)
    begun(story)
    for number in range(1, size):
        story.join(number)
    story.settle()
    happenings: list[tuple[int, Callable[[], None]]] = [
        (6, lambda: story.pass_time(dice.choice([5, 200, 3000, 40_000]))),
        (4, lambda: story.send(dice.randrange(size), dice.randrange(size))),
        (2, lambda: story.crash(dice.randrange(size))),
        (1, lambda: story.stop(dice.randrange(size))),
        (4, lambda: story.start(dice.randrange(size))),
        (3, lambda: story.restart(dice.randrange(size))),
        (1, lambda: story.lose_disk(dice.randrange(size))),
        (2, lambda: story.join(dice.randrange(size))),
        (2, lambda: story.suspend(dice.randrange(size))),
        (3, lambda: story.resume(dice.randrange(size))),
        (3, lambda: story.move(dice.randrange(size), dice.choice(NETWORKS))),
        (1, lambda: story.flush_nat(dice.choice(NETWORKS[1:]))),
        (1, lambda: story.renumber_router(dice.choice(NETWORKS[1:]))),
        (1, lambda: story.set_clock(dice.randrange(size), dice.choice([-80_000, -3600, 0, 3600]))),
        (1, lambda: story.spoil_line(dice.randrange(size), dice.choice([0.0, 0.1, 0.3]))),
        (1, lambda: story.partition(dice.randrange(size))),
        (2, story.heal),
        (1, lambda: story.revoke(dice.randrange(size))),
        (3, story.settle),
    ]
    weights = [weight for weight, _ in happenings]
    for _ in range(length):
        dice.choices(happenings, weights)[0][1]()
    story.heal()
    story.start(0)
    story.settle()
    return story
