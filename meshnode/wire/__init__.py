"""Bytes and values: every layout of docs/protocol.md, stateless. Parsers end in `_untrusted` and raise BadPacket only."""
