"""Counters that the kernel keeps for each namespace, as the files of /proc/net show them."""

from meshnode.lab.command import LabError
from meshnode.lab.deadline import wait_until
from meshnode.lab.namespace import Namespace

Counters = dict[str, dict[str, int]]
_LISTEN = "0A"  # TCP_LISTEN of linux/include/net/tcp_states.h


def snmp(namespace: Namespace) -> Counters:
    """/proc/net/snmp by protocol and name: snmp(host)["Udp"]["InCsumErrors"]."""
    return parse_protocol_counters(namespace.read("snmp"))


def netstat(namespace: Namespace) -> Counters:
    """/proc/net/netstat by group and name: netstat(host)["TcpExt"]["TCPOFOQueue"]."""
    return parse_protocol_counters(namespace.read("netstat"))


def snmp6(namespace: Namespace) -> dict[str, int]:
    """/proc/net/snmp6 by name: snmp6(host)["Udp6InCsumErrors"]."""
    lines = (line.split() for line in namespace.read("snmp6").splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) == 2}


def parse_protocol_counters(text: str) -> Counters:
    """Pairs of lines, "Udp: Name Name" and "Udp: 1 2"; LabError when they do not fit together."""
    lines = text.splitlines()
    counters: Counters = {}
    try:
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            (group, *keys), (other, *numbers) = names.split(), values.split()
            if group != other:
                raise ValueError(group)
            counters[group.rstrip(":")] = dict(zip(keys, map(int, numbers), strict=True))
    except ValueError:
        raise LabError("the counters of /proc/net have an unknown form on this kernel") from None
    return counters


def listens(namespace: Namespace, port: int) -> bool:
    """Whether a TCP socket in the namespace listens on the port, without connecting to it."""
    return port in parse_listeners(namespace.read("tcp") + namespace.read("tcp6"))


def wait_for_listener(namespace: Namespace, port: int, timeout: float = 10.0) -> None:
    """Return once somebody listens on the TCP port; LabError after `timeout` seconds."""
    what = f"a listener on TCP port {port} of {namespace.label}"
    wait_until(lambda: listens(namespace, port), what, timeout=timeout)


def parse_listeners(text: str) -> set[int]:
    """The listening ports in the text of /proc/net/tcp or tcp6, or both."""
    rows = (line.split() for line in text.splitlines())
    return {int(row[1].rpartition(":")[2], 16) for row in rows if len(row) > 3 and row[3] == _LISTEN}
