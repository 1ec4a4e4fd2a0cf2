"""A member that lies. Members are not trusted equally: a seal proves who speaks, and nothing of what is said.

mallet is a member with real keys and a real node, whose owner has taken it apart. (nebula took a whole subnet for
a source, CVE-2025-62820; others passed packets through IPv6 extension headers.)
"""

import pytest

from meshnode.dataplane.source_check import SourceCheck
from meshnode.proto.membership import Membership
from meshnode.values import SECOND, Endpoint
from meshnode.wire.control import Digest, Redeem, Statements
from meshnode.wire.frames import FrameType, Probe, ProbeMode, pack_frame
from meshnode.wire.statement import Grant, Record, Role, pack_unsigned, to_be_signed
from tests.attacks.field import Field, control, say, settled
from tests.sim import inner
from tests.sim.host import Host
from tests.sim.invariants import Broken


def field_with_insider() -> Field:
    return settled("alpha", "beta", "mallet", seed=5)


def inject(field: Field, packet: bytes) -> None:
    """Mallet seals an inner packet for beta without asking its own node. The ledger has never seen it sent."""
    say(field.host("mallet"), field.beta, pack_frame(FrameType.PACKET, packet))
    field.run(0.2)


def spoofed(field: Field) -> dict[str, bytes]:
    """Packets from mallet to beta whose sources are not mallet's."""
    alpha, beta = field.alpha.member, field.beta.member
    ports = (7, 7)
    assert alpha.ipv4 is not None
    assert beta.ipv4 is not None
    options = inner.ip_packet(alpha.ipv6, beta.ipv6, 0, bytes((17, 0, 1, 4, 0, 0, 0, 0)) + bytes(8))
    fragment = inner.ip_packet(alpha.ipv6, beta.ipv6, 44, bytes((17, 0, 0, 1, 0, 0, 0, 9)) + bytes(8))
    return {
        "another's link-local": inner.udp(alpha.link_local, beta.link_local, ports, b"x"),
        "another's IPv6": inner.udp(alpha.ipv6, beta.ipv6, ports, b"x"),
        "another's IPv4": inner.udp(alpha.ipv4, beta.ipv4, ports, b"x"),
        "the victim's own IPv6": inner.udp(beta.ipv6, beta.ipv6, ports, b"x"),
        "the victim's own IPv4": inner.udp(beta.ipv4, beta.ipv4, ports, b"x"),
        "loopback IPv4": inner.udp(bytes((127, 0, 0, 1)), beta.ipv4, ports, b"x"),
        "loopback IPv6": inner.udp(bytes(15) + b"\1", beta.ipv6, ports, b"x"),
        "unspecified": inner.udp(bytes(16), beta.ipv6, ports, b"x"),
        "mapped IPv4": inner.udp(bytes(10) + b"\xff\xff" + alpha.ipv4, beta.ipv6, ports, b"x"),
        "multicast": inner.udp(b"\xff\x02" + bytes(13) + b"\1", beta.ipv6, ports, b"x"),
        "an address of nobody": inner.udp(bytes((8, 8, 8, 8)), beta.ipv4, ports, b"x"),
        "Babel in another's name": inner.udp(
            alpha.link_local, b"\xff\x02" + bytes(11) + b"\1\0\6", (6696, 6696), b"*\2"
        ),
        "another's, behind hop-by-hop options": options,
        "another's, as a fragment": fragment,
    }


KINDS = list(spoofed(field_with_insider()))


@pytest.mark.parametrize("kind", KINDS)
def test_no_source_but_ones_own_gets_through(kind: str) -> None:
    field = field_with_insider()
    # Whatever comes out of beta's TUN is unknown to the ledger, which then fails.
    inject(field, spoofed(field)[kind])
    assert field.beta.plane is not None
    assert sum(n for name, n in field.beta.plane.counters.items() if "source" in name or "loop" in name) == 1


def test_ones_own_source_does_get_through() -> None:
    field = field_with_insider()
    mallet = field.host("mallet")
    packet = inner.udp(mallet.member.ipv6, field.beta.member.ipv6, (7, 7), b"x")
    field.mesh.invariants.inner.sent("mallet", packet)
    inject(field, packet)
    assert len(field.beta.applications.inbox) == 1


