"""Turns the metrics of a candidate into a verdict, with its reasons in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from delorean.ab_tests.result import MetricAtLook, MetricResult, Verdict

_MOST_NAMED = 3


def judge(
    metrics: Sequence[MetricResult], look: int, *, last: bool, futility: str | None = None
) -> tuple[Verdict, tuple[str, ...]]:
    """Return the verdict at a look and its reasons.

    metrics: the deciding one first, each with all looks up to this one
    look: index of it
    futility: why the test is unlikely to find its effect, if it is

    A candidate is not shipped where the deciding metric got worse, or where a guardrail lost more than its margin with
    confidence. It is shipped where the deciding metric got better, at this look or before, and every guardrail's
    interval excludes a loss beyond its margin.
    """
    deciding, guardrails = metrics[0], metrics[1:]
    now = deciding.looks[look]
    measured = _measured(deciding, now)
    harmed = [each for each in guardrails if _gain(each, each.looks[look])[1] < -each.margin]
    if harmed:
        named = ", ".join(_short(each, each.looks[look]) for each in harmed[:_MOST_NAMED])
        return Verdict.DO_NOT_SHIP, (f"More than the tolerated loss: {named}.", measured)
    crossed = next((each for each in deciding.looks[: look + 1] if each.crosses), None)
    if crossed is not None:
        rises = (crossed.z or 0.0) > 0
        if rises != (deciding.better == "higher"):
            return Verdict.DO_NOT_SHIP, (measured, f"{deciding.metric} got worse: the boundary was reached.")
        open_ones = [each for each in guardrails if not _gain(each, each.looks[look])[0] >= -each.margin]
        if not open_ones:
            kept = "The guardrail excludes" if len(guardrails) == 1 else f"All {len(guardrails)} guardrails exclude"
            passed = f"{kept} a loss beyond the margin." if guardrails else ""
            better = f"{deciding.metric} got better: the boundary was reached at look {crossed.look}."
            return Verdict.SHIP, tuple(filter(None, (measured, better, passed)))
        named = ", ".join(_short(each, each.looks[look]) for each in open_ones[:_MOST_NAMED])
        verdict = Verdict.UNCLEAR if last else Verdict.CONTINUE
        return verdict, (measured, f"It got better, but a loss beyond the margin is not excluded: {named}.")
    if last:
        low, high = _gain(deciding, now)
        if low >= -deciding.margin and high <= deciding.margin:
            return Verdict.NO_DIFFERENCE, (measured, f"Neither a gain nor a loss beyond {deciding.margin:.1%} is left.")
        return Verdict.UNCLEAR, (
            measured,
            "The boundary was not reached, and the interval is too wide for equivalence.",
        )
    if futility is not None:
        return Verdict.FUTILE, (measured, futility)
    return Verdict.CONTINUE, (measured, "The boundary is not reached yet.")


def _gain(metric: MetricResult, at: MetricAtLook) -> tuple[float, float]:
    """Return the interval of the improvement: of −relative where lower is better. Infinite where nothing is known."""
    if at.low is None or at.high is None:
        return float("-inf"), float("inf")
    return (at.low, at.high) if metric.better == "higher" else (-at.high, -at.low)


def _short(metric: MetricResult, at: MetricAtLook) -> str:
    interval = "no interval yet" if at.low is None else f"{at.low:+.2%} to {at.high:+.2%}"
    return f"{metric.metric} ({interval}, tolerated {metric.margin:.1%})"


def _measured(metric: MetricResult, at: MetricAtLook) -> str:
    if at.relative is None:
        return f"{metric.metric} cannot be compared yet: {at.units:,} units have complete outcomes."
    interval = "" if at.low is None else f" [{at.low:+.2%}, {at.high:+.2%}]"
    return f"{metric.metric} changes by {at.relative:+.2%}{interval} (look {at.look}, {at.units:,} units)."
