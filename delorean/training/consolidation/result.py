"""What sharing a model costs or gains each task, and whether consolidating is right."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from delorean.evaluation.calibration import Calibration
from delorean.evaluation.estimate import Estimate

METRIC = "ndcg@10"


class Outcome(StrEnum):
    """What sharing does to a task, compared with a model of the task alone.

    GAINS: the interval is above 0; KEEPS: no loss beyond the limit is possible; LOSES: the interval is below 0 and
    reaches beyond the limit; UNCLEAR: a loss beyond the limit is not excluded
    """

    GAINS = "gains"
    KEEPS = "keeps"
    LOSES = "loses"
    UNCLEAR = "a loss is not excluded"


class TaskDifference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A task's ranking by a shared model, and by a model of its own, on the same contexts of the test part.

    shared, single: NDCG@10 of both; difference: shared − single, with an interval that holds for all tasks together
    trees: rounds that the task's score sums, and those of its own model; None where a learner has no rounds
    contexts_needed: about how many contexts would narrow the interval to ± the limit; None without an interval
    """

    task: str
    shared: Estimate
    single: Estimate
    difference: Estimate
    outcome: Outcome
    trees: tuple[int | None, int | None]
    contexts_needed: int | None = None

    @property
    def may_lose(self) -> bool:
        """Whether a loss beyond the limit is certain, or not excluded."""
        return self.outcome in (Outcome.LOSES, Outcome.UNCLEAR)


class SharingResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to share a model, measured task by task."""

    sharing: str
    tasks: tuple[TaskDifference, ...]

    @property
    def may_lose(self) -> tuple[str, ...]:
        """The tasks for which a loss beyond the limit is certain, or not excluded."""
        return tuple(each.task for each in self.tasks if each.may_lose)


class CalibrationChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How well a task's scores are probabilities on the test part, before and after they were calibrated.

    before: None where the scores are no probabilities
    """

    task: str
    before: Calibration | None
    after: Calibration | None


class ConsolidationReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether one model for all tasks is right.

    sharing: the chosen one
    sharings: all that were measured, the chosen one first
    consolidated: whether no task may lose more than `loss_limit`, except for those whose loss is accepted
    reasons: the verdict, in sentences
    level, cluster: of the intervals, see `Evaluation`
    calibrations: by task
    """

    sharing: str
    loss_limit: float
    accepted: tuple[str, ...]
    consolidated: bool
    reasons: tuple[str, ...]
    sharings: tuple[SharingResult, ...]
    level: float
    cluster: str | None = None
    calibrations: tuple[CalibrationChange, ...] = ()

    @property
    def chosen(self) -> SharingResult:
        """The result of the chosen sharing."""
        return self.sharings[0]

    def outcomes(self) -> Mapping[str, Outcome]:
        """Return task → what the chosen sharing does to it."""
        return {each.task: each.outcome for each in self.chosen.tasks}
