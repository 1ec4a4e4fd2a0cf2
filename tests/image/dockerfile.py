"""As much of the Dockerfile language as ours uses: stages, steps in order, exec forms, continued lines."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction and the rest of its line."""

    instruction: str
    rest: str

    @property
    def flags(self) -> dict[str, str]:
        """The --name=value in front of the arguments."""
        return dict(re.findall(r"--([a-z-]+)=(\S+)", re.match(r"(?:--\S+\s+)*", self.rest)[0]))

    @property
    def arguments(self) -> str:
        return re.sub(r"^(?:--\S+\s+)*", "", self.rest)

    @property
    def words(self) -> list[str]:
        """The arguments: of the exec form as JSON, else split like a shell does."""
        if self.arguments.startswith("["):
            return json.loads(self.arguments)
        return shlex.split(self.arguments)


@dataclass(slots=True)
class Stage:
    """What follows one FROM."""

    base: str
    name: str
    steps: list[Step] = field(default_factory=list)

    def last(self, instruction: str) -> Step:
        """The one that counts of ENTRYPOINT, CMD, HEALTHCHECK; KeyError where there is none."""
        found = [step for step in self.steps if step.instruction == instruction]
        if not found:
            raise KeyError(instruction)
        return found[-1]

    def environment(self) -> dict[str, str]:
        """All of ENV."""
        pairs = [
            word.partition("=") for step in self.steps if step.instruction == "ENV" for word in step.words
        ]
        return {name: value for name, _, value in pairs}

    def healthcheck(self) -> list[str]:
        """The command of HEALTHCHECK in its exec form."""
        form = self.last("HEALTHCHECK").arguments
        if not form.startswith("CMD ["):
            raise ValueError("HEALTHCHECK is not in the exec form")
        return json.loads(form.removeprefix("CMD "))


def parse(text: str) -> list[Stage]:
    """The stages of a Dockerfile. Raises ValueError for an instruction that is not known here."""
    stages: list[Stage] = []
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    for line in filter(None, map(str.strip, joined.splitlines())):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(base, name or str(len(stages))))
        elif instruction in KNOWN:
            stages[-1].steps.append(Step(instruction, rest.strip()))
        else:
            raise ValueError(f"unknown instruction {instruction}")
    return stages


KNOWN = {
    "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "RUN", "STOPSIGNAL", "VOLUME", "WORKDIR",
}  # fmt: skip
