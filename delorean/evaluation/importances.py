"""How much each feature, and each encoder's features together, contribute to a model's ranking and to its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from delorean.evaluation.bootstrap import weighted_means
from delorean.evaluation.by_context import measure_contexts
from delorean.evaluation.estimate import Estimate
from delorean.evaluation.groups import clusters_of
from delorean.evaluation.measure import PartScores
from delorean.evaluation.settings import EvaluationSettings
from delorean.ranking_data.ranking_data import RankingData

_CONTEXTS = 1_000
_METRIC = "ndcg@10"


class Importance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model loses without a feature, or without the features of an encoder.

    name: of the feature or encoder
    features: those that were shuffled together
    ndcg_lost: NDCG@10 lost when their values are shuffled among items, averaged over repeats, with an interval over
        contexts; an interval around 0 means that nothing can be concluded
    contribution: mean |contribution| to an item's score, in units of the learner's raw score (TreeSHAP, Lundberg et al.
        2020); of an encoder, of its features' sum. None where the learner gives no contributions
    """

    name: str
    features: tuple[str, ...]
    ndcg_lost: Estimate
    contribution: float | None = None


def importance_sample(part: RankingData, seed: int) -> RankingData:
    """Return at most 1,000 contexts that have positives, chosen at random."""
    counted = np.repeat(np.arange(len(part)), np.diff(part.offsets))[part.positive]
    chosen = np.random.default_rng(seed).permutation(np.unique(counted))[:_CONTEXTS]
    return part.take(np.sort(chosen))


def importances(
    score: PartScores,
    sample: RankingData,
    groups: Mapping[str, Sequence[str]],
    settings: EvaluationSettings | None = None,
    contributions: NDArray[np.float64] | None = None,
    within: NDArray[np.int64] | None = None,
) -> tuple[Importance, ...]:
    """Measure permutation importances (Breiman 2001) of groups of features, in the order of the groups.

    Features that carry the same information hide each other's importance when they are shuffled one by one; a group is
    shuffled together, row by row.

    groups: name → features; features that the sample does not have are left out, and one that is a vector is all of its
        columns, `name[0]`, `name[1]`, …
    contributions: (items, features) of the sample
    within: (items,) the number of each item's task; values are shuffled among items of one task, because those of
        others never occur there. None: all items are alike
    """
    settings = settings or EvaluationSettings()
    random = np.random.default_rng(settings.seed)
    columns = {
        name: [place for place, own in enumerate(sample.names) if own in features or own.partition("[")[0] in features]
        for name, features in groups.items()
    }
    unshuffled = _ndcg(score(sample), sample)
    lost = np.zeros((len(sample), len(columns)))
    for position, chosen in enumerate(columns.values()):
        for _ in range(settings.repeats):
            shuffled = sample.features.copy()
            shuffled[:, chosen] = shuffled[_permutation(random, len(shuffled), within)][:, chosen]
            lost[:, position] += unshuffled - _ndcg(score(replace(sample, features=shuffled)), sample)
    lost /= settings.repeats
    estimates = weighted_means(lost, sample.weights, clusters_of(sample, settings.cluster), settings.bootstrap)
    return tuple(
        Importance(
            name,
            tuple(sample.names[column] for column in chosen),
            estimate,
            None if contributions is None else _mean_size(contributions[:, chosen], sample),
        )
        for (name, chosen), estimate in zip(columns.items(), estimates, strict=True)
    )


def _permutation(random: np.random.Generator, items: int, within: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Return positions in random order, of items of one task among themselves."""
    if within is None:
        return random.permutation(items)
    order = np.empty(items, np.int64)
    for number in np.unique(within):
        rows = np.flatnonzero(within == number)
        order[rows] = random.permutation(rows)
    return order


def _ndcg(scores: NDArray[np.float32], sample: RankingData) -> NDArray[np.float64]:
    return measure_contexts(scores, sample, [10])[_METRIC]


def _mean_size(contributions: NDArray[np.float64], sample: RankingData) -> float:
    sizes = np.abs(contributions.sum(axis=1))
    weights = sample.item_weights
    return float(np.average(sizes, weights=weights if weights is not None and weights.sum() > 0 else None))
