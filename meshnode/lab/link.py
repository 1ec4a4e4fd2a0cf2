"""A link between two nodes: a veth pair, or two with a delay line between them."""

from meshnode.lab.command import run
from meshnode.lab.delay_line import LEFT, RIGHT, DelayLine, Wire
from meshnode.lab.interface import Interface
from meshnode.lab.namespace import Namespace


class Link:
    """The two ends of a link: `near` is the node's own, `far` that of the node or switch it hangs on.

    A queue (shape) stands at the sending end, in front of the delay: so bloat sits in the router for what
    goes up and in the core for what comes down, and never on the host that is measured.
    """

    def __init__(self, near: Interface, far: Interface, line: DelayLine | None) -> None:
        self.near = near
        self.far = far
        self.line = line

    def apply(self) -> None:
        self.far.apply()
        self.near.apply()

    def down(self) -> None:
        """Unplug the near end. Without a delay line the far end sees it, too."""
        self.near.down()

    def up(self) -> None:
        """Plug it in again, addresses and routes included."""
        self.apply()

    def shape(
        self, *, up_mbit: float, down_mbit: float, queue_ms: float = 1000, burst_bytes: int = 16_384
    ) -> None:
        """Limit both directions; called again it steps the rates and keeps what is queued."""
        self.near.shape(up_mbit, queue_ms=queue_ms, burst_bytes=burst_bytes)
        self.far.shape(down_mbit, queue_ms=queue_ms, burst_bytes=burst_bytes)

    def set_mtu(self, mtu: int) -> None:
        """The MTU of both ends, in bytes. Below 1280 there is no IPv6 on the link."""
        self.near.mtu = self.far.mtu = mtu
        self.apply()
        if self.line is not None:
            for name in (LEFT, RIGHT):
                Interface(self.line.namespace, name).set_mtu(mtu)


def plug(near: Interface, far: Interface) -> Link:
    """Join two interfaces, made here inside their namespaces, by a veth pair."""
    _make_pair(near, far)
    return Link(near, far, None)


def plug_through(near: Interface, far: Interface, middle: Namespace, wire: Wire) -> Link:
    """Join two interfaces, made here, by a delay line that has the namespace `middle` for itself."""
    left, right = Interface(middle, LEFT), Interface(middle, RIGHT)
    middle.write_sysctls({"net/ipv6/conf/default/disable_ipv6": "1", "net/ipv6/conf/all/disable_ipv6": "1"})
    _make_pair(near, left)
    _make_pair(right, far)
    left.apply()
    right.apply()
    return Link(near, far, DelayLine(middle, wire))


def _make_pair(one: Interface, other: Interface) -> None:
    ends = [f"name {each.name} netns {each.namespace.name}" for each in (one, other)]
    run(["ip", *f"link add {ends[0]} type veth peer {ends[1]}".split()])
