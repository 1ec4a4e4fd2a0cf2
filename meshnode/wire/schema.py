"""msgpack, strictly: the checks that the schemas of control messages and of the stored state are made of.

A field is a function from an unpacked value to a checked one; it raises BadPacket("malformed fields"). Sizes
are bytes for binary, characters for text. What a field returns is immutable: bytes, str, int, bool, None or a
tuple.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgpack  # type: ignore[import-untyped]

from meshnode.values import BadPacket

T = TypeVar("T")
Field = Callable[[object], T]

_MAXIMUM = 2**64 - 1
_SCALARS = (int, str, bytes, bool, type(None))


def unpack_untrusted(data: bytes | memoryview, depth: int) -> list[Any]:
    """The one array in `data`, at most `depth` deep, of nil, bool, int, str, bin, arrays and maps.

    Extension types, floats (NaN with them), repeated keys and bytes after the array are refused.
    """
    try:
        value = msgpack.unpackb(
            data, raw=False, use_list=True, strict_map_key=True, object_pairs_hook=_unique_keys
        )
    except (ValueError, RecursionError):
        # ValueError is the base of everything that msgpack raises for bad bytes, bad UTF-8 included.
        raise BadPacket("malformed msgpack") from None
    _check_depth(value, depth)
    if type(value) is not list:
        raise _malformed()
    return value


def pack(value: object) -> bytes:
    """msgpack of tuples, lists and scalars. Raises ValueError on an integer or text that has no encoding."""
    try:
        return bytes(msgpack.packb(value, use_bin_type=True))
    except OverflowError as error:
        raise ValueError("an integer does not fit into 64 bits") from error


def binary(low: int, high: int | None = None) -> Field[bytes]:
    """Bytes of a length from `low` to `high` (exactly `low` without it)."""
    longest = low if high is None else high

    def check(value: object) -> bytes:
        if type(value) is not bytes or not low <= len(value) <= longest:
            raise _malformed()
        return value

    return check


def integer(low: int = 0, high: int = _MAXIMUM) -> Field[int]:
    """An integer of a range, both ends included."""

    def check(value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _malformed()
        return value

    return check


def text(high: int, accept: Callable[[str], bool] = str.isprintable) -> Field[str]:
    """At most `high` characters that `accept` likes; by default none that confuses a terminal."""

    def check(value: object) -> str:
        if type(value) is not str or len(value) > high or not accept(value):
            raise _malformed()
        return value

    return check


def boolean(value: object) -> bool:
    """True or False, and not a number."""
    if type(value) is not bool:
        raise _malformed()
    return value


def optional(field: Field[T]) -> Field[T | None]:
    """nil, or what `field` says."""

    def check(value: object) -> T | None:
        return None if value is None else field(value)

    return check


def each(field: Field[T], high: int) -> Field[tuple[T, ...]]:
    """An array of at most `high` values of one kind."""

    def check(value: object) -> tuple[T, ...]:
        if type(value) is not list or len(value) > high:
            raise _malformed()
        return tuple(field(item) for item in value)

    return check


def structure(make: Callable[..., T], *fields: Field[Any]) -> Field[T]:
    """An array of exactly these fields, given to `make` in this order."""

    def check(value: object) -> T:
        if type(value) is not list or len(value) != len(fields):
            raise _malformed()
        return make(*(field(item) for field, item in zip(fields, value, strict=True)))

    return check


def _malformed() -> BadPacket:
    return BadPacket("malformed fields")


def _unique_keys(pairs: list[tuple[object, object]]) -> dict[object, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("repeated key")
    return table


def _check_depth(value: object, depth: int) -> None:
    """Only plain types, and arrays and maps within arrays and maps at most `depth` deep."""
    kind = type(value)
    if kind in _SCALARS:
        return
    if depth == 0 or kind not in (list, dict):
        raise BadPacket("malformed msgpack")
    children: Any = value
    for child in children.values() if kind is dict else children:
        _check_depth(child, depth - 1)
