import pytest

from meshnode.lab import LabError
from meshnode.lab.ping import PingResult, parse_ping

IPUTILS = """\
PING 2001:db8::2(2001:db8::2) 56 data bytes
64 bytes from 2001:db8::2: icmp_seq=1 ttl=62 time=162 ms
64 bytes from 2001:db8::2: icmp_seq=1 ttl=62 time=162 ms (DUP!)
From 2001:db8::9 icmp_seq=2 Destination unreachable: Address unreachable
64 bytes from 2001:db8::2: icmp_seq=3 ttl=62 time=0.085 ms

--- 2001:db8::2 ping statistics ---
3 packets transmitted, 2 received, +1 duplicates, +1 errors, 33.3333% packet loss, time 205ms
rtt min/avg/max/mdev = 0.085/81.042/162.000/38.186 ms, pipe 2
"""
BUSYBOX = """\
PING 192.0.2.2 (192.0.2.2): 56 data bytes
64 bytes from 192.0.2.2: seq=0 ttl=64 time=0.500 ms
64 bytes from 192.0.2.2: seq=1 ttl=64 time=0.250 ms

--- 192.0.2.2 ping statistics ---
2 packets transmitted, 2 packets received, 0% packet loss
round-trip min/avg/max = 0.250/0.375/0.500 ms
"""
SILENCE = """\
PING 192.0.2.2 (192.0.2.2) 56(84) bytes of data.

--- 192.0.2.2 ping statistics ---
4 packets transmitted, 0 received, 100% packet loss, time 1020ms
"""


@pytest.mark.parametrize(
    ("text", "result", "loss"),
    [
        (IPUTILS, PingResult(3, 2, (162.0, 0.085), duplicates=1), 1 / 3),
        (BUSYBOX, PingResult(2, 2, (0.5, 0.25)), 0),
        (SILENCE, PingResult(4, 0, ()), 1),
    ],
    ids=["iputils", "busybox", "silence"],
)
def test_ping_is_read_in_all_its_dialects(text: str, result: PingResult, loss: float) -> None:
    assert parse_ping(text) == result
    assert parse_ping(text).loss == pytest.approx(loss)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("ping: invalid argument: 'x'\n", "invalid argument"), ("", "no output")],
)
def test_a_ping_that_never_sent_is_an_error_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(LabError, match=reason):
        parse_ping(text)


def test_no_request_no_loss() -> None:
    assert PingResult(0, 0, ()).loss == 0
