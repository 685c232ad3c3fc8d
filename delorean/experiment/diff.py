"""Compares two runs, from their settings down to the values of each feature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from delorean.audit.comparison import FeatureComparison, compare_feature_sets
from delorean.experiment.record import RunRecord
from delorean.experiment.settings import changed_settings, changes
from delorean.feature_sets.table import table_uri
from schemas.errors import DeloreanError
from schemas.plain_text import plain_text
from snapshotter.storage import Storage

Changes = tuple[Mapping[str, Any], ...]  # a table's rows


@dataclass(frozen=True, repr=False)
class RunDiff:
    """The differences between two runs; an empty field means no change.

    settings: fields of the spec: field, before, after
    encoders: encoder, change (changed, new, gone), fingerprints before and after
    snapshots, globals: element, run or version, and which of the two runs alone could see it
    labels: differences of the label data
    libraries: versions of Python and libraries
    metrics: metrics on the test part, where both were trained
    features: the two feature sets compared value by value; None where one of them is gone, which `notes` then reports
    """

    before: str
    after: str
    settings: Changes
    encoders: Changes
    snapshots: Changes
    globals: Changes
    labels: Changes
    libraries: Changes
    metrics: Changes
    features: FeatureComparison | None
    notes: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether both runs had the same inputs and gave the same features."""
        rows = (self.settings, self.encoders, self.snapshots, self.globals, self.labels, self.libraries)
        return not any(rows) and self.features is not None and self.features.equal

    @property
    def changes(self) -> dict[str, Changes]:
        """The inputs and metrics that changed, as rows of tables."""
        kinds = ("settings", "encoders", "snapshots", "globals", "labels", "libraries", "metrics")
        return {kind: getattr(self, kind) for kind in kinds if getattr(self, kind)}

    def __repr__(self) -> str:
        """One line for people."""
        changed = ", ".join(self.changes)
        outcome = "the same" if self.same else f"not the same{changed and f': {changed} changed'}"
        return plain_text(f"difference {self.before} → {self.after}: {outcome}")


def diff(before: RunRecord, after: RunRecord, storage: Storage) -> RunDiff:
    """Compare the inputs and the results of two runs."""
    notes: list[str] = []
    features = None
    try:
        features = compare_feature_sets(*(_feature_set(record, storage) for record in (before, after)))
    except DeloreanError as error:  # the records can still be compared
        notes.append(f"features could not be compared: {error}")
    return RunDiff(
        before=before.run_id,
        after=after.run_id,
        settings=tuple(changed_settings(before.spec, after.spec)),
        encoders=tuple(_encoders(before, after)),
        snapshots=tuple(_visible("run", before.snapshots, after.snapshots)),
        globals=tuple(_visible("version", before.globals, after.globals)),
        labels=tuple(changes("what", _labels(before), _labels(after))),
        libraries=tuple(changes("library", before.versions, after.versions)),
        metrics=tuple(
            changes("measure", _measures(before), _measures(after)) if before.metrics and after.metrics else ()
        ),
        features=features,
        notes=tuple(notes),
    )


def _feature_set(record: RunRecord, storage: Storage) -> tuple[str, int]:
    return table_uri(storage, record.features.feature_set), record.features.version


def _encoders(before: RunRecord, after: RunRecord) -> Iterator[dict[str, Any]]:
    prints = [{name: each["fingerprint"][:12] for name, each in run.encoders.items()} for run in (before, after)]
    for row in changes("encoder", *prints):
        change = "new" if row["before"] is None else "gone" if row["after"] is None else "changed"
        yield {"encoder": row["encoder"], "change": change, "before": row["before"], "after": row["after"]}


def _visible(
    what: str, before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]]
) -> Iterator[dict[str, Any]]:
    for element in dict.fromkeys([*before, *after]):
        old, new = before.get(element, ()), after.get(element, ())
        yield from ({"element": element, what: name, "seen": "before only"} for name in old if name not in new)
        yield from ({"element": element, what: name, "seen": "after only"} for name in new if name not in old)


def _labels(record: RunRecord) -> dict[str, Any]:
    """Return what identifies label data. Its id does not: the same data may have been put into buckets twice."""
    tables = {f"table {name}": table.get("version") for name, table in record.labels.tables.items()}
    counts = {"contexts": record.labels.contexts, "items": record.labels.items}
    return {**counts, "contexts, times, items and labels": record.features.digest.keys, **tables}


def _measures(record: RunRecord) -> dict[str, Any]:
    return {
        f"{model}: {measure}": value
        for model, parts in (record.metrics or {}).items()
        for measure, value in parts["test"].items()
    }
