"""`python -m tests.sim replay SEED`: tell the random story of a seed again and write its trace to SEED.md.

`--size` and `--length` must be those of the run that failed. `tell FIRST LAST` looks for seeds that fail.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import traceback

from tests.sim.story import Story, tell


def main() -> int:
    """Exit status 0: the story ended well; 1: it did not."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    replay = verbs.add_parser("replay", help="run one seed and write its trace")
    replay.add_argument("seed", type=int)
    replay.add_argument("--output", type=pathlib.Path, help="default: SEED.md")
    search = verbs.add_parser("tell", help="run many seeds and name those that fail")
    search.add_argument("first", type=int)
    search.add_argument("last", type=int)
    for verb in (replay, search):
        verb.add_argument("--length", type=int, default=60, help="things that happen")
        verb.add_argument("--size", type=int, default=6, help="hosts")
    arguments = parser.parse_args()
    if arguments.verb == "replay":
        output = arguments.output or pathlib.Path(f"{arguments.seed}.md")
        return _replay(arguments.seed, arguments.length, arguments.size, output)
    return _search(range(arguments.first, arguments.last + 1), arguments.length, arguments.size)


def _replay(seed: int, length: int, size: int, output: pathlib.Path) -> int:
    told: list[Story] = []
    problem = ""
    try:
        tell(seed, length, size, told.append)
    except Exception:
        problem = traceback.format_exc()
    story = told[0]
    page = story.mesh.world.trace.to_markdown(f"Story {seed}")
    log = "\n".join(story.log)
    output.write_text(f"{page}\n## What happened\n\n```text\n{log}\n{problem}```\n")
    print(f"digest {story.mesh.world.trace.digest()}")
    print(f"trace in {output}")
    if problem:
        print(problem, file=sys.stderr)
    return 1 if problem else 0


def _search(seeds: range, length: int, size: int) -> int:
    failed = 0
    for seed in seeds:
        try:
            tell(seed, length, size)
        except Exception as error:
            failed += 1
            print(f"{seed}: {type(error).__name__}: {error}")
    print(f"{failed} of {len(seeds)} stories end badly")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
