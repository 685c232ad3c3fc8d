"""What an analysis of a test found."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from schemas.plain_text import plain_text


class Verdict(StrEnum):
    """What to do with a candidate."""

    SHIP = "ship"
    DO_NOT_SHIP = "do not ship"
    CONTINUE = "continue"
    NO_DIFFERENCE = "no difference beyond the margin"
    UNCLEAR = "ended without an answer"
    FUTILE = "unlikely to find the planned effect"
    BROKEN = "broken: do not read its metrics"

    @property
    def ends(self) -> bool:
        """Whether the test is over."""
        return self is not Verdict.CONTINUE


@dataclass(frozen=True)
class CellHealth:
    """Units and exposures of a cell. units: those that saw only this cell; share, planned: of the units."""

    cell: str
    units: int
    exposures: int
    share: float
    planned: float


@dataclass(frozen=True)
class Health:
    """Whether a test was run as declared, without a look at its metrics.

    p: of the chi-square test that units were divided as planned (sample-ratio mismatch)
    mixed: units that saw several cells, which no cell counts
    misplaced: units in another cell than the declaration gives them
    """

    test: str
    at: datetime
    cells: tuple[CellHealth, ...]
    p: float
    mixed: int
    misplaced: int
    next_look: datetime | None
    problems: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """One line for people."""
        state = "; ".join(self.problems) or "as declared"
        return plain_text(f"test {self.test}: {sum(cell.units for cell in self.cells):,} units, {state}")

    @property
    def broken(self) -> bool:
        """Whether no verdict can be given."""
        return bool(self.problems)


@dataclass(frozen=True)
class MetricAtLook:
    """A metric of a candidate at a look.

    units: of both cells, whose outcomes are complete
    fraction: of the planned information, by which alpha was spent
    bound: that |z| must reach; None: no boundary at this look
    control, candidate: the means, adjusted by the past
    relative: the relative change; low, high: its interval, which holds for all looks together. None: not measurable
    explained: the share of variance that the past explained
    error: standard error of the difference, relative to the control's mean
    """

    look: int
    at: datetime
    units: int
    fraction: float
    bound: float | None
    z: float | None
    control: float | None
    candidate: float | None
    relative: float | None
    low: float | None
    high: float | None
    explained: float
    error: float | None

    @property
    def crosses(self) -> bool:
        """Whether the difference reaches the boundary."""
        return self.z is not None and self.bound is not None and abs(self.z) >= self.bound


@dataclass(frozen=True)
class MetricResult:
    """A metric of a candidate at all looks so far.

    decides: whether it is the metric that decides; the others are guardrails
    better: "higher" or "lower"
    margin: the relative loss that is tolerated
    """

    metric: str
    decides: bool
    better: str
    margin: float
    looks: tuple[MetricAtLook, ...]

    @property
    def last(self) -> MetricAtLook:
        """At the last look."""
        return self.looks[-1]


@dataclass(frozen=True)
class Adjusted:
    """The relative change when the test stopped, without the bias of stopping early. look: at which it stopped."""

    look: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CandidateResult:
    """One candidate against the control.

    adjusted: once a group-sequential test has stopped
    """

    cell: str
    metrics: tuple[MetricResult, ...]
    verdict: Verdict
    reasons: tuple[str, ...]
    look: int
    adjusted: Adjusted | None = None


@dataclass(frozen=True)
class AbAnalysis:
    """The analysis of a test at its last planned look.

    at: of that look
    looks: how many there are in all
    candidates: empty where the test is broken
    """

    test: str
    control: str
    design: str
    level: float
    at: datetime
    look: int
    looks: int
    next_look: datetime | None
    health: Health
    candidates: tuple[CandidateResult, ...]
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The best candidate's verdict; `broken` for a test that cannot be judged."""
        if self.health.broken:
            return Verdict.BROKEN
        return min((each.verdict for each in self.candidates), key=_PREFERRED.index, default=Verdict.CONTINUE)

    @property
    def loses(self) -> bool:
        """Whether no candidate may be shipped although the test has ended, or the test is broken."""
        return self.verdict in (Verdict.DO_NOT_SHIP, Verdict.BROKEN)

    def __repr__(self) -> str:
        """One line for people."""
        return plain_text(f"test {self.test}, look {self.look} of {self.looks}: {self.verdict}")


_PREFERRED = [
    Verdict.SHIP,
    Verdict.CONTINUE,
    Verdict.NO_DIFFERENCE,
    Verdict.UNCLEAR,
    Verdict.FUTILE,
    Verdict.DO_NOT_SHIP,
    Verdict.BROKEN,
]
