"""Anti-entropy: members that meet end up with the union of what they know (docs/protocol.md section 5).

Digest first, difference after. A digest names everything known; a different one is answered with the hashes of 32
buckets, those that differ with the short hashes of their items, and these with the items that the other side lacks and
a list of what it should send back. Each message stands for itself, so loss only costs the next round. What is new goes
on at once: its origin tells every peer, everybody else a few at random; digests repair the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from meshnode.crypto.primitives import short_hash
from meshnode.proto.constants import (
    DIGEST_INTERVAL,
    DIGEST_PEERS,
    GOSSIP_BURST,
    GOSSIP_BYTES_PER_SECOND,
    GOSSIP_FANOUT,
    SYNC_TIMEOUT,
    SYNCS_AT_ONCE,
)
from meshnode.proto.context import Context
from meshnode.proto.guard import Bucket
from meshnode.proto.membership import Membership
from meshnode.values import BadPacket, Nanos, Now, PeerId
from meshnode.wire.control import Buckets, ControlMessage, Digest, Statements, Summary, Want
from meshnode.wire.statement import SignedStatement

BUCKETS = 32
"""So many hashes fit into a message over the smallest underlay, of 576 bytes."""
SHORT = 8
"""Bytes of an item's hash in summaries: a collision only delays an item until a later statement replaces one."""

MESSAGE_BYTES = 1000
"""Items packed into one control message, with room for its frame and headers below 1,200."""

SUMMARY_ITEMS = 40

INCOME = 2
"""What a peer may send us, in units of what it may make us send: true news never comes near that."""

ORPHANED = ("record of a stranger", "signer unknown")
MAX_ORPHANS = 64


@dataclass(frozen=True, slots=True)
class _Inventory:
    """All that is known at one version of the membership, arranged as the messages need it."""

    version: int
    digest: bytes
    buckets: list[list[bytes]]
    hashes: tuple[bytes, ...]
    by_short: dict[bytes, bytes]
    place: dict[bytes, int]


