"""Sockets, the TUN device, netlink, files and clocks: everything that touches the machine, and the only place with `await`."""
