"""Networks that tests, benchmarks and the demo build again and again."""

from collections.abc import Iterable
from dataclasses import dataclass

from meshnode.lab.delay_line import Wire
from meshnode.lab.laboratory import Lab
from meshnode.lab.nat import Nat
from meshnode.lab.node import BOTH, Core, Host, Router


@dataclass(frozen=True, slots=True)
class Site:
    """A host behind a router of its own."""

    router: Router
    host: Host


@dataclass(frozen=True, slots=True)
class Sites:
    """Several sites round one core, in the order of their hosts' names."""

    core: Core
    sites: tuple[Site, ...]

    @property
    def hosts(self) -> tuple[Host, ...]:
        return tuple(site.host for site in self.sites)

    @property
    def routers(self) -> tuple[Router, ...]:
        return tuple(site.router for site in self.sites)


def sites(
    lab: Lab,
    names: Iterable[str] = ("a", "b", "c"),
    *,
    nat: Nat = Nat.CONE,
    wire: Wire | None = None,
    versions: Iterable[int] = BOTH,
) -> Sites:
    """For each name: host --lan-- router --wan-- [delay line] -- core. Router of host "a": "a-router".

    The wire's delay applies once to each site, so it counts twice on the way between two of them.
    """
    core = lab.core()
    versions = tuple(versions)
    made = []
    for name in names:
        router = core.router(f"{name}-router", nat=nat, wire=wire, versions=versions)
        made.append(Site(router, router.host(name)))
    return Sites(core, tuple(made))


def lan(
    lab: Lab, names: Iterable[str] = ("a", "b", "c"), *, versions: Iterable[int] = BOTH
) -> tuple[Host, ...]:
    """Hosts on one switch."""
    versions = tuple(versions)
    switch = lab.switch(versions=versions)
    return tuple(switch.host(name) for name in names)
