"""A simulated world: many nodes, their NATs, links, clocks and disks in one process, in virtual time.

There is no event loop, no thread, no socket and no clock here: a heap of events, and nodes that are only ever
called. So an hour takes as long as its work, and one seed gives one history, byte for byte.

    world.py      the event heap            network.py   networks, routers, where a host is plugged in
    link.py       one direction of a link   nat.py       NAT as a value (RFC 4787)
    reach.py      the truth about who can   host.py      a node with its plane, disk, clocks and applications
                  talk to whom directly     inner.py     the packets that applications exchange
    entropy.py    randomness from a seed    cheap.py     fast, insecure ciphers for big meshes
    trace.py      what happened, to read    invariants.py  what must hold after every step
    attacker.py   who wishes them ill       scenarios.py   whole stories, one per seed

`python -m tests.sim replay SEED` tells the story of one seed again and writes its trace.
"""
