"""How strongly features predict the label, among items that are compared with one another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from delorean.leaks import kernels
from delorean.leaks.thresholds import LeakThresholds

ROUNDING = 1e-6  # scores are summed as float32: an AUC of 1 may be computed lower by this much
_BIAS = 0.1  # the largest share of the label's entropy that bins may explain by chance
_FOLDS = 20
_ONE_IN_TWENTY = 1.645  # standard errors: one estimate in twenty is further below the true value


@dataclass(frozen=True)
class Scope:
    """Items that are compared with one another, group by group, and measured together.

    items: their positions in the sample
    positive: (items,)
    offsets: (groups + 1,) every group has items of both classes
    """

    where: str
    items: NDArray[np.int64]
    positive: NDArray[np.bool_]
    offsets: NDArray[np.int64]

    @property
    def entropy(self) -> float:
        """Entropy of the label over all items, in nats."""
        share = self.positive.mean()
        return float(-share * math.log(share) - (1 - share) * math.log(1 - share))

    @property
    def arrangements(self) -> float:
        """Logarithm of the number of ways to shuffle the labels."""
        sizes = np.diff(self.offsets)
        positives = np.add.reduceat(self.positive, self.offsets[:-1], dtype=np.int64)
        return float(sum(map(_log_choose, sizes.tolist(), positives.tolist())))

    @property
    def bins(self) -> int:
        """Number of bins for values.

        It grows with the items and with the balance of the label: by chance bins explain about
        (bins − 1) / (2 · items) nats (Miller 1955), which is limited to a tenth of the label's entropy.
        """
        return int(np.clip(1 + 2 * _BIAS * len(self.items) * self.entropy, 2, kernels.MOST_BINS))

    def contrasting(self, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return a mask of the kept items in groups that still have both classes."""
        sizes = np.add.reduceat(kept, self.offsets[:-1], dtype=np.int64)
        positives = np.add.reduceat(kept & self.positive, self.offsets[:-1], dtype=np.int64)
        contrast = (positives > 0) & (positives < sizes)
        mask: NDArray[np.bool_] = kept & np.repeat(contrast, np.diff(self.offsets))
        return mask

    def take(self, kept: NDArray[np.bool_]) -> Scope:
        """Keep some items, and the groups that have any."""
        sizes = np.add.reduceat(kept, self.offsets[:-1], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(sizes[sizes > 0])])
        return Scope(self.where, self.items[kept], self.positive[kept], offsets)


@dataclass(frozen=True)
class ScopeMeasures:
    """How strongly each feature predicts the label in a scope, and how strongly it predicts shuffled labels.

    auc, information: (features,)
    strength: (features,) the greater of both, scaled so that 1 is the threshold
    null_auc, null_strength: (permutations, features); null_auc to either side of 1/2
    chance: (2 · features) information that bins of values and of ranks have about shuffled labels, in nats
    """

    scope: Scope
    auc: NDArray[np.float64]
    information: NDArray[np.float64]
    strength: NDArray[np.float64]
    null_auc: NDArray[np.float64]
    null_strength: NDArray[np.float64]
    chance: NDArray[np.float64]


