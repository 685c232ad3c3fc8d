"""The files under docker/ as the tests read them: Dockerfile, compose.yaml, .dockerignore."""

from __future__ import annotations

import functools
import json
import re
import shlex
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text()


@dataclass
class Stage:
    """A stage of a Dockerfile. base: as it is written; instructions: name and rest of each, comments and flags kept."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, *names: str) -> list[str]:
        """Give the rests of all instructions of these names."""
        return [rest for name, rest in self.instructions if name in names]


@dataclass
class Build:
    """A parsed Dockerfile. arguments: those before the first stage, with their defaults."""

    arguments: dict[str, str]
    stages: dict[str, Stage]

    def image(self, stage: Stage) -> str:
        """Give the image or the stage that a stage starts from, its variables filled in."""
        return re.sub(r"\$\{(\w+)\}", lambda found: self.arguments.get(found[1], found[0]), stage.base)

    def line(self, name: str) -> list[Stage]:
        """Give a stage and those that it is built upon, the first last."""
        stage = self.stages[name]
        base = self.image(stage)
        return [stage, *(self.line(base) if base in self.stages else [])]


def parse(dockerfile: str) -> Build:
    """Read a Dockerfile that has no here-documents."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE).replace("\\\n", " ")
    build = Build({}, {})
    stage = None
    for line in filter(str.strip, text.splitlines()):
        name, _, rest = line.strip().partition(" ")
        name, rest = name.upper(), " ".join(rest.split())
        if name == "FROM":
            base, _, alias = rest.partition(" AS ")
            stage = build.stages[alias or str(len(build.stages))] = Stage(alias, base)
        elif stage is not None:
            stage.instructions.append((name, rest))
        elif name == "ARG":
            argument, _, default = rest.partition("=")
            build.arguments[argument] = default
        else:
            raise ValueError(f"{name} before the first FROM")
    return build


def copied(stage: Stage) -> list[tuple[str | None, list[str]]]:
    """Give each COPY's stage, None for the build's own files, and its sources."""
    found = []
    for rest in stage.all("COPY"):
        words = shlex.split(rest)
        flags = dict(word[2:].split("=", 1) for word in words if word.startswith("--"))
        found.append((flags.get("from"), [word for word in words if not word.startswith("--")][:-1]))
    return found


def ignored(path: str, patterns: str) -> bool:
    """Tell whether .dockerignore keeps a file out: of the lines that match it or a folder above it the last counts."""
    parts = path.split("/")
    above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    kept_out = False
    for line in patterns.splitlines():
        pattern = line.strip().removeprefix("!")
        if pattern and not pattern.startswith("#") and any(_matches(place, pattern) for place in above):
            kept_out = not line.startswith("!")
    return kept_out


def _matches(path: str, pattern: str) -> bool:
    anywhere = pattern.startswith("**/")
    words, names = path.split("/"), pattern.removeprefix("**/").split("/")
    if anywhere:
        words = words[-len(names) :]
    return len(words) == len(names) and all(map(fnmatchcase, words, names))


def compose() -> dict[str, Any]:
    """Read compose.yaml, with its references filled in and its variables as they are; the caller may change it."""
    found: dict[str, Any] = json.loads(_compose_as_json())  # what references share comes apart
    return found


@functools.cache
def _compose_as_json() -> str:
    return json.dumps(yaml.safe_load((DOCKER / "compose.yaml").read_text()))
