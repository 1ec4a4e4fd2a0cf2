"""Random stories against the reference model, told the same in every process."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.sim.story import Story, tell

FAILED_ONCE = pathlib.Path(__file__).with_name("seeds.txt")


def past_failures() -> list[tuple[int, int, int]]:
    """Stories that once ended badly. Each line: seed, length, size, and what was wrong."""
    lines = [line.split() for line in FAILED_ONCE.read_text().splitlines() if line.strip()]
    return [(int(seed), int(length), int(size)) for seed, length, size, *_ in lines]


@pytest.mark.parametrize(("seed", "length", "size"), [*past_failures(), *((n, 60, 6) for n in range(8))])
def test_a_random_story_ends_well(seed: int, length: int, size: int) -> None:
    tell(seed, length, size)


def test_the_model_notices_a_node_that_does_not_come_back() -> None:
    story = Story(1, size=2)
    story.join(1)
    story.settle()
    story.hosts[1].crash()
    story.fates["node1"].running = True
    # The model believes that node1 runs: pretend so, without the node.
    story.hosts[1].start()
    story.hosts[1].plug.connected = False
    story.hosts[1].network.unplug(story.hosts[1].plug)
    story.hosts[1].plug.connected = True
    with pytest.raises(AssertionError, match="node0 and node1 are not connected"):
        story.settle()


def test_one_seed_is_one_story_under_every_hash_seed(tmp_path: pathlib.Path) -> None:
    digests = set()
    for hash_seed in ("0", "1", "4711"):
        output = tmp_path / f"{hash_seed}.md"
        run = subprocess.run(
            [sys.executable, "-m", "tests.sim", "replay", "5", "--length", "40", "--output", str(output)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=pathlib.Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(run.stdout.splitlines()[0])
        page = output.read_text()
        assert "sequenceDiagram" in page
        assert "settle" in page
    assert len(digests) == 1


def test_another_seed_is_another_story() -> None:
    one, other = tell(1, length=5, size=3), tell(2, length=5, size=3)
    assert one.mesh.world.trace.digest() != other.mesh.world.trace.digest()