class Gossip:
    """Decides what to tell whom. `learned` is called with every statement or record that is news."""

    OWNER = "gossip"

    def __init__(
        self,
        context: Context,
        membership: Membership,
        up_peers: Callable[[], list[PeerId]],
        learned: Callable[[SignedStatement, PeerId, Now], None],
        now: Now,
        room: Callable[[PeerId], int] = lambda peer: MESSAGE_BYTES,
    ) -> None:
        """`room`: how many bytes of items one message to a peer may have, by its path's MTU."""
        self._context = context
        self._membership = membership
        self._up_peers = up_peers
        self._room = room
        self._learned = learned
        self._budgets: dict[PeerId, Bucket] = {}
        self._income: dict[PeerId, Bucket] = {}
        self._differs: dict[PeerId, bytes] = {}
        self._syncing: dict[PeerId, Nanos] = {}
        self._cached: _Inventory | None = None
        self._orphans: deque[bytes] = deque(maxlen=MAX_ORPHANS)
        context.timers.set(self.OWNER, "digest", now.boot + DIGEST_INTERVAL)

    # --- what the node reports ----------------------------------------------------------------------------------------

    def peer_up(self, peer: PeerId, now: Now) -> None:
        """A session has come up: compare what we know."""
        self._budgets[peer] = Bucket(GOSSIP_BYTES_PER_SECOND, GOSSIP_BURST, now.boot)
        self._send_digest(peer)

    def peer_gone(self, peer: PeerId) -> None:
        for table in (self._budgets, self._income, self._differs, self._syncing):
            table.pop(peer, None)

    def publish(self, items: list[bytes], now: Now) -> None:
        """Something of our own is new: tell everybody. No budget holds that up, whoever has spent it on what."""
        for peer in self._up_peers():
            self._send_items(peer, items, None, now)

    def handle_untrusted(self, peer: PeerId, message: ControlMessage, now: Now) -> None:
        """One gossip message from `peer`."""
        if isinstance(message, Digest):
            self._read_digest(peer, message, now)
        elif isinstance(message, Buckets):
            self._read_buckets_untrusted(peer, message, now)
        elif isinstance(message, Summary):
            self._read_summary_untrusted(peer, message, now)
        elif isinstance(message, Want):
            self._read_want(peer, message, now)
        elif isinstance(message, Statements):
            self._read_items_untrusted(peer, message, now)

    def handle_timer(self, now: Now) -> None:
        """Digests to a few peers at random, and another try with those that are known to differ."""
        peers = self._up_peers()
        for peer in self._choose(peers, DIGEST_PEERS):
            self._send_digest(peer)
        self._start_syncs(now)
        gap = DIGEST_INTERVAL if not self._differs else SYNC_TIMEOUT
        self._context.timers.set(self.OWNER, "digest", now.boot + gap + self._context.jitter(gap // 4))

    # --- digests and buckets ------------------------------------------------------------------------------------------

    def digest(self) -> bytes:
        """16 bytes that are equal exactly where two nodes know the same."""
        return self._inventory().digest

    def _send_digest(self, peer: PeerId) -> None:
        count = len(self._membership.everything())
        self._context.send_control(peer, Digest(self.digest(), count))

    def _read_digest(self, peer: PeerId, message: Digest, now: Now) -> None:
        if message.hash == self.digest():
            self._differs.pop(peer, None)
            self._syncing.pop(peer, None)
            return
        self._differs[peer] = message.hash
        self._start_syncs(now)
        due = self._context.timers.deadline(self.OWNER, "digest")
        if due is None or now.boot + SYNC_TIMEOUT < due:  # never later: else a peer could silence us
            self._context.timers.set(self.OWNER, "digest", now.boot + SYNC_TIMEOUT)

    def _start_syncs(self, now: Now) -> None:
        """Ask a few of those that differ for the difference: a newcomer shall not get everything from everybody."""
        self._syncing = {p: t for p, t in self._syncing.items() if now.boot - t < SYNC_TIMEOUT}
        ours = self.digest()
        for peer, theirs in list(self._differs.items()):
            if theirs == ours or peer not in self._budgets:
                del self._differs[peer]
            elif peer not in self._syncing and len(self._syncing) < SYNCS_AT_ONCE:
                self._syncing[peer] = now.boot
                self._differs[peer] = self._differs.pop(peer)  # next time it is another's turn first
                self._context.send_control(peer, Buckets(self._inventory().hashes))

    def _inventory(self) -> _Inventory:
        membership = self._membership
        if self._cached is None or self._cached.version != membership.version:
            items = sorted(membership.everything())
            buckets: list[list[bytes]] = [[] for _ in range(BUCKETS)]
            for item in items:
                buckets[item[0] % BUCKETS].append(item)
            self._cached = _Inventory(
                membership.version,
                short_hash(*items),
                buckets,
                tuple(short_hash(*bucket)[:SHORT] for bucket in buckets),
                {item[:SHORT]: item for item in items},
                {raw: n for n, raw in enumerate((*membership.statements(), *membership.records()))},
            )
        return self._cached

    def _read_buckets_untrusted(self, peer: PeerId, message: Buckets, now: Now) -> None:
        if len(message.hashes) != BUCKETS:
            raise BadPacket("buckets")
        inventory = self._inventory()
        for number, (ours, theirs) in enumerate(zip(inventory.hashes, message.hashes, strict=True)):
            shorts = [item[:SHORT] for item in inventory.buckets[number][:SUMMARY_ITEMS]]
            if ours != theirs and self._afford(peer, 64 + SHORT * len(shorts), now):
                self._context.send_control(peer, Summary(number, tuple(shorts)))

    def _read_summary_untrusted(self, peer: PeerId, message: Summary, now: Now) -> None:
        if message.bucket >= BUCKETS:
            raise BadPacket("bucket")
        ours = {item[:SHORT]: item for item in self._inventory().buckets[message.bucket]}
        theirs = dict.fromkeys(message.items)
        everything = self._membership.everything()
        self._send_items(peer, [everything[i].raw for s, i in ours.items() if s not in theirs], peer, now)
        wanted = tuple(s for s in theirs if s not in ours)
        if wanted and self._afford(peer, SHORT * len(wanted), now):
            self._context.send_control(peer, Want(wanted))

    def _read_want(self, peer: PeerId, message: Want, now: Now) -> None:
        everything = self._membership.everything()
        by_short = self._inventory().by_short
        wanted = [by_short[short] for short in dict.fromkeys(message.items) if short in by_short]
        self._send_items(peer, [everything[item].raw for item in wanted], peer, now)

    # --- items --------------------------------------------------------------------------------------------------------

    def _send_items(self, peer: PeerId, items: list[bytes], payer: PeerId | None, now: Now) -> None:
        """Pack statements and records into as few messages as they need, signers before those they vouch for.

        `payer` is who makes us send them, and has a budget for that.
        """
        batch: list[bytes] = []
        size, room = 0, self._room(peer)
        for raw in self._in_order(items):
            if payer is not None and not self._afford(payer, len(raw), now):
                break
            if size + len(raw) > room and batch:
                self._context.send_control(peer, Statements(tuple(batch)))
                batch, size = [], 0
            batch.append(raw)
            size += len(raw) + 3
        if batch:
            self._context.send_control(peer, Statements(tuple(batch)))

    def _in_order(self, items: list[bytes]) -> list[bytes]:
        """By kind of dependency: what vouches first. Genesis never travels so: all have it from their enrolment."""
        if len(items) < 2:
            return items
        place = self._inventory().place
        return sorted((raw for raw in items if raw in place), key=place.__getitem__)

    def _read_items_untrusted(self, peer: PeerId, message: Statements, now: Now) -> None:
        """Learn what is news and pass it on. One bad item does not spoil the others.

        Messages overtake each other, so an item may come before the one that vouches for it: such orphans wait, a
        few of them, and are tried again when something new has come.
        """
        if peer not in self._income:  # its first datagram, perhaps
            self._income[peer] = Bucket(INCOME * GOSSIP_BYTES_PER_SECOND, INCOME * GOSSIP_BURST, now.boot)
        if not self._income[peer].take(now.boot, sum(map(len, message.items))):
            raise BadPacket("gossip flood")
        news = [raw for raw in message.items if self._learn(raw, peer, now)]
        if news:
            orphans, self._orphans = self._orphans, deque(maxlen=MAX_ORPHANS)
            news += [raw for raw in orphans if self._learn(raw, peer, now)]
            others = [p for p in self._up_peers() if p != peer]
            for other in self._choose(others, GOSSIP_FANOUT):
                self._send_items(other, news, peer, now)
            if self._syncing:
                self._start_syncs(now)

    def _learn(self, raw: bytes, peer: PeerId, now: Now) -> bool:
        try:
            signed = self._membership.add_untrusted(raw, now.wall)
        except BadPacket as error:
            if error.reason in ORPHANED:
                self._orphans.append(raw)
            self._context.count(f"gossip {error.reason}")
            return False
        if signed is None:
            return False
        self._learned(signed, peer, now)
        return True

    # --- inside -------------------------------------------------------------------------------------------------------

    def _afford(self, peer: PeerId, size: int, now: Now) -> bool:
        """Whether `peer` may make us send `size` more bytes now."""
        bucket = self._budgets.get(peer)
        if bucket is None or not bucket.take(now.boot, size):
            self._context.count("gossip paced")
            return False
        return True

    def _choose(self, peers: list[PeerId], count: int) -> list[PeerId]:
        """`count` of `peers` at random, in random order."""
        pool = list(peers)
        chosen: list[PeerId] = []
        while pool and len(chosen) < count:
            number = int.from_bytes(self._context.entropy.token(4), "big") % len(pool)
            chosen.append(pool.pop(number))
        return chosen