@dataclass(frozen=True)
class ScopeStatistics:
    """Ranks and bins of features in a scope, from which AUC and information are computed.

    scores: (items, features) relative ranks within the group
    codes: (items, 2 · features) bins of values and of ranks
    """

    scope: Scope
    scores: NDArray[np.float32]
    codes: NDArray[np.uint8]

    @classmethod
    def of(cls, scope: Scope, features: Sequence[NDArray[np.float32]]) -> Self:
        """Rank and bin features."""
        scores = np.empty((len(scope.items), len(features)), dtype=np.float32)
        codes = np.empty((len(scope.items), 2 * len(features)), dtype=np.uint8)
        for i, values in enumerate(features):
            keys = kernels.sortable(values[scope.items])
            scores[:, i] = kernels.relative_ranks(keys, scope.offsets)
            codes[:, 2 * i] = kernels.bin_codes(keys, np.argsort(keys), scope.bins)
            ranks = np.where(keys == kernels.MISSING, kernels.MISSING, kernels.sortable(scores[:, i]))
            codes[:, 2 * i + 1] = kernels.bin_codes(ranks, np.argsort(ranks), scope.bins)
        return cls(scope, scores, codes)

    @property
    def flipped(self) -> bool:
        """Whether the negative items are counted: the rarer class is, and AUC must then be inverted."""
        return bool(self.scope.positive.mean() > 0.5)

    @property
    def chosen(self) -> NDArray[np.bool_]:
        """The items that are counted."""
        return ~self.scope.positive if self.flipped else self.scope.positive

    def auc(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert sums of relative ranks to AUC by context, with van Elteren's weights."""
        sizes = np.diff(self.scope.offsets)
        counts = np.add.reduceat(self.chosen, self.scope.offsets[:-1], dtype=np.int64)
        least = (counts * (counts + 1) / 2 / (sizes + 1)).sum()
        auc = np.clip((sums - least) / (counts * (sizes - counts) / (sizes + 1)).sum(), 0, 1)
        of_positives: NDArray[np.float64] = 1 - auc if self.flipped else auc
        return of_positives

    def observe(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (features,) AUC and (2 · features,) information of the actual labels."""
        sums, information = kernels.measure(self.chosen, self.scores, self.codes, kernels.count_codes(self.codes))
        return self.auc(sums), information

    def shuffle(self, times: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the same of shuffled labels: (times, features) and (times, 2 · features)."""
        sums, information = kernels.measure_shuffled(
            self.chosen, self.scope.offsets, self.scores, self.codes, kernels.count_codes(self.codes), rng, times
        )
        return self.auc(sums), information

    def without(self, fold: int) -> Self | None:
        """Leave out every twentieth group, or item where there are few groups; None if too little is left.

        Ranks are computed again only where groups lose items.
        """
        groups = np.repeat(np.arange(len(self.scope.offsets) - 1), np.diff(self.scope.offsets))
        by_groups = len(self.scope.offsets) > _FOLDS
        kept = self.scope.contrasting((groups if by_groups else np.arange(len(groups))) % _FOLDS != fold)
        if not kept.any():
            return None
        part, scores = self.scope.take(kept), self.scores[kept]
        if not by_groups:
            for i in range(scores.shape[1]):
                scores[:, i] = kernels.relative_ranks(kernels.sortable(scores[:, i]), part.offsets)
        return type(self)(part, scores, self.codes[kept])


def measure(
    scope: Scope, features: Sequence[NDArray[np.float32]], thresholds: LeakThresholds, rng: np.random.Generator
) -> ScopeMeasures:
    """Measure all features in one scope, with the actual labels and with shuffled ones."""
    counted = ScopeStatistics.of(scope, features)
    auc, nats = counted.observe()
    null_auc, null_nats = counted.shuffle(thresholds.permutations, rng)
    chance = null_nats.mean(axis=0)
    information = _adjusted(nats[np.newaxis], chance, scope.entropy)[0]
    null_information = _adjusted(null_nats, chance, scope.entropy)
    return ScopeMeasures(
        scope,
        auc,
        information,
        _strength(auc, information, thresholds),
        np.abs(null_auc - 0.5) + 0.5,
        _strength(null_auc, null_information, thresholds),
        chance,
    )


def strength_lower_bound(
    measured: ScopeMeasures, feature: int, values: NDArray[np.float32], thresholds: LeakThresholds
) -> float:
    """Return the least strength of a feature with 95 % confidence: in few items, features may look too strong.

    Standard errors by the jackknife, leaving out a twentieth of the contexts at a time (Efron and Stein 1981).
    """
    counted = ScopeStatistics.of(measured.scope, [values])
    chance = measured.chance[2 * feature : 2 * feature + 2]
    measures = []
    for fold in range(_FOLDS):
        part = counted.without(fold)
        if part is None:
            return 0.0
        auc, nats = part.observe()
        measures.append((auc[0], _adjusted(nats[np.newaxis], chance, part.scope.entropy)[0, 0]))
    spread = np.array(measures)
    errors = np.sqrt((_FOLDS - 1) * spread.var(axis=0)) * _ONE_IN_TWENTY
    auc_side = 0.5 + max(0.0, abs(measured.auc[feature] - 0.5) - errors[0])
    information = max(0.0, measured.information[feature] - errors[1])
    return float(_strength(np.array([auc_side]), np.array([information]), thresholds)[0])


def _adjusted(information: NDArray[np.float64], chance: NDArray[np.float64], entropy: float) -> NDArray[np.float64]:
    """Return (…, features) the better of values' and ranks' bins, 0 for chance and 1 for a determined label."""
    room = np.maximum(entropy - chance, 0)
    share = np.where(room > ROUNDING, (information - chance) / np.maximum(room, ROUNDING), 0)
    adjusted: NDArray[np.float64] = np.clip(share, 0, 1).reshape(len(share), -1, 2).max(axis=2)
    return adjusted


def _strength(
    auc: NDArray[np.float64], information: NDArray[np.float64], thresholds: LeakThresholds
) -> NDArray[np.float64]:
    """Return the greater of both measures, scaled so that 1 is the threshold."""
    by_auc = np.abs(2 * auc - 1) / (2 * thresholds.auc - 1)
    return np.maximum(by_auc, information / thresholds.information)


def _log_choose(of: int, chosen: int) -> float:
    return math.lgamma(of + 1) - math.lgamma(chosen + 1) - math.lgamma(of - chosen + 1)
