"""A comparison that stops at the first difference tells where that is (TS-2025-003, OpenVPN CVE-2013-2061).

Nobody can measure that reliably in a test, so the source is read instead: where secrets and tags are handled, byte
strings are compared by `equal`.
"""

import ast
import pathlib

import meshnode

ROOT = pathlib.Path(meshnode.__file__).parent
FILES = [ROOT / "crypto" / "primitives.py", ROOT / "crypto" / "noise.py", ROOT / "proto" / "guard.py"]
SECRET = ("mac", "tag", "cookie", "secret", "key", "psk", "redeem", "signature", "hash")
PUBLIC = ("NO_MAC", "self._last_mac1")
"""What is in the clear on the wire anyway: whether there is a mac2, and the mac1 of a message of ours."""


def suspicious(source: str) -> list[str]:
    """Comparisons by == or != of something whose name says that it is secret."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], ast.Eq | ast.NotEq):
            continue
        text = ast.unparse(node)
        sides = [ast.unparse(side) for side in (node.left, *node.comparators)]
        if any(side.startswith("len(") or side in PUBLIC for side in sides):
            continue
        if any(word in side.lower() for side in sides for word in SECRET):
            found.append(text)
    return found


def test_secrets_are_compared_in_constant_time() -> None:
    for file in [*FILES, ROOT / "proto" / "invitations.py", ROOT / "proto" / "guests.py"]:
        assert suspicious(file.read_text()) == [], file


def test_a_careless_comparison_is_found() -> None:
    assert suspicious("ok = mac1 == expected") == ["mac1 == expected"]
    assert suspicious("if held.redeem != redeem_hash(s): pass") != []
    assert suspicious("if len(tag) == 16: pass") == []
    assert suspicious("if mac2 == NO_MAC: pass") == []
