"""The examples in docs/queueing.md and in the docstrings are run."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import meshnode.queueing

PAGE = Path(__file__).parents[3] / "docs" / "queueing.md"
MODULES = [module.name for module in pkgutil.iter_modules(meshnode.queueing.__path__)]
WITHOUT_EXAMPLES = {"packet_queue", "memory_pool"}


def run(test):
    output = []
    result = doctest.DocTestRunner(optionflags=0).run(test, out=output.append)
    assert result.failed == 0, "".join(output)
    return result.attempted


def test_the_page():
    text = re.sub(r"^```.*$", "", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert run(doctest.DocTestParser().get_doctest(text, {}, "queueing.md", str(PAGE), 0)) > 40


@pytest.mark.parametrize("name", MODULES)
def test_the_docstrings(name):
    module = importlib.import_module(f"meshnode.queueing.{name}")
    examples = sum(run(test) for test in doctest.DocTestFinder().find(module))
    assert (examples > 0) == (name not in WITHOUT_EXAMPLES)
