"""A lab of network namespaces: hosts, routers with every kind of NAT, bloated links, delay lines.

Needs root (or a user namespace) and the tools ip, tc and nft; available() says what is missing. Synchronous
on purpose: it only starts commands and waits for them.
"""

from meshnode.lab.command import LabError
from meshnode.lab.deadline import wait_until
from meshnode.lab.delay_line import DelayLine, Wire
from meshnode.lab.interface import Interface
from meshnode.lab.inventory import sweep
from meshnode.lab.laboratory import Lab
from meshnode.lab.link import Link
from meshnode.lab.nat import Nat
from meshnode.lab.node import Core, Host, Node, Router, Switch
from meshnode.lab.privilege import available, can_unshare, enter_user_namespace, unshare_command
from meshnode.lab.process import Process
from meshnode.lab.topology import Site, Sites, lan, sites

__all__ = [
    "Core",
    "DelayLine",
    "Host",
    "Interface",
    "Lab",
    "LabError",
    "Link",
    "Nat",
    "Node",
    "Process",
    "Router",
    "Site",
    "Sites",
    "Switch",
    "Wire",
    "available",
    "can_unshare",
    "enter_user_namespace",
    "lan",
    "sites",
    "sweep",
    "unshare_command",
    "wait_until",
]
