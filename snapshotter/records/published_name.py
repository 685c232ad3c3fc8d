"""Names of published things, and the record of a withdrawal."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class RecordKind(StrEnum):
    """Kinds of published things."""

    RUN = "run"
    CONTEXT_SET = "context-set"
    GLOBAL_VERSION = "global"


@dataclass(frozen=True)
class PublishedName:
    """Names something published, whether or not its record can be read.

    id: of a run or a version; of a context set its date
    element: of a version, "" otherwise
    """

    kind: RecordKind
    id: str
    element: str = ""

    @property
    def withdraw_command(self) -> str:
        """The command that withdraws it."""
        names = " ".join(shlex.quote(name) for name in (self.element, self.id) if name)
        return f"delorean index withdraw {self.kind} {names} --reason …"

    def __str__(self) -> str:
        """Return the name for messages."""
        if self.kind is RecordKind.GLOBAL_VERSION:
            return f"version '{self.id}' of global element '{self.element}'"
        return f"run '{self.id}'" if self.kind is RecordKind.RUN else f"the context set of {self.id}"


@dataclass(frozen=True)
class Withdrawal:
    """Who withdrew a published thing, when and why. published_at: None if the index does not record it."""

    name: PublishedName
    reason: str
    by: str
    withdrawn_at: datetime
    published_at: datetime | None = None


@dataclass(frozen=True)
class UnreadableRecord:
    """A published thing whose record cannot be read. problem: why, and what to do."""

    name: PublishedName
    problem: str
