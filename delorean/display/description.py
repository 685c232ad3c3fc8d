"""Finds how a thing is described, by its type: once for notebooks, terminals and `--json` alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial, singledispatch
from importlib import import_module
from typing import Any, Final, TypeVar

from delorean.display.parts import Facts, Headline, Note, Part, Table
from schemas.errors import DeloreanError

_T = TypeVar("_T")

# Described types by module and name, and the module of `descriptions` that describes them. By name, so that neither
# importing delorean in a notebook nor showing one thing imports what the others need.
DESCRIBED: Final[Mapping[tuple[str, str], str]] = {
    ("delorean.ab_tests.assignment", "Assignment"): "ab_tests",
    ("delorean.ab_tests.declaration", "AbTest"): "ab_tests",
    ("delorean.ab_tests.interleaving_analysis", "InterleavingAnalysis"): "ab_tests",
    ("delorean.ab_tests.plan", "TestPlan"): "ab_tests",
    ("delorean.ab_tests.result", "AbAnalysis"): "ab_tests",
    ("delorean.ab_tests.result", "Health"): "ab_tests",
    ("delorean.audit.comparison.result", "FeatureComparison"): "comparison",
    ("delorean.audit.paradox.report", "ParadoxReport"): "checks",
    ("delorean.comparison.result", "Comparison"): "rankers",
    ("delorean.cost.result", "Cost"): "cost",
    ("delorean.coverage.result", "DayCoverage"): "coverage",
    ("delorean.coverage.result", "LabelCoverage"): "coverage",
    ("delorean.evaluation.evaluation", "Evaluation"): "evaluation",
    ("delorean.experiment.diff", "RunDiff"): "experiments",
    ("delorean.experiment.record", "RunRecord"): "experiments",
    ("delorean.experiment.replay", "Replay"): "experiments",
    ("delorean.experiment.spec", "ExperimentSpec"): "experiments",
    ("delorean.exposures.counts", "ExposureCounts"): "exposures",
    ("delorean.feature_sets.table", "FeatureSet"): "feature_sets",
    ("delorean.label_quality.report", "LabelQuality"): "label_quality",
    ("delorean.labels", "Labels"): "feature_sets",
    ("delorean.leaks.report", "LeakReport"): "checks",
    ("delorean.prediction.table", "Predictions"): "predictions",
    ("delorean.project.open_project", "OpenProject"): "project",
    ("delorean.project.open_project", "Shelf"): "project",
    ("delorean.registry.records", "RegisteredVersion"): "registry",
    ("delorean.time_travel.machine", "TimeMachine"): "time_travel",
    ("delorean.time_travel.moment", "GlobalView"): "time_travel",
    ("delorean.time_travel.moment", "Moment"): "time_travel",
    ("delorean.time_travel.moment", "ServiceView"): "time_travel",
    ("delorean.training.consolidation.result", "ConsolidationReport"): "consolidation",
    ("delorean.training.fitting", "TrainedModel"): "evaluation",
    ("delorean.training.report", "TrainingReport"): "evaluation",
    ("delorean.tuning.result", "TuningResult"): "tuning",
    ("encoders.encoder", "FeatureEncoder"): "encoders",
    ("encoders.feature_model", "FeatureModel"): "encoders",
    ("snapshotter.records.context_set", "ContextSet"): "snapshots",
    ("snapshotter.records.snapshot_run", "SnapshotRun"): "snapshots",
}


@dataclass(frozen=True)
class Description:
    """What people and programs are shown of a thing.

    headline: one line, mostly its `repr`; empty: none
    parts: what follows, in order; read from the index or storage only when it is rendered
    document: gives the fields that `--json` prints; None: the thing is no command's result
    """

    headline: str
    parts: Iterable[Part] = ()
    document: Callable[[], Mapping[str, Any]] | None = None

    def __iter__(self) -> Iterator[Part]:
        """Yield the headline and the parts. An error of ours while reading them becomes a note."""
        if self.headline:
            yield Headline(self.headline)
        try:
            yield from self.parts
        except DeloreanError as error:
            yield Note(f"the rest cannot be shown: {error}", strong=True)


def is_described(thing: object) -> bool:
    """Whether `describe` knows more of a thing than its `repr`."""
    return _describer(thing) is not None


@singledispatch
def describe(thing: object) -> Description:
    """Describe a thing; one of an unknown type by its `repr` alone, or by its fields if it is a mapping."""
    module = _describer(thing)
    if module is None:
        return _document(thing) if isinstance(thing, Mapping) else Description(repr(thing))
    import_module(f"delorean.display.descriptions.{module}")  # which registers the type here
    return describe.dispatch(type(thing))(thing)


def describes(
    described: type[_T], document: Callable[[_T], Mapping[str, Any]] | None = None, headline: Callable[[_T], str] = repr
) -> Callable[[Callable[[_T], Iterable[Part]]], Callable[[_T], Iterable[Part]]]:
    """Make a function that gives a thing's parts the description of its type.

    document, headline: give what `Description` has under these names
    """

    def register(parts: Callable[[_T], Iterable[Part]]) -> Callable[[_T], Iterable[Part]]:
        def description(thing: _T) -> Description:
            return Description(headline(thing), parts(thing), document and partial(document, thing))

        describe.register(described, description)
        return parts

    return register


def _document(document: Mapping[str, Any]) -> Description:
    """Describe named fields: lists of mappings, and mappings of mappings, become tables; all else facts."""
    tables = {name: rows for name, value in document.items() if (rows := _rows(value)) is not None}
    facts = {name.replace("_", " "): value for name, value in document.items() if name not in tables}
    parts: list[Part] = [Facts(facts)] if facts else []
    for name, rows in tables.items():
        title = name.replace("_", " ")
        parts.append(Table(rows, title, most=None) if rows else Note(f"{title}: none"))
    return Description("", parts, lambda: document)


def _describer(thing: object) -> str | None:
    names = ((cls.__module__, cls.__name__) for cls in type(thing).__mro__)
    return next((DESCRIBED[name] for name in names if name in DESCRIBED), None)


def _rows(value: Any) -> list[Mapping[str, Any]] | None:
    """The rows of a value that is a table; None for any other."""
    if isinstance(value, Mapping) and value and all(isinstance(row, Mapping) for row in value.values()):
        return [{"": name, **row} for name, row in value.items()]
    if isinstance(value, list | tuple) and all(isinstance(row, Mapping) for row in value):
        return list(value)
    return None
