"""meshnode measured against other VPNs, all of them in one run on one machine: `python -m tests.bench --help`."""
