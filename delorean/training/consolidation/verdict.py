"""Turns the differences of tasks into a verdict, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from delorean.evaluation.settings import EvaluationSettings
from delorean.training.consolidation.result import METRIC, ConsolidationReport, Outcome, SharingResult, TaskDifference
from delorean.training.consolidation.settings import Consolidation


def verdict(
    results: tuple[SharingResult, ...], settings: Consolidation, evaluation: EvaluationSettings
) -> ConsolidationReport:
    """Return the report. results: of each sharing, the chosen one first."""
    refused = [each for each in results[0].tasks if each.may_lose and each.task not in settings.accept_loss]
    chosen = results[0]
    reasons = [*_of_chosen(chosen, refused, settings), *_of_tasks(chosen, settings), *_of_others(results, refused)]
    return ConsolidationReport(
        settings.sharing,
        settings.loss_limit,
        settings.accept_loss,
        not refused,
        tuple(reasons),
        results,
        evaluation.level,
        evaluation.cluster,
    )


def _of_chosen(chosen: SharingResult, refused: Sequence[TaskDifference], settings: Consolidation) -> Iterator[str]:
    """Say whether the model is consolidated, and whether that gains anything."""
    gains = [each.task for each in chosen.tasks if each.outcome is Outcome.GAINS]
    if refused:
        yield (
            f"Not consolidated: {_listed([each.task for each in refused])} may lose more than the tolerated "
            f"{settings.loss_limit:g} of {METRIC} against a model of its own."
        )
    elif any(each.may_lose for each in chosen.tasks):
        yield f'Consolidated by sharing = "{chosen.sharing}", with a loss that is accepted.'
    else:
        yield (
            f'Consolidated by sharing = "{chosen.sharing}": no task loses more than {settings.loss_limit:g} of '
            f"{METRIC} against a model of its own."
        )
    if gains:
        yield f"{_listed(gains)} {'gains' if len(gains) == 1 else 'gain'}."
    else:
        yield "No task certainly gains in ranking: what speaks for one model is that there is only one to run."


def _of_tasks(chosen: SharingResult, settings: Consolidation) -> Iterator[str]:
    """Say of each task that may lose what is known, and what would tell."""
    for each in chosen.tasks:
        if not each.may_lose:
            continue
        accepted = " Its loss is accepted." if each.task in settings.accept_loss else ""
        if each.outcome is Outcome.LOSES:
            yield f"'{each.task}' loses: {_measured(each)}.{accepted or ' Train it apart, or accept its loss.'}"
        elif each.contexts_needed is None:
            known = "no context with a positive" if each.difference.value is None else "too few contexts"
            yield f"For '{each.task}' a loss is not excluded: the test part has {known} of it.{accepted}"
        else:
            yield (
                f"For '{each.task}' a loss is not excluded: {_measured(each)}; about {each.contexts_needed:,} contexts "
                f"would tell.{accepted}"
            )


def _of_others(results: Sequence[SharingResult], refused: Sequence[TaskDifference]) -> Iterator[str]:
    """Name another sharing in which fewer tasks may lose."""
    if not refused or len(results) == 1:
        return
    best = min(results[1:], key=lambda result: len(result.may_lose))
    if not best.may_lose:
        yield f'By sharing = "{best.sharing}" no task may lose more than that.'
    elif len(best.may_lose) < len(results[0].may_lose):
        yield f'By sharing = "{best.sharing}" only {_listed(best.may_lose)} may.'
    else:
        always = [name for name in results[0].may_lose if all(name in each.may_lose for each in results)]
        if always:
            yield f"No sharing that was measured excludes a loss of {_listed(always)}."


def _measured(each: TaskDifference) -> str:
    change = each.difference
    interval = "" if change.low is None else f" [{change.low:+.4f}, {change.high:+.4f}]"
    return f"{METRIC} {change.value or 0.0:+.4f}{interval} on {change.contexts:,} contexts"


def _listed(names: Sequence[str]) -> str:
    """Write names as a list.

    >>> _listed(["home", "search", "similar"])
    "'home', 'search' and 'similar'"
    """
    quoted = [f"'{name}'" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
