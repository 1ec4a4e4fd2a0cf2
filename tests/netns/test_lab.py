"""The lab against the kernel: links, delay lines, rates, new addresses, and that nothing stays behind."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from meshnode.lab import Lab, LabError, Nat, Wire, available, lan, sites, sweep, unshare_command, wait_until
from meshnode.lab.counters import netstat, snmp, snmp6, wait_for_listener
from meshnode.lab.inventory import residents
from meshnode.lab.iperf3 import Load, measure
from meshnode.lab.namespace import NAMESPACE_DIRECTORY
from meshnode.lab.node import Node
from meshnode.lab.ping import PingRun, ping, reaches, wait_until_reachable
from meshnode.lab.probe import ProbeRun
from meshnode.lab.process import lives

pytestmark = pytest.mark.netns

BOTH_PROGRAMS = pytest.mark.parametrize("native", [True, False], ids=["compiled", "python"])


def test_hosts_on_a_switch_reach_each_other_over_both_protocols(lab: Lab) -> None:
    a, b, c = lan(lab)
    for other in (b, c):
        assert ping(a, other.address4, count=2).loss == 0
        assert ping(a, other.address6, count=2).loss == 0


def test_a_switch_can_offer_one_protocol_only(lab: Lab) -> None:
    a, b = lan(lab, "ab", versions=(6,))
    assert reaches(a, b.address6)
    with pytest.raises(LabError, match="no IPv4 address"):
        _ = b.address4


def test_three_sites_are_two_delays_apart(lab: Lab) -> None:
    network = sites(lab, nat=Nat.NONE, wire=Wire(delay_ms=20))
    a, b, c = network.hosts
    for other in (b, c):
        for address in (other.address4, other.address6):
            wait_until_reachable(a, address)
            result = ping(a, address, count=3)
            assert result.loss == 0
            assert min(result.rtts_ms) >= 80  # 20 ms from each site to the core, there and back


def test_a_host_inside_reaches_public_ones_and_not_the_reverse(lab: Lab) -> None:
    core = lab.core()
    inside = core.router("home").host("inside")
    public = core.host("public")
    assert reaches(inside, public.address4)
    assert reaches(inside, public.address6)
    assert not reaches(public, inside.address4)
    assert not reaches(public, inside.address6)


def test_two_sites_may_use_the_same_private_prefix(lab: Lab) -> None:
    core, prefix = lab.core(), IPv4Network("192.168.1.0/24")
    a = core.router("one", lan=prefix).host("a")
    b = core.router("two", lan=prefix).host("b")
    public = core.host("public")
    assert a.address4 == b.address4
    assert reaches(a, public.address4)
    assert reaches(b, public.address4)


@BOTH_PROGRAMS
def test_a_delay_line_delays_loses_and_doubles_as_it_is_told(lab: Lab, native: bool) -> None:
    core = lab.core()
    a = core.host("a", wire=Wire(delay_ms=15, native=native))
    b = core.host("b")
    line = a.uplink.line
    assert line is not None
    wait_until_reachable(a, b.address4)
    assert min(ping(a, b.address4, count=3).rtts_ms) >= 30

    line.change(Wire(delay_ms=40, jitter_ms=5))
    assert min(ping(a, b.address4, count=3).rtts_ms) >= 80

    line.change(Wire(duplicate=1))
    doubled = ping(a, b.address4, count=3)
    assert doubled.received >= 3
    assert doubled.duplicates > 0
    assert line.counters().duplicated > 0

    line.change(Wire(loss=1))
    assert ping(a, b.address4, count=3, patience=1).received == 0
    assert line.counters().lost > 0

    line.change(Wire(limit_bytes=0))
    assert ping(a, b.address4, count=3, patience=1).received == 0
    assert line.counters().overflowed > 0


@BOTH_PROGRAMS
def test_a_delay_line_survives_a_link_that_goes_down_and_comes_back(lab: Lab, native: bool) -> None:
    core = lab.core()
    a = core.host("a", wire=Wire(delay_ms=1, native=native))
    wait_until_reachable(a, a.uplink.far.address(4) or "")
    line = a.uplink.line
    assert line is not None
    line.namespace.ip(["link set right down"])
    assert ping(a, str(a.uplink.far.address(4)), count=2, patience=1).received == 0
    line.namespace.ip(["link set right up"])
    wait_until_reachable(a, str(a.uplink.far.address(4)))
    assert line.counters().errors > 0


@BOTH_PROGRAMS
def test_superpackets_cross_a_delay_line_whole_and_unharmed(lab: Lab, native: bool) -> None:
    core = lab.core()
    a = core.host("a", wire=Wire(delay_ms=1, native=native))
    b = core.host("b")
    sent = os.urandom(4 << 20)
    received = _transfer(a, b, sent)
    assert hashlib.sha256(received).digest() == hashlib.sha256(sent).digest()
    line = a.uplink.line
    assert line is not None
    # A full segment carries 1,448 bytes: fewer frames than half of what that takes came in bundles.
    assert line.counters().forwarded < len(sent) / 1448 / 2 + 200
    for host in (a, b):
        assert snmp(host)["Tcp"]["InCsumErrors"] == 0


def test_superpackets_can_be_forbidden(lab: Lab) -> None:
    core = lab.core()
    a = core.host("a", wire=Wire())
    b = core.host("b")
    a.uplink.near.set_superpackets(False)
    _transfer(a, b, bytes(1 << 20))
    line = a.uplink.line
    assert line is not None
    assert line.counters().forwarded >= (1 << 20) / 1448


def test_a_shaped_link_carries_its_rate_and_queues_the_rest(lab: Lab, require: Callable[..., None]) -> None:
    require("iperf3")
    core = lab.core()
    router = core.router("home")
    inside, public = router.host("inside"), core.host("public")
    router.uplink.shape(up_mbit=20, down_mbit=40, queue_ms=50)
    up = measure(inside, public, public.address4, Load(seconds=2))
    down = measure(inside, public, public.address4, Load(seconds=2, reverse=True))
    # Wide bands: a loaded machine may be slow, but nothing may be faster than the link (its queue may drain late).
    assert 5 < up.received_mbit < 24
    assert 10 < down.received_mbit < 48
    assert router.uplink.near.queue().drops > 0
    assert router.uplink.far.queue().drops > 0

    before = router.uplink.near.queue().drops
    router.uplink.shape(up_mbit=5, down_mbit=5, queue_ms=50)  # a step keeps the queue and its counters
    assert router.uplink.near.queue().drops >= before
    assert 1 < measure(inside, public, public.address4, Load(seconds=2)).received_mbit < 7

    router.uplink.near.unshape()
    assert router.uplink.near.queue().drops == 0


def test_load_and_probes_run_side_by_side(lab: Lab, require: Callable[..., None]) -> None:
    require("iperf3")
    a, b = lan(lab, "ab")
    probe = ProbeRun(a, b, b.address6, seconds=1, rate=50)
    pings = PingRun(a, b.address4, seconds=1)
    load = measure(a, b, b.address4, Load(seconds=1, udp_mbit=1, size=200))
    assert load.packets
    result = probe.result()
    assert result.sent == 50
    assert 0 < len(result.rtts_ms) <= 50
    assert all(rtt > 0 for rtt in result.rtts_ms.values())
    assert pings.result().received > 0


def test_a_narrow_link_tells_the_sender_unless_icmp_is_a_black_hole(lab: Lab) -> None:
    core = lab.core()
    a, b = core.host("a"), core.host("b")
    b.uplink.set_mtu(1280)
    oversized = ["ping", "-n", "-M", "do", "-s", "1300", "-c", "1", "-W", "1", str(b.address4)]
    core.block_icmp_errors()
    assert "Frag needed" not in a.run(oversized, check=False).stdout
    core.unblock_icmp_errors()
    assert "Frag needed" in a.run(oversized, check=False).stdout
    assert ping(a, b.address4, size=1200, count=2).loss == 0


def test_an_mtu_below_1280_takes_ipv6_away_until_it_is_raised(lab: Lab) -> None:
    core = lab.core()
    a, b = core.host("a"), core.host("b", wire=Wire())
    b.uplink.set_mtu(576)
    assert reaches(a, b.address4)
    assert not reaches(a, b.address6)
    b.uplink.set_mtu(1500)
    wait_until_reachable(a, b.address6)


def test_the_mtu_of_a_lan_is_that_of_all_its_hosts(lab: Lab) -> None:
    router = lab.core().router("home")
    a, b = router.host("a"), router.host("b")
    router.set_lan_mtu(1400)
    too_long = ["ping", "-n", "-M", "do", "-s", "1400", "-c", "1", "-W", "1", str(b.address4)]
    assert "message too long, mtu=1400" in a.run(too_long, check=False).stderr
    assert ping(a, b.address4, size=1372, count=2).loss == 0


def test_a_flapping_link_comes_back_with_addresses_and_routes(lab: Lab) -> None:
    core = lab.core()
    router = core.router("home", wire=Wire(delay_ms=1))
    inside, public = router.host("inside"), core.host("public")
    for link in (router.uplink, public.uplink, inside.uplink):
        link.down()
        assert not reaches(inside, public.address4)
        link.up()
        wait_until_reachable(inside, public.address4)
        wait_until_reachable(inside, public.address6)


def test_a_router_gets_a_new_public_address(lab: Lab) -> None:
    core = lab.core()
    router = core.router("home", nat=Nat.CONE, wire=Wire(delay_ms=1))
    inside, public = router.host("inside"), core.host("public")
    old4, old6 = router.address4, router.address6
    router.renumber()
    assert (router.address4 != old4, router.address6 != old6) == (True, True)
    wait_until_reachable(inside, public.address4)
    wait_until_reachable(inside, public.address6)
    assert reaches(public, router.address4)
    assert not reaches(public, old4)


def test_a_host_on_a_lan_gets_a_new_address_and_a_routed_site_stays_reachable(lab: Lab) -> None:
    core = lab.core()
    outer = core.router("outer", nat=Nat.NONE)
    inner = outer.router("inner", nat=Nat.NONE)
    host, public = inner.host("host"), core.host("public")
    for node in (host, inner, outer):
        old = node.address4
        node.renumber()
        assert node.address4 != old
        wait_until_reachable(public, host.address4)
        wait_until_reachable(public, host.address6)


def test_a_host_with_two_uplinks_falls_back_to_the_second(lab: Lab) -> None:
    core = lab.core()
    public = core.host("public")
    phone = lab.host("phone")
    core.attach(phone)
    core.router("mobile").attach(phone)
    assert [link.near.name for link in phone.uplinks] == ["eth0", "eth1"]
    assert reaches(phone, public.address4)
    phone.uplinks[0].down()
    wait_until_reachable(phone, public.address4)
    assert phone.uplinks[1].near.counters().tx_packets > 0


def test_counters_of_a_namespace_are_its_own(lab: Lab) -> None:
    a, b = lan(lab, "ab")
    before = snmp(b)["Icmp"]["InEchos"]
    ping(a, b.address4, count=3)
    assert snmp(b)["Icmp"]["InEchos"] == before + 3
    assert snmp(a)["Icmp"]["InEchos"] == 0
    assert "TCPOFOQueue" in netstat(a)["TcpExt"]
    assert snmp6(a)["Udp6InCsumErrors"] == 0
    assert b.uplink.near.counters().rx_packets >= 3


def test_a_call_runs_in_the_namespace_and_its_errors_come_out(lab: Lab) -> None:
    a, b = lan(lab, "ab")
    assert a.call(lambda: sorted(name for _, name in socket.if_nameindex())) == ["eth0", "lo"]
    assert b.call(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        a.call(lambda: 1 // 0)


def test_names_are_unique_and_plain(lab: Lab) -> None:
    lab.host("a")
    for name in ("a", "../a", "", "a b"):
        with pytest.raises(LabError):
            lab.host(name)


def test_impossible_wishes_are_refused_with_a_reason(lab: Lab) -> None:
    core = lab.core()
    with pytest.raises(LabError, match="does not route"):
        lab.switch().router("lost")
    with pytest.raises(LabError, match="build it anew"):
        core.router("plain", nat=Nat.NONE).set_nat(Nat.CONE)
    with pytest.raises(LabError, match="hangs on nothing"):
        _ = lab.host("alone").uplink
    with pytest.raises(LabError, match="not found: apt-get install no-such-tool"):
        core.run(["no-such-tool"])
    with pytest.raises(LabError, match="failed"):
        core.run(["ping", "-c1", "-w1", "192.0.2.1"])


def test_the_end_of_a_lab_ends_its_processes_even_detached_ones(require: Callable[..., None]) -> None:
    require()
    names: list[str] = []
    processes: list[int] = []
    with pytest.raises(RuntimeError, match="halfway"):
        _fail_halfway(names, processes)
    assert (len(names), len(processes)) == (3, 4)
    _wait_until_dead(processes)
    assert not [name for name in names if (NAMESPACE_DIRECTORY / name).exists()]


def _fail_halfway(names: list[str], processes: list[int]) -> None:
    with Lab() as lab:
        host = lab.core().host("a", wire=Wire(delay_ms=1))
        names += [each.name for each in lab.namespaces.values()]
        host.popen(["sh", "-c", "trap '' TERM; sleep 600"])
        host.popen(["setsid", "-f", "sleep", "600"])
        wait_until(
            lambda: len(residents([host.name])) == 3, "a shell, its child, and one that detached itself"
        )
        processes += residents(names)
        raise RuntimeError("halfway")


PROGRAM = """
import sys, threading
from meshnode.lab import Lab, Wire, available
if (reason := available("ping")) is not None:
    sys.exit(reason)
