"""A lint: secrets are compared by `equal`, in constant time, never by == (docs/threat-model: timing)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import meshnode

PACKAGE = Path(meshnode.__file__).parent
FILES = [*sorted((PACKAGE / "crypto").glob("*.py")), *sorted((PACKAGE / "proto").glob("guard.py"))]
SECRET = ("mac", "tag", "cookie", "secret", "key", "psk", "digest", "signature", "hash")


def is_secret(node: ast.expr) -> bool:
    """Whether the name of what `node` reads, calls or indexes says that it is secret. A size is not."""
    if isinstance(node, ast.Call):
        return is_secret(node.func)
    if isinstance(node, ast.Subscript):
        return is_secret(node.value)
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    words = name.lower().strip("_").split("_")
    return "size" not in words and any(word.rstrip("0123456789s") in SECRET for word in words)


def is_constant(node: ast.expr) -> bool:
    """Whether everybody can read what this is: a NAME in capitals. A comparison with it tells nothing new."""
    return isinstance(node, ast.Name) and node.id.isupper()


def secret_compares(source: str) -> Iterator[int]:
    """The lines on which a secret is compared with == or !=, `in` or `not in`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = (node.left, *node.comparators)
            risky = any(isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in node.ops)
            if risky and any(map(is_secret, sides)) and not any(map(is_constant, sides)):
                yield node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_secret_is_compared_in_variable_time(path: Path) -> None:
    assert list(secret_compares(path.read_text())) == []


def test_there_is_something_to_look_at() -> None:
    assert {path.name for path in FILES} >= {"primitives.py", "noise.py", "suites.py", "guard.py"}


@pytest.mark.parametrize(
    "line",
    [
        "mac1 == other",
        "x != self._cookie",
        "keyed_hash(a, b, 16) == b",
        "data[-16:] == tag",
        "self.secrets[0] == x",
        "mac in known",
        "macs[1] != bytes(16)",
    ],
)
def test_the_lint_sees(line: str) -> None:
    assert list(secret_compares(line)) == [1]


@pytest.mark.parametrize(
    "line",
    [
        "len(mac) == 16",
        "TAG_SIZE == 16",
        "equal(mac1, other)",
        "key is None",
        "mac2 == NO_MAC",
        "monkey == 1",
    ],
)
def test_the_lint_lets_pass(line: str) -> None:
    assert list(secret_compares(line)) == []
