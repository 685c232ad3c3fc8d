"""Whether label data reveals its own labels: by its variables, or because each context has one label only.

A query such as `SELECT *, bought AS label` leaves `bought` among the context variables. Then each context has items of
one label, any order of them is right, and even a model of random labels is measured as perfect. Proven cases raise an
error; possible ones are part of the leak report.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.labels import OUTCOME_COLUMN, TIME_COLUMN, Labels
from delorean.leaks.detect import detect_leaks
from delorean.leaks.report import FeatureLeak, LabelReport, combine_label_reports
from delorean.leaks.sample import LeakSample, sample_rows
from delorean.leaks.scopes import LeakScope, leak_scopes
from delorean.leaks.thresholds import LeakThresholds
from schemas.errors import ParadoxError
from snapshotter.storage import Storage

_ALL_INFORMATION, _ALL_PAIRS = 0.98, 0.9995  # a variable that reaches one of these is the label
_CHANCE = 1e-6  # probability that randomly distributed labels leave one label in each context
_FEWEST = 10  # rows needed to conclude that a variable is the time of the outcome
_EPOCHS = (1, 10**3, 10**6)  # microseconds in the units that integer times may have
_NO_MEASURE = "no order of items is wrong, so ranking metrics are meaningless"
_HINT = "leave it out of the query, or name the variables: context = […]"


def check_labels(labels: Labels, storage: Storage, thresholds: LeakThresholds | None = None) -> LabelReport:
    """Measure label data's own variables as if they were features, and search for contexts of one label.

    Raises ParadoxError for a variable that is the label, or the time of its outcome, for a suspicious one where the
    policy is fail, and where each context has only one label, although labels differ, beyond chance. Each task is
    checked by itself, with its own variables.
    """
    thresholds = thresholds or LeakThresholds()
    scopes = leak_scopes(labels.label_names, (), (key.name for key in labels.context), labels.tasks)
    return combine_label_reports({scope.title: _check_scope(scope, labels, storage, thresholds) for scope in scopes})


def _check_scope(scope: LeakScope, labels: Labels, storage: Storage, thresholds: LeakThresholds) -> LabelReport:
    try:
        return _check_label(scope, labels, storage, thresholds)
    except ParadoxError as error:
        raise type(error)(str(error) if scope.task is None else f"task '{scope.task}': {error}") from error


def _check_label(scope: LeakScope, labels: Labels, storage: Storage, thresholds: LeakThresholds) -> LabelReport:
    context, items, of_items = [*scope.context], [key.name for key in labels.items], labels.item_count
    if labels.tasks is not None and scope.task is not None:
        items = [*labels.tasks.task(scope.task).items]
        of_items = sum(each.kept_items for each in labels.merged if each.task == scope.task)
    sample, rows = sample_rows(storage, labels.files, scope, items, [*context, OUTCOME_COLUMN], of_items, thresholds)
    if not rows.num_rows:
        return LabelReport()
    _refuse_outcomes(rows, context, items)
    features = {**_of_contexts(rows, context, sample.offsets), **_of_items(rows, items)}
    findings = detect_leaks(replace(sample, features=features), thresholds).features
    suspicious = tuple(_as_variable(finding, context) for finding in findings if finding.suspicious)
    _refuse(suspicious, items, thresholds)
    return LabelReport(suspicious, tuple(_warnings(sample)))


def _as_variable(finding: FeatureLeak, context: list[str]) -> FeatureLeak:
    kind = "a context variable" if finding.feature in context else "an item variable"
    return replace(finding, feature=f"{finding.feature} ({kind})")


def _refuse(suspicious: tuple[FeatureLeak, ...], items: list[str], thresholds: LeakThresholds) -> None:
    """Raise ParadoxError for variables that are the label, or for any suspicious one where the policy is fail."""
    fatal = [each for each in suspicious if _is_the_label(each) or thresholds.policy == "fail"]
    if fatal:
        name = fatal[0].feature.partition(" (")[0]
        raise ParadoxError.because(
            f"label data reveals its labels: {fatal[0].feature} {fatal[0].why}",
            f"no feature may know its label: remove {name} from items" if name in items else _HINT,
        )


def _is_the_label(finding: FeatureLeak) -> bool:
    return (finding.information or 0) >= _ALL_INFORMATION or abs((finding.auc or 0.5) - 0.5) >= _ALL_PAIRS - 0.5


def _warnings(sample: LeakSample) -> Iterator[str]:
    """Yield why the contexts make ranking metrics meaningless. Raises ParadoxError where they cannot be right."""
    sizes = np.diff(sample.offsets)
    filled = sizes > 0
    starts = sample.offsets[:-1][filled]
    lowest, highest = (ufunc.reduceat(sample.labels, starts) for ufunc in (np.minimum, np.maximum))
    contexts, several = int(filled.sum()), sizes[filled] > 1
    if (lowest != highest).any() or np.isnan(sample.labels).any():
        return
    values, counts = np.unique(sample.labels, return_counts=True)
    if len(values) < 2:
        yield f"all labels are {values[0]:g}: there is nothing to learn"
    elif not several.any():
        yield f"each of {contexts} contexts has one item only: {_NO_MEASURE}"
    elif _log_chance(sizes[filled][several], counts / counts.sum()) < math.log(_CHANCE):
        raise ParadoxError.because(
            f"each of {contexts} contexts has one label for all of its items, so the context reveals the label and "
            "any order of the items is right",
            "remove the variables that determine the label from the context, name the others: context = […], and give "
            "items that were shown together the same time",
        )
    else:
        yield f"each of {contexts} contexts has one label for all of its items: {_NO_MEASURE}"


def _log_chance(sizes: NDArray[np.int64], shares: NDArray[np.float64]) -> float:
    """Return the logarithm of the probability that randomly distributed labels leave one label in each context."""
    distinct, counts = np.unique(sizes, return_counts=True)
    alike = (shares[np.newaxis] ** distinct[:, np.newaxis]).sum(axis=1)
    return float((counts * np.log(alike)).sum())


def _refuse_outcomes(rows: pa.Table, context: list[str], items: list[str]) -> None:
    """Raise ParadoxError for a variable that equals the time of the outcome in every row, as a time or an integer."""
    outcomes = rows[OUTCOME_COLUMN].cast(pa.int64()).to_numpy()
    if len(outcomes) < _FEWEST or len(np.unique(outcomes - rows[TIME_COLUMN].cast(pa.int64()).to_numpy())) < 2:
        return
    for name in [*context, *items]:
        values = rows[name]
        if pa.types.is_list(values.type):
            values = _greatest(values)
        if not (pa.types.is_timestamp(values.type) or pa.types.is_int64(values.type)):
            continue
        numbers = pc.fill_null(values.cast(pa.int64()), 0).to_numpy()
        epochs = _EPOCHS if pa.types.is_int64(values.type) else (1,)
        if any(np.array_equal(numbers, outcomes // epoch) for epoch in epochs):
            raise ParadoxError.because(
                f"'{name}' is the time of the outcome in every row, which is unknown at the row's time", _HINT
            )


def _greatest(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    flat = pa.table({"row": pc.list_parent_indices(lists), "value": pc.list_flatten(lists)})
    greatest = flat.group_by("row").aggregate([("value", "max")]).sort_by("row")
    return greatest["value_max"] if greatest.num_rows == len(lists) else pa.chunked_array([], flat["value"].type)


def _of_contexts(rows: pa.Table, names: list[str], offsets: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
    times = rows[TIME_COLUMN].cast(pa.int64()).to_numpy()
    return {name: np.repeat(_numbers(rows[name], times), np.diff(offsets)) for name in names}


def _of_items(rows: pa.Table, names: list[str]) -> dict[str, NDArray[np.float32]]:
    times = rows[TIME_COLUMN].cast(pa.int64()).to_numpy()
    numbers = {}
    for name in names:
        parents = pc.list_parent_indices(rows[name]).to_numpy()
        numbers[name] = _numbers(pc.list_flatten(rows[name]), times[parents])
    return numbers


def _numbers(values: pa.ChunkedArray, times: NDArray[np.int64]) -> NDArray[np.float32]:
    """Convert values to numbers that distinguish them well enough to measure leaks; times count from the row's time."""
    if pa.types.is_timestamp(values.type):
        seconds: NDArray[np.float32] = ((values.cast(pa.int64()).to_numpy() - times) / 1e6).astype(np.float32)
        return seconds
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    if pa.types.is_date(values.type):
        values = values.cast(pa.int32())
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
        numbers: NDArray[np.float32] = values.cast(pa.float64(), safe=False).to_numpy().astype(np.float32)
        return numbers
    encoded = values.combine_chunks().dictionary_encode()
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    codes = encoded.indices.to_numpy()
    ranks = np.empty(
        len(encoded.dictionary), dtype=np.float32
    )  # the most frequent first, so that they get their own bins
    ranks[np.argsort(-np.bincount(codes, minlength=len(ranks)), kind="stable")] = np.arange(len(ranks))
    coded: NDArray[np.float32] = ranks[codes]
    return coded
