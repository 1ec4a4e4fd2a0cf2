"""Values on the command line: each parser takes the text and refuses with a line that shows the right form."""

from __future__ import annotations

import ipaddress
import re

import click

from meshnode.cli.failure import shown
from meshnode.settings import HostPort, host_port, interface_name
from meshnode.values import Prefix

PORT = click.IntRange(1, 65535)

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def duration(text: str) -> int:
    """90s, 15m, 12h, 7d or 4w, as seconds."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})([smhdw])", text)
    if not match:
        raise click.BadParameter(f"{shown(text)} is no duration: write 90s, 15m, 12h, 7d or 4w")
    return int(match[1]) * _SECONDS[match[2]]


def cidr(text: str) -> Prefix:
    """An IPv4 or IPv6 prefix such as 192.168.7.0/24, as packed bytes and length."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise click.BadParameter(f"{shown(text)} is no prefix: {_prefix_hint(text)}") from None
    return network.network_address.packed, network.prefixlen


def _prefix_hint(text: str) -> str:
    try:
        return (
            f"its address has bits beyond the length, do you mean {ipaddress.ip_network(text, strict=False)}?"
        )
    except ValueError:
        return "write it like 192.168.7.0/24 or fd00:7::/64"


def endpoints(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> tuple[HostPort, ...]:
    """The callback of an option that may be repeated: HOST:PORT or [IPv6]:PORT, several with commas between."""
    return tuple(_endpoint(text) for given in texts for text in given.split(",") if text)


def interface_option(text: str) -> str:
    """The name of an interface."""
    try:
        return interface_name(text)
    except ValueError as error:
        raise click.BadParameter(f"{shown(text)}: {error}") from error


def _endpoint(text: str) -> HostPort:
    try:
        return host_port(text)
    except ValueError as error:
        raise click.BadParameter(f"{shown(text)}: {error}") from error
