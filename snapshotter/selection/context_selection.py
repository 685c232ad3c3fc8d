"""Selects the contexts of a date: a stratified sample for each experiment, stored once for all with the same key."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta

from pyspark.sql import SparkSession

from schemas.errors import ConfigError, DeloreanError, SelectionError
from snapshotter.index import SnapshotIndex
from snapshotter.records import ContextSet, FailedExperiment
from snapshotter.selection.context_sets import read_context_set
from snapshotter.selection.declarations import NamedSelection, load_selections
from snapshotter.selection.group_files import commit_groups, write_groups
from snapshotter.selection.sampling import ExperimentSample, samples
from snapshotter.storage import Storage

__all__ = ["NamedSelection", "load_selections", "read_context_set", "select_contexts"]

_log = logging.getLogger(__name__)


def select_contexts(
    spark: SparkSession,
    experiments: Sequence[NamedSelection],
    date: date,
    storage: Storage,
    index: SnapshotIndex,
    *,
    allow_other: bool = True,
    late: timedelta | None = None,
) -> ContextSet:
    """Select the contexts of a date and publish them; of experiments that the date has already nothing is selected.

    allow_other: whether experiments that the date has, but that were edited since, and new experiments of a date that
        is over stay as they are, with a warning; False: they are errors
    late: how long after the date new experiments may be added to those that it has; None: at any time

    Returns what was published: the first context set of the date, or a later revision with the experiments that it did
    not have; its last revision if there are none. Each group of contexts with the same key is a Delta table of one
    version, which is visible only once the index names its files.

    Each experiment is selected on its own: one that fails is in `failed`, and can be selected later the same day.

    Distinct keys are ranked within their stratum by a seeded hash, so that partitions and cores change nothing.
    A context's inclusion probability is taken / population of its stratum.

    Raises SelectionError, naming the experiments, if none can be selected, and ConfigError for what is not allowed.
    """
    _check_experiments(experiments)
    while True:
        revisions = index.context_sets_of(date)
        missing = _missing(revisions, experiments, date, allow_other=allow_other)
        if revisions and _is_over(date, missing, late, allow_other=allow_other):
            missing = []
        if not missing:
            ids = ", ".join(revision.context_set_id for revision in revisions)
            _log.warning("%s has the context set %s already, which is used", date, ids)
            return revisions[-1]
        selected = _select(spark, missing, date, storage, index, revisions)
        if index.publish_context_set(selected):
            return selected
        _log.warning("another selection published %s meanwhile: only what it lacks is selected", date)


def _missing(
    revisions: Sequence[ContextSet], experiments: Sequence[NamedSelection], date: date, *, allow_other: bool
) -> list[NamedSelection]:
    """Return the experiments that a date does not have. Those that were edited since it has them stay as they are."""
    groups = [group for revision in revisions for group in revision.groups]
    digests = {selected.id: selected.selection for group in groups for selected in group.experiments}
    edited = [each for each in experiments if digests.get(each.id) not in (None, each.digest)]
    if edited:
        names = ", ".join(f"'{each.id}'" for each in edited)
        problem = f"{date} has contexts of {names} already, selected before the selection was edited"
        if not allow_other:
            raise ConfigError.because(problem, "give the edited experiment another name, or select for another date")
        _log.warning("%s: they stay as they are", problem)
    return [each for each in experiments if each.id not in digests]


def _is_over(date: date, missing: Sequence[NamedSelection], late: timedelta | None, *, allow_other: bool) -> bool:
    """Whether a date that has a context set can have no more experiments, because it is over."""
    over = datetime.now(UTC) - datetime.combine(date, time(), UTC) - timedelta(days=1)
    if not missing or late is None or over <= late:
        return False
    names = ", ".join(f"'{each.id}'" for each in missing)
    problem = f"{date} is past, and its contexts were selected without {names}"
    if not allow_other:
        raise ConfigError.because(
            f"{problem}: services would be asked for their state now, never of another day",
            "select for today, or allow a set of services to be `late`",
        )
    _log.warning("%s, which are not selected any more", problem)
    return True


def _select(
    spark: SparkSession,
    experiments: Sequence[NamedSelection],
    date: date,
    storage: Storage,
    index: SnapshotIndex,
    revisions: Sequence[ContextSet],
) -> ContextSet:
    """Select experiments, and write them as the next revision, not yet published."""
    with samples(spark, experiments, date, storage, index) as outcomes:
        drawn = [outcome for outcome in outcomes if isinstance(outcome, ExperimentSample)]
        errors = {
            experiment.id: outcome
            for experiment, outcome in zip(experiments, outcomes, strict=True)
            if isinstance(outcome, DeloreanError)
        }
        if not drawn:
            raise _all_failed(list(errors.values()))
        for error in errors.values():
            _log.error("%s", error)
        number = revisions[-1].revision + 1 if revisions else 1
        set_id = _context_set_id([sample.experiment for sample in drawn], date, number)
        groups = write_groups(spark, drawn, date, set_id, storage)
    selected = ContextSet(
        set_id,
        date,
        groups,
        tuple(row for sample in drawn for row in sample.report),
        tuple(FailedExperiment(name, str(error), error.final) for name, error in errors.items()),
        number,
        revisions[-1].context_set_id if revisions else None,
    )
    commit_groups(selected, storage)
    return selected


def _all_failed(errors: Sequence[DeloreanError]) -> DeloreanError:
    if len(errors) == 1:
        return errors[0]
    return SelectionError(f"no experiment selected contexts: {'; '.join(map(str, errors))}")


def _check_experiments(experiments: Sequence[NamedSelection]) -> None:
    if not experiments:
        raise SelectionError.because("no experiment to select contexts for", "declare one in [experiments.<id>]")
    first: dict[str, NamedSelection] = {}
    for experiment in experiments:
        other = first.setdefault(experiment.id, experiment)
        if other is not experiment:
            queries = " and ".join(f"{each.query.strip()[:60]!r}" for each in (other, experiment))
            raise SelectionError.because(
                f"two experiments have the id '{experiment.id}': with the queries {queries}", "give each its own"
            )


def _context_set_id(experiments: Sequence[NamedSelection], date: date, revision: int = 1) -> str:
    """Return the id of a context set: a digest of the experiments that it was selected for."""
    text = json.dumps([experiment.to_json() for experiment in experiments], sort_keys=True)
    number = f"-r{revision}" if revision > 1 else ""
    return f"{date.isoformat()}{number}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
