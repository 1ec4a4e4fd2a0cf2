"""A world with a mesh in it: what tests set up, ask, and wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import combinations, permutations

from meshnode.crypto.primitives import SODIUM, Ciphers
from meshnode.crypto.suites import aead
from meshnode.dataplane.session import AeadFactory
from meshnode.proto.invitations import InvitationTerms
from meshnode.values import MILLISECOND, SECOND, Nanos
from tests.sim.applications import Ping
from tests.sim.attacker import Attacker
from tests.sim.cheap import CHEAP, cheap_aead
from tests.sim.host import ANYBODY, Equipment, Host, Weather
from tests.sim.invariants import Invariants
from tests.sim.link import Link
from tests.sim.nat import NatKind
from tests.sim.network import Internet, Network, Router
from tests.sim.world import World

UPLINK = Link(latency=10 * MILLISECOND)
"""What joins a host to the internet where a test says nothing else: 20 ms from host to host."""


class Mesh:
    """Hosts on an internet. With `cheap` ciphers hundreds of nodes run fast; only without attackers."""

    def __init__(self, seed: int = 0, cheap: bool = False, trace_limit: int = 20_000) -> None:
        self.world = World(seed, trace_limit)
        self.internet = Internet(self.world)
        self.invariants = Invariants()
        ciphers: Ciphers = CHEAP if cheap else SODIUM
        factory: AeadFactory = cheap_aead if cheap else aead
        self.equipment = Equipment(self.world, Weather(), self.invariants, ciphers, factory)
        self.hosts: dict[str, Host] = {}
        self.lans: dict[str, tuple[Network, Router]] = {}

    # --- setting up ---------------------------------------------------------------------------------

    def add_host(
        self,
        name: str,
        network: Network | None = None,
        link: Link = UPLINK,
        families: str = "46",
    ) -> Host:
        """A host in `network`, by default on the internet itself.

        `link` is its line out; the line in has the latency and MTU of it and no faults, so that what one sets
        here is what one gets in each direction between two such hosts.
        """
        network = network or self.internet
        down = Link(latency=link.latency, mtu=link.mtu)
        plug = network.plug_in(name, lambda packet: None, link, down, families)
        host = Host(self.equipment, name, network, plug)
        self.world.honest[name] = None
        self.hosts[name] = host
        return host

    def add_lan(
        self, name: str, kind: NatKind, ipv6: bool = False, outside: Network | None = None
    ) -> Network:
        """A LAN behind a NAT; its router is in `lans`. Without IPv6 unless asked for, so that the NAT
        matters.
        """
        self.lans[name] = self.internet.add_lan(name, kind, ipv6=ipv6, outside=outside)
        return self.lans[name][0]

    def router(self, lan: str) -> Router:
        return self.lans[lan][1]

    def use_aead(self, factory: AeadFactory) -> None:
        """Let nodes that start from now on use another data cipher."""
        self.equipment.aead = factory

    def add_attacker(self, name: str = "mallory") -> Attacker:
        """Somebody who is not honest."""
        self.invariants.addresses.remember_data = True
        return Attacker(self.internet, name)

    def found(self, host: Host, net: str = "home") -> None:
        """`host` founds the network and runs."""
        host.init(net)
        host.start()

    def enrol(self, joiner: Host, inviter: Host, terms: InvitationTerms = ANYBODY) -> None:
        """Invite, join, and wait until the joiner is a member."""
        joiner.join(inviter.invite(terms))
        self.world.wait_until(lambda: joiner.running, 30 * SECOND, f"{joiner.name} joins {inviter.name}")

    def grow(self, names: Iterable[str], network: Network | None = None) -> list[Host]:
        """Hosts of these names, the first of them the founder, all members; nobody has waited for sessions."""
        hosts = [self.add_host(name, network) for name in names]
        self.found(hosts[0])
        for host in hosts[1:]:
            self.enrol(host, hosts[0])
        return hosts

    # --- faults -------------------------------------------------------------------------------------

    def partition(self, *groups: set[str]) -> None:
        """Hosts of different groups hear nothing of each other, whatever networks they are in."""
        self.world.note("world", "fault", f"partition {' | '.join(', '.join(sorted(g)) for g in groups)}")
        self.equipment.weather.groups = [frozenset(group) for group in groups]

    def heal(self) -> None:
        """All partitions and blocked families are over."""
        self.world.note("world", "fault", "healed")
        self.equipment.weather.groups = []
        self.equipment.weather.blocked_family = 0

    def block_family(self, family: str) -> None:
        """IPv4 ("4") or IPv6 ("6") reaches nobody any more, the other does."""
        self.world.note("world", "fault", f"IPv{family} is blocked")
        self.equipment.weather.blocked_family = int(family)

    # --- asking -------------------------------------------------------------------------------------

    def is_up(self, a: Host, b: Host) -> bool:
        """Whether both take each other for up."""
        return a.path_to(b) is not None and b.path_to(a) is not None

    def all_up(self, hosts: Iterable[Host] | None = None) -> bool:
        """Whether every pair of these hosts (all that run, by default) is up."""
        chosen = [h for h in (self.hosts.values() if hosts is None else hosts) if h.running]
        return all(self.is_up(a, b) for a, b in combinations(chosen, 2))

    # --- waiting ------------------------------------------------------------------------------------

    def run_for(self, duration: Nanos) -> None:
        self.world.run_for(duration)

    def count_sent(self, kind: int) -> int:
        """How many datagrams of this type honest hosts have sent."""
        return self.equipment.weather.sent[kind]

    def wait_for(self, condition: Callable[[], bool], within: Nanos, what: str) -> Nanos:
        return self.world.wait_until(condition, within, what)

    def wait_all_up(self, within: Nanos, hosts: Iterable[Host] | None = None) -> Nanos:
        """Wait until every pair is up; how long it took."""
        chosen = None if hosts is None else list(hosts)
        # Asking for all pairs after every packet would cost more than the mesh does.
        began = self.world.time
        while not self.all_up(chosen):
            if self.world.time - began >= within:
                raise AssertionError(f"not all up within {within / SECOND:g} s: {self.describe_gaps(chosen)}")
            self.world.run_for(50 * MILLISECOND)
        return self.world.time - began

    def everybody_pings(self, within: Nanos = 2 * SECOND, hosts: Iterable[Host] | None = None) -> None:
        """Every pair pings in both directions, over IPv4 and IPv6, and is answered.

        Twice a second, as a person would try: a packet that meets a session of which the other side has just
        learnt that it is over may be lost.
        """
        chosen = [h for h in (self.hosts.values() if hosts is None else hosts) if h.running]
        waiting: dict[tuple[Host, bytes], list[Ping]] = {
            (a, to): [] for a, b in permutations(chosen, 2) for to in b.member.addresses
        }
        deadline = self.world.time + within
        while waiting and self.world.time < deadline:
            for (host, to), pings in waiting.items():
                pings.append(host.applications.ping(to))
            self.world.run_for(500 * MILLISECOND)
            waiting = {key: pings for key, pings in waiting.items() if not any(p.answered for p in pings)}
        assert not waiting, f"no answer to the pings of {', '.join(sorted({h.name for h, _ in waiting}))}"

    def describe_gaps(self, hosts: list[Host] | None = None) -> str:
        """Which pairs are not up, and what each side says."""
        chosen = [h for h in (hosts or self.hosts.values()) if h.running]
        gaps = []
        for a, b in permutations(chosen, 2):
            if a.path_to(b) is None:
                assert a.node is not None
                peer = a.node.peers.get(b.member.peer)
                gaps.append(f"{a.name} to {b.name}: {'unknown' if peer is None else peer.why}")
        return "; ".join(gaps[:10]) or "none"
