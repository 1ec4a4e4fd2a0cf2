"""Fixtures of the tests that build networks. Where that cannot be they skip, which CI counts as failure."""

from collections.abc import Callable, Iterator

import pytest

from meshnode.lab import Lab, available
from meshnode.lab.inventory import residents
from meshnode.lab.namespace import NAMESPACE_DIRECTORY
from meshnode.lab.process import lives


@pytest.fixture(scope="session")
def require() -> Callable[..., None]:
    """require("iperf3", ...): skip the test, with a reason, unless a lab and these programs can work here."""

    def check(*tools: str) -> None:
        reason = available(*tools)
        if reason is not None:
            pytest.skip(reason)

    return check


@pytest.fixture
def lab(require: Callable[..., None]) -> Iterator[Lab]:
    """A lab, empty; that it leaves nothing behind is part of every test."""
    require("ping", "conntrack")
    with Lab() as made:
        yield made
        names = [namespace.name for namespace in made.namespaces.values()]
        processes, directory = residents(names), made.directory
    assert [name for name in names if (NAMESPACE_DIRECTORY / name).exists()] == []
    assert [pid for pid in processes if lives(pid)] == []
    assert not directory.exists()
