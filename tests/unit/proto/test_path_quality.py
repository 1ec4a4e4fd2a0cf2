"""What the path in use can carry: sizes of probes, and whether ECN bits come through."""

from __future__ import annotations

import pytest

from meshnode.proto.constants import ECN_PROBES, MTU_PROBE_TIMEOUT, RELAY_MTU
from meshnode.proto.path_quality import PathQuality, codel_interval
from meshnode.values import MILLISECOND, SECOND, Ecn, Endpoint, Path, PathKind
from meshnode.wire.frames import FRAME_HEADER, Echo, Probe, ProbeMode, parse_probe_untrusted
from meshnode.wire.header import MINIMUM_DATA
from tests.unit.proto.entropy import Dice

START = 1000 * SECOND
V4 = Path(PathKind.UDP, Endpoint("192.0.2.1", 4655))
V6 = Path(PathKind.UDP, Endpoint("2001:db8::1", 4655))


def quality(path: Path = V4) -> PathQuality:
    return PathQuality(path, 1380, Dice("quality"), START)


def opened(payload: bytes) -> Probe:
    return parse_probe_untrusted(payload[FRAME_HEADER.size :])


def echo(probe: Probe, ecn: int = Ecn.NOT_ECT) -> Echo:
    return Echo(probe.token, probe.mode, ecn, 100, None)


@pytest.mark.parametrize(("path", "headers"), [(V4, 28), (V6, 48)])
def test_a_probe_has_the_size_that_it_asks_about(path: Path, headers: int) -> None:
    ours = quality(path)
    wanted = 1380 + headers + MINIMUM_DATA + FRAME_HEADER.size + 4
    sizes = [
        headers + MINIMUM_DATA + len(payload)
        for payload, ecn in ours.probes(START)
        if opened(payload).mode is ProbeMode.PATH_MTU
    ]
    assert wanted in sizes
    assert max(sizes) == wanted


def test_the_wanted_size_carries_a_whole_packet_of_the_interface() -> None:
    ours = quality()
    assert not ours.confirmed
    for payload, _ in ours.probes(START):
        if opened(payload).mode is ProbeMode.PATH_MTU:
            ours.echoed(echo(opened(payload)), START + 1)
    assert ours.confirmed
    assert ours.mtu == 1380 + 28 + MINIMUM_DATA + FRAME_HEADER.size + 4


def ecn_probe(ours: PathQuality, now: int) -> Probe | None:
    for payload, ecn in ours.probes(now):
        if ecn is Ecn.ECT0:
            return opened(payload)
    return None


@pytest.mark.parametrize(("seen", "passes"), [(Ecn.ECT0, True), (Ecn.CE, True), (Ecn.NOT_ECT, False)])
def test_ecn_is_used_where_its_bits_arrive(seen: Ecn, passes: bool) -> None:
    ours = quality()
    probe = ecn_probe(ours, START)
    assert probe is not None
    assert probe.mode is ProbeMode.ECN
    assert ours.ecn
    assert ours.echoed(echo(probe, seen), START + 1) is (not passes)
    assert ours.ecn is passes
    assert ours.echoed(echo(probe, seen), START + 1) is None
    assert ecn_probe(ours, START + 60 * SECOND) is None


def test_ecn_is_asked_about_a_few_times() -> None:
    ours = quality()
    asked = 0
    for step in range(100):
        if ecn_probe(ours, START + step * MTU_PROBE_TIMEOUT):
            asked += 1
    assert asked == ECN_PROBES
    assert len(ours._ecn_tokens) <= ECN_PROBES
    assert ours.ecn


@pytest.mark.parametrize("kind", [PathKind.TCP, PathKind.RELAY])
def test_over_streams_and_relays_nothing_is_searched(kind: PathKind) -> None:
    ours = quality(Path(kind, Endpoint("192.0.2.1", 1)))
    assert ours.probes(START) == []
    assert ours.next_wakeup() is None
    assert (ours.mtu, ours.confirmed) == (RELAY_MTU, False)


def test_what_the_kernel_and_the_traffic_say_is_passed_on() -> None:
    ours = quality()
    ours.probes(START)
    ours.busy(START)
    assert ours.too_big(ours.mtu, START)
    wakeup = ours.next_wakeup()
    assert wakeup is not None
    assert wakeup <= START + MTU_PROBE_TIMEOUT


@pytest.mark.parametrize(
    ("rtt", "interval"), [(0, 100), (20, 100), (83, 100), (84, 150), (125, 150), (126, 200), (1000, 1200)]
)
def test_codels_interval_is_above_the_round_trip_in_steps(rtt: int, interval: int) -> None:
    """RFC 8289, section 4.2: about the worst round trip, and 100 ms where nothing is known."""
    assert codel_interval(rtt * MILLISECOND) == interval * MILLISECOND


def test_an_echo_of_nothing() -> None:
    for mode in (ProbeMode.PATH_MTU, ProbeMode.ECN):
        assert quality().echoed(Echo(bytes(8), mode, 0, 100, None), START) is None
