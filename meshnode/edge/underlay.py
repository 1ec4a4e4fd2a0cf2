"""Our own datagrams never enter the tunnel, whatever routes lead into it."""

from __future__ import annotations

MARK = 0x4D00_0000
"""SO_MARK of our sockets."""

TABLE = 4077


class Underlay:
    """`protect` makes the rules, `synchronize` follows the machine's routes, `close` removes everything again."""

    def __init__(self, own_index: int, mark: int = MARK) -> None:
        raise NotImplementedError

    def protect(self) -> None:
        raise NotImplementedError

    def synchronize(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