with Lab() as lab:
    a, b = lab.core("one").host("a", wire=Wire(delay_ms=1)), lab.core("two").host("b")
    a.popen(["sleep", "600"])
    from meshnode.lab.ping import wait_until_reachable
    wait_until_reachable(a, str(a.uplink.far.address(4)))
    print("ready", lab.directory, *(each.name for each in lab.namespaces.values()), flush=True)
    if sys.argv[1:] != ["return"]:
        threading.Event().wait(60)
"""


def _start_program(
    *arguments: str, before: tuple[str, ...] = (), python: str = sys.executable, **more: str
) -> subprocess.Popen[str]:
    env = {**os.environ, **more}
    root = Path(__file__).parents[2]
    argv = [*before, python, "-c", PROGRAM, *arguments]
    return subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root, env=env
    )


def _wait_until_dead(processes: list[int]) -> None:
    wait_until(lambda: not any(map(lives, processes)), f"{processes} to die")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_lab_cleanly(require: Callable[..., None], number: signal.Signals) -> None:
    require("ping")
    with _start_program() as program:
        assert program.stdout is not None
        _, directory, *names = program.stdout.readline().split()
        processes = residents(names)
        program.send_signal(number)
        program.communicate(timeout=30)
    assert (len(names), len(processes)) == (5, 2)
    _wait_until_dead(processes)
    assert not [name for name in names if (NAMESPACE_DIRECTORY / name).exists()]
    assert not Path(directory).exists()


def test_the_leftovers_of_a_killed_process_are_swept_up(require: Callable[..., None]) -> None:
    require("ping")
    with _start_program() as program, Lab() as alive:
        neighbour = alive.host("neighbour")
        assert program.stdout is not None
        _, directory, *names = program.stdout.readline().split()
        processes = residents(names)
        program.kill()
        program.communicate(timeout=30)
        assert len([name for name in names if (NAMESPACE_DIRECTORY / name).exists()]) == 5
        assert set(names) <= set(sweep())
        _wait_until_dead(processes)
        assert not [name for name in names if (NAMESPACE_DIRECTORY / name).exists()]
        assert not Path(directory).exists()
        assert neighbour.path.exists()


def test_root_without_rights_is_told_what_it_lacks(require: Callable[..., None]) -> None:
    require("setpriv")
    with _start_program(before=("setpriv", "--bounding-set=-all", "--inh-caps=-all")) as program:
        output, errors = program.communicate(timeout=60)
    assert (program.returncode, output) == (1, "")
    assert "run the container with --privileged" in errors


def test_ordinary_users_get_a_user_namespace_or_a_reason(require: Callable[..., None]) -> None:
    require("setpriv", "unshare", "ping")
    # setpriv would look the program up with root's rights: let env do it.
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env")
    python = _python_for(nobody)
    with _start_program("return", before=nobody, python=python) as program:
        output, errors = program.communicate(timeout=60)
    assert (program.returncode, output) == (1, "")
    assert errors.startswith("the lab needs root or a user namespace: run it with sudo, or as unshare ")

    (*inside, _) = unshare_command(["true"])
    if _succeeds(*nobody, *inside, "true"):
        # No cache is writable: the delay line is compiled for this lab only.
        before = (*nobody, *inside)
        with _start_program("return", before=before, python=python, XDG_CACHE_HOME="/proc") as program:
            output, errors = program.communicate(timeout=60)
        assert (program.returncode, output[:5]) == (0, "ready"), errors


def _python_for(user: tuple[str, ...]) -> str:
    """A Python that the user may execute: ours may be in root's home."""
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        if _succeeds(*user, python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"):
            return python
    pytest.skip("no Python 3.11 here that ordinary users may run")


def _succeeds(*argv: str) -> bool:
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def test_available_names_what_is_missing(require: Callable[..., None]) -> None:
    require()
    assert available() is None
    assert available("no-such-tool") == "no-such-tool not found: apt-get install no-such-tool"


def _transfer(client: Node, server: Node, data: bytes) -> bytes:
    """Send `data` over TCP and return what arrived."""
    listener = server.call(lambda: socket.create_server(("0.0.0.0", 4000)))
    received = bytearray()

    def receive() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(30)
            while chunk := connection.recv(1 << 16):
                received.extend(chunk)

    with listener:
        listener.settimeout(30)
        wait_for_listener(server, 4000)
        receiver = threading.Thread(target=receive)
        receiver.start()
        with client.socket(kind=socket.SOCK_STREAM) as sender:
            sender.settimeout(30)
            sender.connect((str(server.address4), 4000))
            sender.sendall(data)
        receiver.join(60)
    return bytes(received)
