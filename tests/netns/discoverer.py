"""A program for tests: LAN discovery alone. Prints each hint as a line of JSON; reads "refresh" and "counters"."""

from __future__ import annotations

import json
import sys

import trio

from meshnode.edge.entropy import SystemEntropy
from meshnode.edge.mdns import LanDiscovery
from meshnode.values import Hint, PeerId


def say(line: str) -> None:
    print(line, flush=True)


def on_hint(hint: Hint) -> None:
    say(json.dumps({"peer": hint.peer.hex(), "host": hint.endpoint.host, "port": hint.endpoint.port}))


async def obey(discovery: LanDiscovery) -> None:
    async for line in trio.wrap_file(sys.stdin):
        if line.strip() == "refresh":
            discovery.refresh()
        else:
            say(f"counters {dict(discovery.counters)}")


async def main(network: str, port: str, own: str, *members: str) -> None:
    discovery = LanDiscovery(
        bytes.fromhex(network),
        PeerId(bytes.fromhex(own)),
        int(port),
        SystemEntropy(),
        on_hint,
        lambda level, text: say(f"{level}: {text}"),
    )
    discovery.set_members(PeerId(bytes.fromhex(each)) for each in members)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(discovery.run)
        nursery.start_soon(obey, discovery)
        say("started")


trio.run(main, *sys.argv[1:])
