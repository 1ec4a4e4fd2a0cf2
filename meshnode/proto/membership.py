"""Who belongs to the network: a set of signed statements, merged by union, and what follows from it.

Theory of operation. Statements arrive in any order, from anyone. `add` keeps one when its signature is right and its
signer is *known* (the root, or somebody to whom a kept grant gave the role admin at some time), so that what is kept
does not depend on the order of arrival. What is *valid* is computed from all that is kept, by the rules of DESIGN
section 3: grants reach from a root over at most three signers, each valid itself; root's revocations are final, an
admin's count against those who are no admins; of several grants the highest serial wins, but those for an admin count
only from its own distance to the root or nearer; of two claims to a name or an IPv4 address the earlier not-before,
then the lower key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from meshnode.crypto.primitives import Ciphers
from meshnode.proto.constants import (
    CLOCK_TOLERANCE_S,
    MAX_CHAIN,
    MAX_MEMBERS,
    MAX_STATEMENTS,
    MAX_STATEMENTS_PER_SIGNER,
)
from meshnode.values import SECOND, BadPacket, Nanos, PeerId, Prefix
from meshnode.wire.address import link_local, network_id, peer_id, unique_local
from meshnode.wire.statement import (
    Genesis,
    Grant,
    Record,
    Revocation,
    Role,
    SignedStatement,
    Succession,
    pack_unsigned,
    parse_statement_untrusted,
    to_be_signed,
)

_Key = tuple[str, bytes]
"""Kind and subject of a statement: see `_key`."""


@dataclass(frozen=True, slots=True)
class Member:
    """A valid member as every node sees it. `name` and `ipv4` are None where an older claim has won them."""

    peer: PeerId
    identity: bytes
    static: bytes
    name: str | None
    granted_name: str
    ipv4: bytes | None
    ipv6: bytes
    link_local: bytes
    prefixes: tuple[Prefix, ...]
    roles: Role
    serial: int
    not_before: int
    not_after: int
    lost: tuple[str, ...]

    @property
    def label(self) -> str:
        """A name to show that is unique among members: the granted one, marked where it was lost."""
        return self.name if self.name is not None else f"{self.granted_name}~{self.peer.hex()[:6]}"

    @property
    def addresses(self) -> tuple[bytes, ...]:
        """Inner addresses, IPv4 first, without the link-local one."""
        return (self.ipv4, self.ipv6) if self.ipv4 is not None else (self.ipv6,)


class Membership:
    """The statements of one network and the members that follow from them. `wall` is nanoseconds since 1970."""

    def __init__(self, ciphers: Ciphers, genesis: bytes, wall: Nanos) -> None:
        """`genesis` is the root's statement as stored; it must verify, or BadPacket is raised."""
        self._ciphers = ciphers
        signed = parse_statement_untrusted(genesis)
        if not isinstance(signed.body, Genesis) or signed.signer != signed.body.root:
            raise BadPacket("no genesis")
        self.genesis = signed.body
        self.network_id = network_id(signed.body.root)
        self._verify_untrusted(signed)
        self._genesis = signed
        self._kept: dict[bytes, dict[_Key, SignedStatement]] = {}
        self._records: dict[PeerId, SignedStatement] = {}
        self._hashes: dict[bytes, SignedStatement] = {signed.hash: signed}
        self._known: dict[bytes, int] = {signed.body.root: 0}
        self._granted: dict[bytes, None] = {}
        self.version = 0
        """Grows with every change of what is kept."""
        self._wall = wall
        self._view: _View | None = None

    # --- what is kept ------------------------------------------------------------------------------------

    def add_untrusted(self, raw: bytes, wall: Nanos) -> SignedStatement | None:
        """Keep the statement or record `raw`. Returns it when it is news, None when it is known or superseded.

        Raises BadPacket when it is malformed, its signature is wrong, or nobody vouches for its signer.
        """
        signed = parse_statement_untrusted(raw)
        if signed.hash in self._hashes:
            return None
        if isinstance(signed.body, Record):
            return self._add_record_untrusted(signed, signed.body)
        if isinstance(signed.body, Genesis):
            raise BadPacket("another genesis")
        key = _key(signed)
        if not self._may_sign(signed):
            raise BadPacket("signer unknown")
        held = self._kept.get(signed.signer, {}).get(key)
        if held is not None and _rank(held) >= _rank(signed):
            return None
        if held is None and self._is_full_for(signed.signer):
            raise BadPacket("too many statements")
        self._verify_untrusted(signed)
        self._keep(key, held, signed)
        self.refresh(wall)
        return signed

    def statements(self) -> list[bytes]:
        """All that is kept but genesis and records, signers before those they vouch for."""
        place = {signer: (depth, n) for n, (signer, depth) in enumerate(self._known.items())}
        return [s.raw for s in sorted(self._all(), key=lambda s: (place[s.signer], s.hash))]

    def records(self) -> list[bytes]:
        return [self._records[peer].raw for peer in sorted(self._records)]

    def record(self, peer: PeerId) -> Record | None:
        """The newest record of a node, None where there is none."""
        signed = self._records.get(peer)
        return signed.body if signed is not None and isinstance(signed.body, Record) else None

    def everything(self) -> dict[bytes, SignedStatement]:
        """All statements and records by hash (gossip reads it, nobody writes it)."""
        return self._hashes

    @property
    def genesis_statement(self) -> bytes:
        return self._genesis.raw

    # --- what follows -----------------------------------------------------------------------------------------

    @property
    def members(self) -> dict[PeerId, Member]:
        """Who is a member now, in order of precedence."""
        return self._current().members

    @property
    def revoked(self) -> dict[PeerId, str]:
        """Whose keys are refused for good, and by whom."""
        return self._current().revoked

    def by_static(self, static: bytes) -> Member | None:
        return self._current().by_static.get(static)

    def by_name(self, text: str) -> Member | None:
        """The member that a person means by `text`: a name, or the beginning of an id that is unique."""
        for member in self.members.values():
            if member.label == text:
                return member
        found = [m for m in self.members.values() if len(text) >= 4 and m.peer.hex().startswith(text.lower())]
        return found[0] if len(found) == 1 else None

    def chain(self, identity: bytes) -> tuple[bytes, ...]:
        """The statements that prove a member: its grant first, then its signers', a succession last."""
        signed = self._current().grants.get(identity)
        return () if signed is None else (signed.raw, *self.vouchers(signed.signer))

    def vouchers(self, signer: bytes) -> tuple[bytes, ...]:
        """The statements that prove a signer; none for the genesis root."""
        chain: list[bytes] = []
        view = self._current()
        while signer != self.genesis.root:
            signed = view.successions.get(signer) or view.grants.get(signer)
            if signed is None:
                break
            chain.append(signed.raw)
            signer = signed.signer
        return tuple(chain)

    def next_serial(self, identity: bytes) -> int:
        bodies = [s.body for s in self._all() if _grants(s, identity)]
        serials = [body.serial for body in bodies if isinstance(body, Grant)]
        return max(serials, default=0) + 1

    def signed_only_by(self, signer: bytes) -> list[Grant]:
        """Grants in force that this signer gave (what would fall with it)."""
        grants = self._current().grants.values()
        return [s.body for s in grants if s.signer == signer and isinstance(s.body, Grant)]

    def revoked_only_by(self, signer: bytes) -> list[Revocation]:
        """Revocations that nobody but this signer has signed (what would be void without it)."""
        revocations = [s for s in self._all() if isinstance(s.body, Revocation)]
        others = {_subject(s): None for s in revocations if s.signer != signer and s.signer in self._known}
        mine = [s.body for s in revocations if s.signer == signer and _subject(s) not in others]
        return [body for body in mine if isinstance(body, Revocation)]

    def admin_level(self, identity: bytes) -> int | None:
        """How many grants an admin is away from the root (1 to 3); None for who is no admin."""
        return self._current().admins.get(identity)

    def is_root(self, key: bytes) -> bool:
        return self._known.get(key) == 0

    def next_change(self) -> Nanos | None:
        """Wall time at which a grant begins or ends to count; `refresh` then."""
        change = self._current().next_change
        return None if change is None else change * SECOND

    def refresh(self, wall: Nanos) -> None:
        """Time has passed, or statements came: who is a member is computed anew when somebody asks."""
        self._wall = wall
        self._view = None

    def _current(self) -> _View:
        if self._view is None:
            kept = list(self._all())
            roots = [key for key, depth in self._known.items() if depth == 0]
            rules = _Rules(kept, roots, self.genesis.created, self._wall // SECOND)
            self._view = _View(self.network_id, rules, _successions(kept, self.genesis.root))
        return self._view

    # --- signing -----------------------------------------------------------------------------------------

    def sign(self, body: Grant | Revocation | Succession | Record, seed: bytes) -> bytes:
        """The statement `body`, signed with the Ed25519 `seed` (an identity's or the root's)."""
        unsigned = pack_unsigned(body, self._ciphers.identity_key(seed))
        return unsigned + self._ciphers.sign(seed, to_be_signed(self.network_id, unsigned))

    # --- inside ------------------------------------------------------------------------------------------

    def _verify_untrusted(self, signed: SignedStatement) -> None:
        if not self._ciphers.verify(signed.signer, signed.signature, signed.signed_bytes(self.network_id)):
            raise BadPacket("signature")

    def _may_sign(self, signed: SignedStatement) -> bool:
        depth = self._known.get(signed.signer)
        if depth is None or isinstance(signed.body, Revocation):
            return depth is not None
        return depth == 0 or (depth < MAX_CHAIN and not isinstance(signed.body, Succession))

    def _is_full_for(self, signer: bytes) -> bool:
        """Whether an admin has to be stopped. A root never is: it must be able to revoke who has filled us up."""
        if self._known[signer] == 0:
            return False
        by_signer = len(self._kept.get(signer, ()))
        return by_signer >= MAX_STATEMENTS_PER_SIGNER or len(self._hashes) >= MAX_STATEMENTS

    def _keep(self, key: _Key, held: SignedStatement | None, signed: SignedStatement) -> None:
        if held is not None:
            del self._hashes[held.hash]
        self.version += 1
        self._kept.setdefault(signed.signer, {})[key] = signed
        self._hashes[signed.hash] = signed
        if isinstance(signed.body, Grant):
            self._granted[signed.body.subject] = None
        self._follow(signed)

    def _follow(self, signed: SignedStatement) -> None:
        """Let the new signer whom `signed` names be known, and nearer to the root whom it has named in turn."""
        depth = self._known[signed.signer]
        if isinstance(signed.body, Succession) and depth == 0:
            named = signed.body.root
        elif _is_admin(signed) and depth < MAX_CHAIN:
            named, depth = _subject(signed), depth + 1
        else:
            return
        if self._known.get(named, MAX_CHAIN + 1) <= depth:
            return
        self._known.pop(named, None)
        self._known[named] = depth  # behind its signer, also in the order of the table
        for further in self._kept.get(named, {}).values():
            self._follow(further)

    def _all(self) -> Iterator[SignedStatement]:
        """Everything kept but genesis and records."""
        return (signed for by_signer in self._kept.values() for signed in by_signer.values())

    def _add_record_untrusted(self, signed: SignedStatement, record: Record) -> SignedStatement | None:
        peer = peer_id(signed.signer)
        if signed.signer not in self._granted:
            raise BadPacket("record of a stranger")
        held = self._records.get(peer)
        if held is not None and _rank(held) >= _rank(signed):
            return None
        self._verify_untrusted(signed)
        if held is not None:
            del self._hashes[held.hash]
        self.version += 1
        self._records[peer] = signed
        self._hashes[signed.hash] = signed
        return signed


def fitting(chain: tuple[bytes, ...], room: int) -> tuple[bytes, ...]:
    """As many statements from the beginning of `chain` as have `room` bytes together."""
    for count, raw in enumerate(chain):
        room -= len(raw)
        if room < 0:
            return chain[:count]
    return chain


class _Rules:
    """One evaluation of the statements at one time: winning grants by subject, and who is revoked why."""

    def __init__(self, kept: list[SignedStatement], roots: list[bytes], created: int, now: int) -> None:
        self._now = now
        self._clock_is_wrong = now < created - CLOCK_TOLERANCE_S
        self.next_change: int | None = None
        self.revoked: dict[bytes, str] = {}
        grants = [s for s in kept if isinstance(s.body, Grant)]
        revocations = [s for s in kept if isinstance(s.body, Revocation)]
        self._revoke(revocations, roots, "revoked by the root")
        self.winners, self.admins = self._walk(grants, roots, self._counts)
        # Whoever was an admin once revokes for good: nobody comes back because somebody else's term has ended.
        _, once = self._walk(grants, roots, lambda signed: True)
        ordinary = [r for r in revocations if _subject(r) not in self.admins]
        self._revoke(ordinary, once, "revoked by an admin")
        for subject in self.revoked:
            self.winners.pop(subject, None)

    def _walk(
        self, grants: list[SignedStatement], roots: Iterable[bytes], counts: Callable[[SignedStatement], bool]
    ) -> tuple[dict[bytes, SignedStatement], dict[bytes, int]]:
        """Winning grants by subject, and the level of every admin, level by level from the roots.

        The level nearest to the root says who is an admin, and no deeper one is heard about an admin: else any admin
        could put out any other by granting it anew.
        """
        winners: dict[bytes, SignedStatement] = {}
        admins: dict[bytes, int] = {}
        signers = dict.fromkeys(roots)
        for depth in range(1, MAX_CHAIN + 1):
            level: dict[bytes, SignedStatement] = {}
            for signed in grants:
                subject = _subject(signed)
                if signed.signer not in signers or subject in self.revoked or subject in admins:
                    continue
                if counts(signed):
                    _raise(level, signed)
            signers = {s: None for s, g in level.items() if s not in winners and _is_admin(g)}
            admins.update(dict.fromkeys(signers, depth))
            for signed in level.values():
                _raise(winners, signed)
        return winners, admins

    def _counts(self, signed: SignedStatement) -> bool:
        """Whether the grant's dates include now, give or take the clocks of small machines."""
        grant = signed.body
        assert isinstance(grant, Grant)
        begins, ends = grant.not_before - CLOCK_TOLERANCE_S, grant.not_after + CLOCK_TOLERANCE_S
        if begins > self._now and not self._clock_is_wrong:
            self._note_change(begins)
            return False
        if grant.not_after == 0:
            return True
        if ends > self._now:
            self._note_change(ends)
        return ends > self._now

    def _note_change(self, at: int) -> None:
        self.next_change = at if self.next_change is None else min(self.next_change, at)

    def _revoke(self, revocations: list[SignedStatement], signers: Iterable[bytes], reason: str) -> None:
        heard = dict.fromkeys(signers)
        for signed in revocations:
            if signed.signer in heard:
                self.revoked.setdefault(_subject(signed), reason)


class _View:
    """What follows from the statements at one time, ready to be asked."""

    def __init__(self, network: bytes, rules: _Rules, successions: dict[bytes, SignedStatement]) -> None:
        self.successions = successions
        self.grants = rules.winners
        self.admins = rules.admins
        self.next_change = rules.next_change
        self.members = _settle_claims(network, rules)
        self.revoked = {peer_id(subject): reason for subject, reason in rules.revoked.items()}
        self.by_static: dict[bytes, Member] = {}
        for member in self.members.values():
            self.by_static.setdefault(member.static, member)


def _successions(kept: list[SignedStatement], genesis: bytes) -> dict[bytes, SignedStatement]:
    """Every root but the first, with the statement by which it is one: the shortest line of them counts."""
    found: dict[bytes, SignedStatement] = {}
    line = [genesis]
    while line:
        heirs = [s for s in kept if isinstance(s.body, Succession) and s.signer in line]
        line = []
        for signed in sorted(heirs, key=lambda s: s.hash):
            assert isinstance(signed.body, Succession)
            if signed.body.root != genesis and signed.body.root not in found:
                found[signed.body.root] = signed
                line.append(signed.body.root)
    return found


def _settle_claims(network: bytes, rules: _Rules) -> dict[PeerId, Member]:
    """Members in order of precedence: who was granted first keeps a disputed name or IPv4 address."""
    grants = [s.body for s in rules.winners.values() if isinstance(s.body, Grant)]
    grants.sort(key=lambda g: (g.not_before, g.subject))
    names: dict[str, None] = {}
    addresses: dict[bytes, None] = {}
    members: dict[PeerId, Member] = {}
    for grant in grants[:MAX_MEMBERS]:
        lost = []
        if grant.name in names:
            lost.append(f"name {grant.name}")
        if grant.ipv4 is not None and grant.ipv4 in addresses:
            lost.append(f"IPv4 address {'.'.join(map(str, grant.ipv4))}")
        member = _member(network, grant, grant.name in names, grant.ipv4 in addresses, tuple(lost), rules)
        names[grant.name] = None
        if grant.ipv4 is not None:
            addresses[grant.ipv4] = None
        members[member.peer] = member
    return members


def _member(
    network: bytes, grant: Grant, name_lost: bool, ipv4_lost: bool, lost: tuple[str, ...], rules: _Rules
) -> Member:
    peer = peer_id(grant.subject)
    roles = grant.roles & ~Role.ADMIN
    return Member(
        peer=peer,
        identity=grant.subject,
        static=grant.static,
        name=None if name_lost else grant.name,
        granted_name=grant.name,
        ipv4=None if ipv4_lost else grant.ipv4,
        ipv6=unique_local(network, peer),
        link_local=link_local(peer),
        prefixes=grant.prefixes,
        roles=roles | Role.ADMIN if grant.subject in rules.admins else roles,
        serial=grant.serial,
        not_before=grant.not_before,
        not_after=grant.not_after,
        lost=lost,
    )


def _subject(signed: SignedStatement) -> bytes:
    assert isinstance(signed.body, Grant | Revocation)
    return signed.body.subject


def _grants(signed: SignedStatement, subject: bytes) -> bool:
    return isinstance(signed.body, Grant) and signed.body.subject == subject


def _is_admin(signed: SignedStatement) -> bool:
    return isinstance(signed.body, Grant) and bool(signed.body.roles & Role.ADMIN)


def _key(signed: SignedStatement) -> _Key:
    """What a statement of one signer replaces: one grant and one revocation for each subject.

    Grants with the role admin are apart from those without, so that whom a signer has made known stays known.
    """
    body = signed.body
    if isinstance(body, Succession):
        return "succession", body.root
    if isinstance(body, Revocation):
        return "revocation", body.subject
    return "admin" if _is_admin(signed) else "member", _subject(signed)


def _rank(signed: SignedStatement) -> tuple[int, bytes]:
    """Of two statements with one key the higher is kept: newest grant and record, earliest revocation."""
    body = signed.body
    if isinstance(body, Grant):
        return body.serial, signed.hash
    if isinstance(body, Record):
        return body.sequence, signed.hash
    assert isinstance(body, Revocation | Succession)
    return -body.at, signed.hash


def _raise(level: dict[bytes, SignedStatement], signed: SignedStatement) -> None:
    held = level.get(_subject(signed))
    if held is None or _rank(held) < _rank(signed):
        level[_subject(signed)] = signed
