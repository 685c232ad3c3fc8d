"""Renders the demo's report, one self-contained HTML file: what was captured, trained and verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from delorean.display import plots
from delorean.display.html import to_html
from snapshotter.records import StratumReport


@dataclass(frozen=True)
class Feature:
    """A feature's values over all items of the feature set. positive: whether the item's label is above 0."""

    name: str
    values: NDArray[np.float32]
    positive: NDArray[np.bool_]

    @property
    def unknown(self) -> float:
        """Share of items without a value."""
        return float(np.isnan(self.values).mean()) if len(self.values) else 0.0


@dataclass(frozen=True)
class Parity:
    """The comparison of online and offline values.

    examples: differences, in words
    tasks: requests of each task
    offline, online: scores of the same items, from the feature set and from the live scorer
    """

    requests: int
    values: int
    mismatches: int
    examples: Sequence[str]
    tasks: Mapping[str, int]
    offline: NDArray[np.float32]
    online: NDArray[np.float32]


@dataclass(frozen=True)
class Candidate:
    """The new model. Each is shown as `delorean.display` describes it.

    tuning: the search for its parameters; training: its report; comparison: with the model in production
    production: the version that is in production now
    """

    tuning: object
    training: object
    comparison: object
    production: str


@dataclass(frozen=True)
class SharedModel:
    """The model of several tasks, and the one after a task was added. Each is shown as `delorean.display` describes it.

    labels, verdict, training: of the first model; added: names of the added tasks; added_labels, added_verdict: of the
        second
    notes: of the generation of the second one's features
    """

    labels: object
    verdict: object
    training: object
    added: Sequence[str]
    added_labels: object
    added_verdict: object
    notes: Sequence[str]


@dataclass(frozen=True)
class CellTest:
    """The A/B test of both models and the interleaved one before it, as `delorean.display` describes them; the truth.

    visits: number of homepages that members opened during both
    true_rates: cell → the share of visits with a start if its model had ranked all of them
    """

    analysis: object
    interleaved: object
    visits: int
    true_rates: Mapping[str, float]

    @property
    def true_change(self) -> float:
        """The relative change from the first cell to the second."""
        control, candidate = self.true_rates.values()
        return candidate / control - 1


@dataclass(frozen=True)
class ReportData:
    """The data of the report.

    confidence, coverage: service → one share for each day
    strata: the sample of the last day
    plays_by_day: day (0 is the first with a snapshot) → plays
    metrics: ranker → measure → value, on the test part of the split; the model first
    seconds: step → its duration
    """

    title: str
    summary: Mapping[str, Any]
    notes: Sequence[str]
    plays_by_day: Mapping[int, int]
    snapshot_days: Sequence[int]
    strata: Sequence[StratumReport]
    confidence: Mapping[str, Sequence[float]]
    coverage: Mapping[str, Sequence[float]]
    features: Sequence[Feature]
    metrics: Mapping[str, Mapping[str, float]]
    sizes: Mapping[str, Mapping[str, int]]
    importances: Mapping[str, float]
    parity: Parity
    seconds: Mapping[str, float]
    candidate: Candidate
    shared: SharedModel
    test: CellTest


def write_report(path: Path, data: ReportData) -> None:
    """Write the report as one HTML file."""
    path.write_text(render(data), encoding="utf-8")


def render(data: ReportData) -> str:
    """Render the report as HTML."""
    environment = Environment(
        loader=PackageLoader("delorean.display", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    measures = list(next(iter(data.metrics.values())))
    return environment.get_template("report.html").render(
        data=data,
        time_line=plots.time_line(
            "Plays a day", list(data.plays_by_day), list(data.plays_by_day.values()), data.snapshot_days
        ),
        confidence=plots.shares_by_day("Confidence by day and service", data.confidence),
        coverage=plots.shares_by_day("Coverage by day and service", data.coverage),
        metrics=plots.bars(
            "Ranking metrics on the test days",
            measures,
            {ranker: [values[measure] for measure in measures] for ranker, values in data.metrics.items()},
        ),
        importances=plots.ranked("What the model uses", data.importances, "NDCG@10 lost when the feature is shuffled"),
        distributions=[
            (feature, plots.distribution(feature.name, feature.values, feature.positive)) for feature in data.features
        ],
        shown=_shown,
        agreement=plots.agreement("Scores offline and online", data.parity.offline.ravel(), data.parity.online.ravel()),
    )


def _shown(described: object) -> Markup:
    return Markup(to_html(described))  # noqa: S704  # escaped where it is rendered
