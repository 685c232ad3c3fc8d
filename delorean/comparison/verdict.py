"""Turns differences and their intervals into a verdict, with its reasons in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from delorean.comparison.counterfactual.result import CounterfactualEstimates
from delorean.comparison.result import Agreement, Comparison, GroupDifference, Verdict
from delorean.comparison.settings import ComparisonSettings
from delorean.evaluation.bootstrap import contexts_needed
from delorean.evaluation.estimate import Estimate
from delorean.tasks.task_set import TASK_VARIABLE

_MOST_NAMED = 5


def judge(
    difference: Estimate, groups: Sequence[GroupDifference], agreement: Agreement, settings: ComparisonSettings
) -> tuple[Verdict, tuple[str, ...]]:
    """Return the verdict and its reasons.

    difference: of the metric that decides, candidate − production

    The candidate regresses where it, or a task, is worse with confidence and a loss beyond the margin is not excluded,
    or where a group loses more than the group's margin with confidence. It is better where the interval is above 0, and
    not worse where the interval is above −margin (non-inferiority). Everything else is unclear.
    """
    if agreement.same == 1:
        return Verdict.IDENTICAL, ("Both order the items of every context alike: there is nothing to test.",)
    losing, unclear = _losing_groups(groups, settings)
    if losing:
        return Verdict.REGRESSES, (_of_groups(losing, settings), _measured(difference, settings), *unclear)
    verdict, reasons = _of_all(difference, agreement, settings)
    return verdict, (*reasons, *unclear)


def _losing_groups(
    groups: Sequence[GroupDifference], settings: ComparisonSettings
) -> tuple[list[GroupDifference], list[str]]:
    """Return the groups that lose more than is tolerated, and sentences on tasks for which that is not excluded.

    A task tolerates no more than the whole, because its contexts are a use of their own.
    """
    losing, unclear = [], []
    for group in groups:
        low, high = group.simultaneous.low, group.simultaneous.high
        of_task = group.by == TASK_VARIABLE
        if high is not None and high < (0 if of_task else -settings.group_margin):
            if not of_task or (low is not None and low < -settings.margin):
                losing.append(group)
        elif of_task and (low is None or low < -settings.margin):
            needed = contexts_needed(group.simultaneous, settings.margin)
            tell = "it has too few contexts" if needed is None else f"about {needed:,} contexts would tell"
            unclear.append(f"For task '{group.group}' a loss beyond {settings.margin:g} is not excluded: {tell}.")
    return losing, unclear


def _of_all(
    difference: Estimate, agreement: Agreement, settings: ComparisonSettings
) -> tuple[Verdict, tuple[str, ...]]:
    """Return what the difference of all contexts means."""
    if difference.value is None or difference.low is None or difference.high is None:
        reason = "no context has a positive label" if difference.value is None else "there are too few contexts"
        return Verdict.UNCLEAR, (
            f"{settings.metric} cannot tell them apart: {reason}.",
            _of_change(agreement, settings),
        )
    measured, change = _measured(difference, settings), _of_change(agreement, settings)
    if difference.high < 0 and difference.low < -settings.margin:
        return Verdict.REGRESSES, (measured, f"It is worse, and may lose more than the tolerated {settings.margin:g}.")
    if difference.low > 0:
        if _largest_change(agreement) < settings.changed:
            return Verdict.BETTER_BUT_ALIKE, (measured, change, "An online test would hardly see a difference.")
        return Verdict.BETTER, (measured, change, "It is better, and different enough to test.")
    if difference.low >= -settings.margin:
        also = "It is slightly worse, within" if difference.high < 0 else "It is not better, and not worse beyond"
        return Verdict.NOT_WORSE, (measured, f"{also} the tolerated loss of {settings.margin:g}.", change)
    return Verdict.UNCLEAR, (measured, _more_contexts(difference, settings), change)


def _measured(difference: Estimate, settings: ComparisonSettings) -> str:
    if difference.value is None:
        return f"{settings.metric} of all contexts cannot be measured."
    interval = "" if difference.low is None else f" [{difference.low:+.4f}, {difference.high:+.4f}]"
    level = settings.evaluation.level
    return (
        f"{settings.metric} changes by {difference.value:+.4f}{interval} ({level:.0%} interval, "
        f"{difference.contexts:,} contexts)."
    )


def _largest_change(agreement: Agreement) -> float:
    """Return the share of changed places, or of contexts with another first item: few items have no others to show."""
    return max(agreement.changed.value or 0.0, agreement.first_changed)


def _of_change(agreement: Agreement, settings: ComparisonSettings) -> str:
    compared = "below" if _largest_change(agreement) < settings.changed else "at least"
    return (
        f"{agreement.changed.value or 0.0:.1%} of the items in the first {agreement.places} places change, and "
        f"{agreement.first_changed:.1%} of contexts have another first item: {compared} the {settings.changed:.0%} "
        "that a test needs."
    )


def _of_groups(losing: Sequence[GroupDifference], settings: ComparisonSettings) -> str:
    worst = sorted(losing, key=lambda group: group.simultaneous.value or 0.0)
    named = ", ".join(
        f"{group.by} = {group.group} ({group.simultaneous.value:+.4f}, at most {group.simultaneous.high:+.4f})"
        for group in worst[:_MOST_NAMED]
    )
    more = f" and {len(worst) - _MOST_NAMED} more" if len(worst) > _MOST_NAMED else ""
    tolerated = settings.margin if any(group.by == TASK_VARIABLE for group in losing) else settings.group_margin
    return f"{settings.metric} falls by more than the tolerated {tolerated:g} for {named}{more}."


def _more_contexts(difference: Estimate, settings: ComparisonSettings) -> str:
    """Say how many contexts would tell."""
    needed = contexts_needed(difference, settings.margin) or 0
    loss = f"A loss beyond the tolerated {settings.margin:g} is not excluded, nor is a gain"
    if difference.high is not None and difference.high < 0:
        loss = f"A loss beyond the tolerated {settings.margin:g} is not excluded"
    return f"{loss}: about {needed:,} contexts would narrow the interval to ±{settings.margin:g}."


def with_counterfactual(comparison: Comparison, estimates: CounterfactualEstimates) -> Comparison:
    """Add counterfactual estimates to a comparison, and what follows from them.

    A candidate that is better on labels, but would have earned less with confidence, is not clearly better.
    """
    problems = [
        f"{side.name} has no counterfactual estimate: {side.refused}." for side in estimates.sides if side.refused
    ]
    verdict, reasons = comparison.verdict, [*comparison.reasons, *problems]
    if estimates.difference is not None:
        difference = estimates.difference.doubly_robust
        interval = "" if difference.low is None else f" [{difference.low:+.4g}, {difference.high:+.4g}]"
        reasons.append(f"Shown online, its reward would change by {difference.value:+.4g}{interval} for each context.")
        if (
            verdict in (Verdict.BETTER, Verdict.BETTER_BUT_ALIKE)
            and difference.high is not None
            and difference.high < 0
        ):
            verdict = Verdict.UNCLEAR
            reasons.append("Labels and logged rewards disagree: find out why before testing.")
    return replace(comparison, verdict=verdict, reasons=tuple(reasons), counterfactual=estimates)
