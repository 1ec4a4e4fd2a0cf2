import pytest

from meshnode.lab import LabError
from meshnode.lab.counters import parse_listeners, parse_protocol_counters

SNMP = """\
Ip: Forwarding DefaultTTL InReceives
Ip: 1 64 1234
Tcp: RtoAlgorithm MaxConn InCsumErrors
Tcp: 1 -1 3
Udp: InDatagrams InCsumErrors
Udp: 20 0
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue
   0: 00000000000000000000000000000000:1451 00000000000000000000000000000000:0000 0A 00000000:00000000
   1: 0000000000000000FFFF00000100007F:0016 0000000000000000FFFF00000100007F:9C40 01 00000000:00000000
"""
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 1
"""


def test_counters_go_by_protocol_and_name() -> None:
    counters = parse_protocol_counters(SNMP)
    assert counters["Ip"] == {"Forwarding": 1, "DefaultTTL": 64, "InReceives": 1234}
    assert counters["Tcp"]["MaxConn"] == -1
    assert counters["Udp"]["InCsumErrors"] == 0


@pytest.mark.parametrize(
    "text",
    ["Ip: A\n", "Ip: A\nTcp: 1\n", "Ip: A B\nIp: 1\n", "Ip: A\nIp: x\n", "\n\n"],
    ids=["one line", "other group", "other count", "no number", "empty lines"],
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(LabError, match="unknown form"):
        parse_protocol_counters(text)


def test_listeners_of_both_families_are_found_and_connections_are_none() -> None:
    assert parse_listeners(TCP + TCP6) == {5201, 53}