@pytest.mark.parametrize(
    "kind", ["another's link-local", "another's IPv6", "another's IPv4", "an address of nobody"]
)
def test_without_the_source_check_it_gets_through(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    field = field_with_insider()
    monkeypatch.setattr(SourceCheck, "_judge", lambda *_: None)
    with pytest.raises(Broken, match="nobody sent"):
        inject(field, spoofed(field)[kind])


# --- what a member says of others -------------------------------------------------------------------------------------


def signed_by(host: Host, body: Grant | Record) -> bytes:
    """A statement that `host` signs, whether it may or not."""
    seed = host.disk.read("identity.key")
    assert seed is not None
    assert host.node is not None
    ciphers = host.equipment.ciphers
    unsigned = pack_unsigned(body, ciphers.identity_key(seed))
    return unsigned + ciphers.sign(seed, to_be_signed(host.node.membership.network_id, unsigned))


def forged_statements(field: Field) -> dict[str, bytes]:
    mallet = field.host("mallet")
    own, victim = mallet.member, field.alpha.member
    stranger_identity, stranger_static = bytes(range(32)), bytes(range(1, 33))
    default = ((bytes(4), 0),)
    now = own.not_before
    grant = Grant(own.identity, own.static, 9, now, 0, Role.ADMIN | Role.ROUTER, own.ipv4, "mallet", default)
    other = Grant(stranger_identity, stranger_static, 1, now, 0, Role(0), None, "friend")
    theft = Grant(victim.identity, own.static, 99, now, 0, Role.ADMIN, victim.ipv4, "alpha")
    record = Record(2**63, True, (1,), (Endpoint("46.1.1.1", 1),))
    in_name = bytearray(signed_by(mallet, record))
    in_name[-96:-64] = victim.identity
    return {
        "makes itself an admin": signed_by(mallet, grant),
        "lets a friend in": signed_by(mallet, other),
        "puts its key into another's grant": signed_by(mallet, theft),
        "a record in another's name": bytes(in_name),
    }


STATEMENTS = list(forged_statements(field_with_insider()))


def members_of(host: Host) -> object:
    assert host.node is not None
    return host.node.membership.members, sorted(host.node.membership.records())


def believed(field: Field, kind: str) -> bool:
    before = members_of(field.beta)
    say(field.host("mallet"), field.beta, control(Statements((forged_statements(field)[kind],))))
    field.run(1)
    return members_of(field.beta) != before


@pytest.mark.parametrize("kind", STATEMENTS)
def test_nobody_believes_what_a_member_says_of_others(kind: str) -> None:
    field = field_with_insider()
    assert not believed(field, kind)
    assert field.works()


def test_without_signatures_a_record_in_anothers_name_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    field = field_with_insider()
    field.mesh.invariants.addresses.vouch(Endpoint("46.1.1.1", 1))
    monkeypatch.setattr(Membership, "_verify_untrusted", lambda *_: None)
    assert believed(field, "a record in another's name")


def test_a_signer_that_is_taken_for_a_root_is_believed() -> None:
    field = field_with_insider()
    assert field.beta.node is not None
    field.beta.node.membership._known[field.host("mallet").member.identity] = 0
    assert believed(field, "lets a friend in")


# --- what a member makes others do ------------------------------------------------------------------------------------


def test_a_record_full_of_victims_costs_each_little() -> None:
    field = field_with_insider()
    victims = [Endpoint(f"46.1.1.{n}", 53) for n in range(1, 17)]
    bad = [
        Endpoint("127.0.0.1", 22),
        Endpoint("224.0.0.1", 1),
        Endpoint("255.255.255.255", 9),
        Endpoint("::1", 5),
    ]
    for victim in victims:
        field.mesh.invariants.addresses.vouch(victim)
    field.mesh.world.trace.entries.clear()
    for sequence, endpoints in enumerate((tuple(victims), tuple(bad)), 10**6):
        raw = signed_by(field.host("mallet"), Record(sequence, True, (1,), endpoints))
        say(field.host("mallet"), field.beta, control(Statements((raw,))))
        field.run(60)
    sent = [
        e.text for e in field.mesh.world.trace.entries if e.kind == "send" and e.actor in ("alpha", "beta")
    ]
    assert not [text for text in sent if any(f" to {b}" in text for b in bad)]
    for victim in victims:
        # Probes inside a session that exists: with 88 bytes and a back-off that doubles, a minute holds ten.
        assert sum(f" to {victim}" in text for text in sent) <= 2 * 12
    assert field.works()


def test_a_storm_of_digests_and_probes_is_answered_within_a_budget() -> None:
    field = field_with_insider()
    mallet = field.host("mallet")
    probe = pack_frame(FrameType.PROBE, Probe(bytes(8), ProbeMode.LIVENESS).pack())
    before = field.mesh.world.trace.count
    sent = received = 0
    for number in range(2000):
        say(mallet, field.beta, control(Digest(number.to_bytes(16, "big"), 1)), probe)
        field.run(0.001)
        sent += 1
    field.run(5)
    entries = list(field.mesh.world.trace.entries)[-(field.mesh.world.trace.count - before) :]
    received = sum(
        int(e.text.split()[1])
        for e in entries
        if e.kind == "arrive" and e.to == "mallet" and e.actor == "beta"
    )
    # Echoes are no longer than their probes; gossip has 64 kB at once and as much a second.
    assert received <= sent * 100 + 7 * 65_536 + 65_536
    assert field.works()


def test_a_member_cannot_redeem_or_speak_for_the_inviter() -> None:
    field = field_with_insider()
    message = Redeem(bytes(16), bytes(32), bytes(64), "x", False)
    before = members_of(field.beta)
    say(field.host("mallet"), field.beta, control(message))
    field.run(SECOND // 10**9)
    assert members_of(field.beta) == before
