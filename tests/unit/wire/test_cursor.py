"""The cursor under every layout."""

from __future__ import annotations

import pytest

from meshnode.values import BadPacket
from meshnode.wire.cursor import Cursor


def test_fields_in_order() -> None:
    cursor = Cursor(memoryview(b"\x01\x02\x03\x02abrest"))
    assert (cursor.integer(1), cursor.integer(2), cursor.short()) == (1, 0x0203, b"ab")
    assert cursor.remaining == 4
    assert (cursor.rest(), cursor.rest(), cursor.remaining) == (b"rest", b"", 0)


def test_nothing_is_taken_past_the_end() -> None:
    cursor = Cursor(b"abc")
    with pytest.raises(BadPacket, match="truncated"):
        cursor.take(4)
    assert cursor.take(3) == b"abc"
    with pytest.raises(BadPacket, match="truncated"):
        Cursor(b"\x05abcd").short()
