"""A program for tests: port mapping alone. Prints what the gateways map as a line of JSON, until SIGTERM."""

from __future__ import annotations

import json
import signal
import sys

import trio

from meshnode.edge.entropy import SystemEntropy
from meshnode.edge.port_mapping import PortMapping
from meshnode.values import Endpoint


def tell(endpoints: tuple[Endpoint, ...]) -> None:
    print(json.dumps([str(each) for each in endpoints]), flush=True)


async def main(port: str) -> None:
    mapping = PortMapping(int(port), True, bytes(32), None, SystemEntropy(), tell)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mapping.run)
            async for _ in signals:
                nursery.cancel_scope.cancel()


trio.run(main, sys.argv[1])
