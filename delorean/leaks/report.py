"""The detector's findings, feature by feature, in figures and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from delorean.leaks.thresholds import LeakThresholds
from schemas.plain_text import plain_text

WITHIN = "within contexts"
ACROSS = "across contexts"


@dataclass(frozen=True)
class FeatureLeak:
    """How well one feature predicts the label.

    where: "within contexts", or "across contexts" (one item of each) where only that scope is measurable or suspicious;
        if there are several labels, after the label's name
    auc: area under the ROC curve, by context; None where no labels can be compared
    auc_null: the AUC that shuffled labels reach with the thresholds' p_value: an AUC within 1 − auc_null … auc_null may
        be chance
    information: share of the uncertainty about the label that the feature removes, beyond chance
    p: probability that shuffled labels would make any feature of the sample as strong
    contexts: the number compared
    why: the reason for suspicion, in words
    """

    feature: str
    where: str
    auc: float | None
    auc_null: float | None
    information: float | None
    p: float | None
    contexts: int
    suspicious: bool
    why: str


@dataclass(frozen=True)
class LabelReport:
    """Checks of label data before features exist.

    suspicious: variables that may be the label in disguise
    warnings: reasons why ranking metrics are meaningless
    """

    suspicious: tuple[FeatureLeak, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class LeakReport:
    """The detector's findings in a sample.

    items, contexts: of the sample
    of_items: the items that the sample was taken from
    positives: the number of items that count as positive, for the first of several labels
    notes: remarks on the labels and the sample
    label_data: checks of the label data itself
    """

    features: tuple[FeatureLeak, ...]
    items: int
    contexts: int
    of_items: int
    positives: int
    notes: tuple[str, ...]
    thresholds: LeakThresholds
    label_data: LabelReport = LabelReport()

    @property
    def findings(self) -> tuple[FeatureLeak, ...]:
        """All features, and the variables of the label data that are suspicious."""
        return (*self.label_data.suspicious, *self.features)

    @property
    def suspicious(self) -> tuple[str, ...]:
        """The features and variables that may be the label in disguise."""
        return tuple(dict.fromkeys(finding.feature for finding in self.findings if finding.suspicious))

    @property
    def is_loud(self) -> bool:
        """Whether a person must look at the report."""
        return bool(self.suspicious or self.label_data.warnings)

    @property
    def verdict(self) -> str:
        """The result in one line."""
        return "; ".join((*self.label_data.warnings, self._of_features))

    @property
    def _of_features(self) -> str:
        if self.suspicious:
            return f"suspicious: {', '.join(self.suspicious)} may be the label in disguise"
        if all(finding.auc is None for finding in self.features):
            return "leaks cannot be measured: " + ("; ".join(self.notes) or "the feature set has no features")
        names = {finding.feature for finding in self.features}
        label = "the label" if len(names) == len(self.features) else "any of the labels"
        return f"none of {len(names)} features predicts {label} implausibly well"

    def rows(self) -> list[dict[str, Any]]:
        """Return a table's rows, the suspicious and the strongest first."""
        ordered = sorted(self.findings, key=lambda finding: (not finding.suspicious, -_strength(finding)))
        return [asdict(finding) for finding in ordered]

    def to_json(self) -> dict[str, Any]:
        """Write the report as plain fields."""
        return {
            "suspicious": list(self.suspicious),
            "verdict": self.verdict,
            "items": self.items,
            "contexts": self.contexts,
            "of_items": self.of_items,
            "positives": self.positives,
            "warnings": list(self.label_data.warnings),
            "notes": list(self.notes),
            "thresholds": asdict(self.thresholds),
            "features": self.rows(),
        }

    def __repr__(self) -> str:
        """One line for people."""
        return plain_text(f"search for leaks in {self.items:,} of {self.of_items:,} items: {self.verdict}")


def combine_reports(reports: Mapping[str, LeakReport], thresholds: LeakThresholds) -> LeakReport:
    """Combine the reports on several labels of the same rows: each finding then says which label it is about."""
    if not reports:
        return LeakReport((), 0, 0, 0, 0, ("the label data has no label that a feature could predict",), thresholds)
    first = next(iter(reports.values()))
    if len(reports) == 1:
        return first
    return replace(
        first,
        features=tuple(_of_label(finding, name) for name, each in reports.items() for finding in each.features),
        notes=tuple(f"{name}: {note}" for name, each in reports.items() for note in each.notes),
    )


def combine_label_reports(reports: Mapping[str, LabelReport]) -> LabelReport:
    """Combine the checks of several labels of the same label data."""
    if len(reports) == 1:
        return next(iter(reports.values()))
    return LabelReport(
        tuple(_of_label(finding, name) for name, each in reports.items() for finding in each.suspicious),
        tuple(f"{name}: {warning}" for name, each in reports.items() for warning in each.warnings),
    )


def _of_label(finding: FeatureLeak, label: str) -> FeatureLeak:
    return replace(finding, where=f"{label}, {finding.where}", why=f"{label}: {finding.why}" if finding.why else "")


def _strength(finding: FeatureLeak) -> float:
    if finding.auc is None or finding.information is None:
        return -1.0
    return max(abs(2 * finding.auc - 1), finding.information)


def explain_leak(auc: float, auc_null: float, information: float, where: str, thresholds: LeakThresholds) -> str:
    """Return why a feature is suspicious, in words that need no knowledge of either measure."""
    reasons = []
    same = "of the same context" if where == WITHIN else "of other contexts"
    if max(auc, 1 - auc) >= thresholds.auc:
        side = "above" if auc > 0.5 else "below"
        reasons.append(
            f"puts a positive {side} a negative {same} in {max(auc, 1 - auc):.1%} of pairs, "
            f"where shuffled labels reach {auc_null:.1%}"
        )
    if information >= thresholds.information:
        reasons.append(f"tells {information:.0%} of what is unknown about the label")
    return "; ".join(reasons)
