"""Names of published things, and the record of a withdrawal."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Self

from schemas.errors import ConfigError

_REVISION = ".r"
_MOST_REVISIONS = 9_999


class RecordKind(StrEnum):
    """Kinds of published things."""

    RUN = "run"
    CONTEXT_SET = "context-set"
    GLOBAL_VERSION = "global"


@dataclass(frozen=True)
class PublishedName:
    """Names something published, whether or not its record can be read.

    id: of a run or a version; of a context set its date, from the second revision on with a number, see `of_revision`
    element: of a version, "" otherwise
    """

    kind: RecordKind
    id: str
    element: str = ""

    @classmethod
    def of_revision(cls, day: date, revision: int = 1) -> Self:
        """Name a revision of a date's context set. Ids sort in the order of dates and revisions.

        >>> [PublishedName.of_revision(date(2026, 1, 5), revision).id for revision in (1, 2)]
        ['2026-01-05', '2026-01-05.r0002']
        """
        if not 1 <= revision <= _MOST_REVISIONS:
            raise ConfigError.because(f"revision is {revision}, expected a number from 1 to {_MOST_REVISIONS}")
        return cls(RecordKind.CONTEXT_SET, day.isoformat() + (f"{_REVISION}{revision:04d}" if revision > 1 else ""))

    @property
    def day(self) -> date:
        """The date of a context set."""
        return date.fromisoformat(self.id.partition(_REVISION)[0])

    @property
    def revision(self) -> int:
        """The revision of a context set."""
        return int(self.id.partition(_REVISION)[2] or 1)

    @property
    def label(self) -> str:
        """The date of a context set, and after the first revision its number: 2026-01-05.r2."""
        return f"{self.day.isoformat()}{_REVISION}{self.revision}" if self.revision > 1 else self.id

    @property
    def withdraw_command(self) -> str:
        """The command that withdraws it."""
        day, _, revision = self.id.partition(_REVISION) if self.kind is RecordKind.CONTEXT_SET else (self.id, "", "")
        names = " ".join(shlex.quote(name) for name in (self.element, day) if name)
        names += f" --revision {int(revision)}" if revision else ""
        return f"delorean index withdraw {self.kind} {names} --reason …"

    def __str__(self) -> str:
        """Return the name for messages."""
        if self.kind is RecordKind.GLOBAL_VERSION:
            return f"version '{self.id}' of global element '{self.element}'"
        if self.kind is RecordKind.RUN:
            return f"run '{self.id}'"
        day, _, revision = self.id.partition(_REVISION)
        return f"revision {int(revision)} of the context set of {day}" if revision else f"the context set of {day}"


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
