"""Bytes to values and back: every layout of docs/protocol.md. Stateless; parsers raise BadPacket only."""
