"""Estimates rewards of policies from logged exposures: inverse propensities, self-normalised, doubly robust."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from delorean.comparison.counterfactual.exposures import Exposures, LoggedExposures, logged_exposures
from delorean.comparison.counterfactual.policies import display_probabilities
from delorean.comparison.counterfactual.result import CounterfactualEstimates, PolicyEstimates, RewardEstimates
from delorean.comparison.counterfactual.reward_model import predicted_rewards
from delorean.evaluation.bootstrap import weighted_means
from delorean.evaluation.by_context import check_scores, sums
from delorean.evaluation.estimate import Estimate
from delorean.evaluation.settings import Bootstrap
from delorean.ranking_data.ranking_data import RankingData


def estimate_rewards(
    candidate: NDArray[np.float32],
    production: NDArray[np.float32],
    part: RankingData,
    exposures: Exposures,
    *,
    clusters: NDArray[np.int64] | None = None,
    bootstrap: Bootstrap | None = None,
    names: tuple[str, str] = ("candidate", "production"),
) -> CounterfactualEstimates:
    """Estimate what two rankings would have earned in each context, and the difference.

    candidate, production: (items,) scores
    part: its `items` have the columns of `exposures`, its features predict rewards for the doubly robust estimate
    clusters: (contexts,) see `ratios`

    A policy has no estimate where too much of what it shows was never shown, or the effective sample is too small.
    Raises ComparisonError for exposures that cannot be a log.
    """
    bootstrap = bootstrap or Bootstrap()
    logged = logged_exposures(part, exposures)
    predictions = predicted_rewards(part, logged, clusters, exposures.folds, bootstrap.seed)
    values, sides = [], []
    for name, scores in zip(names, (candidate, production), strict=True):
        check_scores(scores, len(part.labels))
        probabilities = display_probabilities(scores, part.offsets, exposures)
        contributions = _contributions(probabilities, predictions, logged, part, exposures)
        values.append(contributions)
        sides.append(_policy(name, contributions, probabilities, logged, part, exposures, clusters, bootstrap))
    difference = None
    if all(side.refused is None for side in sides):
        difference = _estimates(values[0] - values[1], part, clusters, bootstrap)
    earned = sums(logged.rewards, part.offsets)[:, np.newaxis]
    return CounterfactualEstimates(
        _in_words(exposures),
        weighted_means(earned, part.weights, clusters, bootstrap)[0],
        sides[0],
        sides[1],
        difference,
        tuple(_notes(logged, exposures)),
    )


def _contributions(
    probabilities: NDArray[np.float64],
    predictions: NDArray[np.float64],
    logged: LoggedExposures,
    part: RankingData,
    exposures: Exposures,
) -> NDArray[np.float64]:
    """Return (contexts, 3): each context's contribution to the three estimates.

    The self-normalised estimate is a ratio of two means. A context's contribution is the estimate and the context's
    influence on it (the delta method), so that differences between policies are paired by context too.
    """
    weights = _item_weights(probabilities, logged, exposures)
    ips = sums(weights * logged.rewards, part.offsets)
    direct = sums(probabilities * predictions, part.offsets)
    corrected = direct + sums(weights * np.where(logged.shown, logged.rewards - predictions, 0), part.offsets)
    of_weights, of_places = sums(weights, part.offsets), sums(probabilities, part.offsets)
    context_weights = np.ones(len(part)) if part.weights is None else part.weights
    means = np.average(np.stack([ips, of_weights, of_places], axis=1), axis=0, weights=context_weights)
    if means[1] > 0:
        ratio = means[0] / means[1]
        influence = means[2] * (ips - ratio * of_weights) / means[1] + ratio * (of_places - means[2])
        snips = ratio * means[2] + influence
    else:
        snips = np.full(len(part), np.nan)
    return np.stack([ips, snips, corrected], axis=1)


def _item_weights(
    probabilities: NDArray[np.float64], logged: LoggedExposures, exposures: Exposures
) -> NDArray[np.float64]:
    """Return π / p of shown items, at most the bound, and 0 for the others."""
    ratios = np.divide(probabilities, logged.propensities, out=np.zeros_like(probabilities), where=logged.shown)
    return ratios if exposures.clip is None else np.minimum(ratios, exposures.clip)


def _policy(
    name: str,
    contributions: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    logged: LoggedExposures,
    part: RankingData,
    exposures: Exposures,
    clusters: NDArray[np.int64] | None,
    bootstrap: Bootstrap,
) -> PolicyEstimates:
    context_weights = np.ones(len(part)) if part.weights is None else part.weights
    of_items = np.repeat(context_weights, np.diff(part.offsets))
    weights = _item_weights(probabilities, logged, exposures)
    squares = float(((weights * of_items) ** 2).sum())
    effective = float((weights * of_items).sum()) ** 2 / squares if squares > 0 else 0.0
    known = not np.isnan(logged.propensities).any()
    never = float((probabilities * of_items)[logged.propensities == 0].sum() / (probabilities * of_items).sum())
    refused = None
    if never > exposures.unsupported:
        refused = f"{never:.1%} of what it shows was never shown (propensity 0): its reward is not known"
    elif effective < exposures.effective:
        refused = f"the effective sample is {effective:,.0f} shown items, below {exposures.effective:,}"
    greatest = np.divide(probabilities, logged.propensities, out=np.zeros_like(probabilities), where=logged.shown)
    return PolicyEstimates(
        name=name,
        reward=None if refused else _estimates(contributions, part, clusters, bootstrap),
        effective=effective,
        shown=int((logged.shown & (probabilities > 0)).sum()),
        greatest_weight=float(greatest.max(initial=0.0)),
        clipped=0 if exposures.clip is None else int((greatest > exposures.clip).sum()),
        unsupported=never if known or never > 0 else None,
        refused=refused,
    )


def _estimates(
    contributions: NDArray[np.float64],
    part: RankingData,
    clusters: NDArray[np.int64] | None,
    bootstrap: Bootstrap,
) -> RewardEstimates:
    estimates: list[Estimate] = weighted_means(contributions, part.weights, clusters, bootstrap)
    return RewardEstimates(*estimates)


def _in_words(exposures: Exposures) -> str:
    if exposures.policy == "softmax":
        return f"shows one item, with a probability proportional to exp(score / {exposures.temperature:g})"
    return (
        "ranks and shows the first item"
        if exposures.places == 1
        else f"ranks and shows the first {exposures.places} items"
    )


def _notes(logged: LoggedExposures, exposures: Exposures) -> Sequence[str]:
    notes = []
    if exposures.clip is not None:
        notes.append(f"weights are at most {exposures.clip:g}, which biases IPS downwards where they are cut")
    if np.isnan(logged.propensities).any():
        notes.append("whether the logging policy could show all items is not known: their propensities are not logged")
    if exposures.places > 1:
        notes.append("an item's reward is taken not to depend on its place and on the other shown items")
    return notes
