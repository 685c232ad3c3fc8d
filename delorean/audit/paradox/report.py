"""The result of checking a feature set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from delorean.leaks.report import LeakReport
from schemas.plain_text import plain_text


@dataclass(frozen=True)
class Finding:
    """Rows that break a rule.

    check: the rule that they break
    what: how they break it
    rows: their number
    example: a description of one of them
    """

    check: str
    what: str
    rows: int
    example: str


@dataclass(frozen=True, repr=False)
class ParadoxReport:
    """The result of checking a feature set.

    checks: the rules that were checked
    findings: rows that break them; empty: the feature set has no paradox
    notes: what could not be checked, and remarks about rows that break no rule
    leaks: features that may be the label in disguise
    """

    uri: str
    version: int
    rows: int
    items: int
    checks: tuple[str, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    leaks: LeakReport

    @property
    def clean(self) -> bool:
        """Whether no row breaks a rule; suspicious features do not count here."""
        return not self.findings

    @property
    def verdict(self) -> str:
        """The result in one line."""
        if self.rows == 0:
            outcome = "EMPTY: no rows to check"
        elif self.clean:
            outcome = f"CLEAN: {len(self.checks)} rules hold in all {self.rows:,} rows"
        else:
            broken = len({finding.check for finding in self.findings})
            outcome = f"PARADOX: {broken} of {len(self.checks)} rules are broken"
        return f"{outcome}; {self.leaks.verdict}"

    def __repr__(self) -> str:
        """One line for people."""
        return plain_text(f"check of {self.uri}, version {self.version}: {self.verdict}")


@dataclass
class FindingCounts:
    """Adds up findings batch by batch, keeping the first example of each."""

    findings: dict[tuple[str, str], Finding] = field(default_factory=dict)

    def add(self, check: str, what: str, broken: NDArray[np.bool_], example: Callable[[int], str]) -> None:
        """Count the rows that break a rule. example: describes the row of a position."""
        rows = int(np.count_nonzero(broken))
        if rows:
            earlier = self.findings.get((check, what))
            self.count(check, what, rows, example(int(np.argmax(broken))) if earlier is None else earlier.example)

    def count(self, check: str, what: str, rows: int, example: str) -> None:
        """Add a number of rows that break a rule."""
        earlier = self.findings.get((check, what), Finding(check, what, 0, example))
        self.findings[check, what] = replace(earlier, rows=earlier.rows + rows)
