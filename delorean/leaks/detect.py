"""Which features predict the label implausibly well, compared with labels shuffled within their contexts.

Each feature is measured within contexts, and across contexts by one item of each, which detects leaks in features of a
whole context and in contexts of one item:

- AUC by context (Mann and Whitney 1947), ties half, NaN the lowest value. Contexts are weighted by
  positives · negatives / (items + 1), which suits small and large ones (van Elteren 1960).
- Information that bins of its values, or of its ranks within the context, have about the label: it detects missing
  values and codes that do not rise with the label. Adjusted for chance, (I − null) / (H − null): 0 is the value for
  shuffled labels, 1 determines the label (Vinh, Epps and Bailey 2010).

The null is labels shuffled within their contexts. p is the share of shuffles in which *any* feature is as strong
(Westfall and Young 1993, single-step maxT), never 0 (Phipson and Smyth 2010), times the number of scopes. The strength
must also reach the threshold by more than its own uncertainty. So neither many features nor few items make an honest
feature suspicious.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from delorean.leaks.measure import ROUNDING, Scope, ScopeMeasures, measure, strength_lower_bound
from delorean.leaks.report import ACROSS, WITHIN, FeatureLeak, LeakReport, explain_leak
from delorean.leaks.sample import LeakSample
from delorean.leaks.thresholds import SCOPES, LeakThresholds

_DIGITS = 6
_FEWEST = 10  # of either label: honest features, too, put a handful in perfect order
_UNSURE = "strong, but in so little data that it may be chance"


def detect_leaks(sample: LeakSample, thresholds: LeakThresholds | None = None) -> LeakReport:
    """Measure how well each feature of a sample predicts the label, and report those that do implausibly well.

    sample: see `sample_of`; contexts beyond the thresholds' max_items are left out

    >>> rng = np.random.default_rng(0)
    >>> labels = (rng.random(400) < 0.3).astype(np.float32)
    >>> features = {"honest": rng.random(400, dtype=np.float32), "copy": -labels}
    >>> detect_leaks(LeakSample(labels, np.arange(0, 401, 10), features)).suspicious
    ('copy',)
    """
    thresholds = thresholds or LeakThresholds()
    sample = sample.limited(thresholds.max_items, thresholds.seed)
    positive, notes = _positives(sample.labels)
    rng = np.random.default_rng(thresholds.seed)
    scopes = [scope for scope in _scopes(sample, positive, rng) if _is_large_enough(scope, thresholds)]
    features = list(sample.features.values())
    measured = [measure(scope, features, thresholds, rng) for scope in scopes] if features else []
    if not scopes:
        notes.append(
            f"too few items have different labels to distinguish a leak from chance: {_FEWEST} of each are needed"
        )
    return LeakReport(
        features=tuple(_finding(name, i, measured, sample, thresholds) for i, name in enumerate(sample.features)),
        items=len(sample.labels),
        contexts=len(sample.offsets) - 1,
        of_items=max(sample.of_items, len(sample.labels)),
        positives=int(positive.sum()),
        notes=tuple(notes),
        thresholds=thresholds,
    )


def _is_large_enough(scope: Scope, thresholds: LeakThresholds) -> bool:
    """Return whether there are enough items, and enough ways to shuffle their labels for a small p."""
    fewest = min(scope.positive.sum(), (~scope.positive).sum())
    return bool(fewest >= _FEWEST and scope.arrangements >= math.log(2 * SCOPES / thresholds.p_value))


def _positives(labels: NDArray[np.float32]) -> tuple[NDArray[np.bool_], list[str]]:
    """Divide labels into two classes, with notes where the division is not the usual one."""
    notes = []
    unknown = int(np.isnan(labels).sum())
    if unknown:
        notes.append(f"{unknown} items without a label are left out")
    positive = labels > 0
    if positive.any() and not (labels <= 0).any():
        median = float(np.nanmedian(labels))
        at_least = not (labels > median).any()
        positive = labels >= median if at_least else labels > median
        side = "at least" if at_least else "above"
        notes.append(f"no label is 0 or below, so labels {side} the median, {median:g}, count as positive")
    return positive, notes


def _scopes(sample: LeakSample, positive: NDArray[np.bool_], rng: np.random.Generator) -> Iterator[Scope]:
    """Yield the items to compare within contexts that have both classes, then one item of every context."""
    labelled = ~np.isnan(sample.labels)
    context = np.repeat(np.arange(len(sample.offsets) - 1), np.diff(sample.offsets))
    sizes = np.bincount(context[labelled], minlength=len(sample.offsets) - 1)
    positives = np.bincount(context[labelled & positive], minlength=len(sizes))
    contrast = (positives > 0) & (positives < sizes)
    if contrast.any():
        items = np.flatnonzero(labelled & contrast[context])
        yield Scope(WITHIN, items, positive[items], np.concatenate([[0], np.cumsum(sizes[contrast])]))
    items = np.flatnonzero(labelled)
    if len(items):
        filled = sizes[sizes > 0]
        items = items[np.cumsum(filled) - filled + (rng.random(len(filled)) * filled).astype(np.int64)]
        if 0 < positive[items].sum() < len(items):
            yield Scope(ACROSS, items, positive[items], np.array([0, len(items)]))


def _finding(
    name: str, feature: int, measured: list[ScopeMeasures], sample: LeakSample, thresholds: LeakThresholds
) -> FeatureLeak:
    """Judge a feature in each scope, and return the finding of the first suspicious scope, or else of the first."""
    findings = [_judge(name, feature, measures, sample, thresholds, len(measured)) for measures in measured]
    if not findings:
        return FeatureLeak(name, "", None, None, None, None, 0, False, "too little data")
    return next((finding for finding in findings if finding.suspicious), findings[0])


def _judge(
    name: str, feature: int, measures: ScopeMeasures, sample: LeakSample, thresholds: LeakThresholds, scopes: int
) -> FeatureLeak:
    strength, where = measures.strength[feature], measures.scope.where
    as_strong = int((measures.null_strength.max(axis=1) >= strength - ROUNDING).sum())
    p = min(1.0, scopes * (as_strong + 1) / (thresholds.permutations + 1))
    auc, information = (round(float(each[feature]), _DIGITS) for each in (measures.auc, measures.information))
    auc_null = round(float(np.quantile(measures.null_auc[:, feature], 1 - thresholds.p_value)), _DIGITS)
    suspicious, why = False, ""
    if strength >= 1 - ROUNDING:
        lower_bound = strength_lower_bound(measures, feature, sample.features[name], thresholds)
        suspicious = p <= thresholds.p_value and lower_bound >= 1 - ROUNDING
        why = explain_leak(auc, auc_null, information, where, thresholds) if suspicious else _UNSURE
    contexts = len(measures.scope.offsets) - 1 if where == WITHIN else len(measures.scope.items)
    return FeatureLeak(name, where, auc, auc_null, information, p, contexts, suspicious, why)
