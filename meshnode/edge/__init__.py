"""Sockets, the TUN device, netlink, files, clocks: what touches the machine, and the only place with `await`."""
