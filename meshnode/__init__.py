"""meshnode: a mesh VPN node whose latency stays flat under load."""

__version__ = "0.1.0"
