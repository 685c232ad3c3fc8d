"""Context sets: the stratified sample of contexts that was chosen for a date."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Self

from schemas.data_keys import DataKey
from schemas.plain_text import plain_text
from snapshotter.records.data_file import DataFile
from snapshotter.records.record_text import JsonRecord

_Day = date  # within a class that has a field of this name


@dataclass(frozen=True)
class StratumReport(JsonRecord):
    """The contexts of one stratum that an experiment requested, and how many were taken.

    population: distinct contexts in the stratum
    asked: contexts requested (of a fraction the count, rounded up)
    """

    experiment: str
    stratum: str
    population: int
    asked: int
    taken: int

    @property
    def probability(self) -> float | None:
        """The probability that a context of the stratum was taken; None if the stratum is empty."""
        return self.taken / self.population if self.population else None

    @property
    def filled(self) -> bool:
        """Whether the stratum had as many contexts as were requested."""
        return self.taken >= self.asked


@dataclass(frozen=True)
class SelectedExperiment(JsonRecord):
    """An experiment that selected contexts.

    selection: digest of the selection's content; None: of an earlier release, which did not record it
    services: those that it needs; None: all that its contexts can ask
    """

    id: str
    selection: str | None = None
    services: tuple[str, ...] | None = None

    def needs(self, service: str) -> bool:
        """Whether its contexts are to be asked for a service."""
        return self.services is None or service in self.services

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned."""
        services = fields["services"]
        return cls(fields["id"], fields["selection"], None if services is None else tuple(services))


@dataclass(frozen=True)
class FailedExperiment(JsonRecord):
    """An experiment that could not select contexts. final: whether the same selection would fail again."""

    id: str
    error: str
    final: bool


@dataclass(frozen=True)
class ContextGroup(JsonRecord):
    """The contexts of a context set that have the same key: names and types, in order.

    files: Parquet with one row for each context: its key, and `experiments`, a
        list<struct<experiment: string, stratum: string, probability: double>>
    """

    key: tuple[DataKey, ...]
    experiments: tuple[SelectedExperiment, ...]
    files: tuple[DataFile, ...]

    @property
    def table(self) -> str:
        """The path of its Delta table, which has the same files, relative to the storage's root."""
        return self.files[0].path.rpartition("/")[0]

    @property
    def rows(self) -> int:
        """Number of contexts."""
        return sum(file.rows for file in self.files)

    @property
    def key_text(self) -> str:
        """The key for messages."""
        return ", ".join(f"{variable.name}: {variable.type}" for variable in self.key)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned."""
        return cls(
            tuple(DataKey.from_json(key) for key in fields["key"]),
            tuple(SelectedExperiment.from_json(experiment) for experiment in fields["experiments"]),
            tuple(DataFile.from_json(file) for file in fields["files"]),
        )


@dataclass(frozen=True, repr=False)
class ContextSet(JsonRecord):
    """Stratified samples of contexts chosen for a date, or those that a later selection of the date added.

    groups: one for each distinct key of its experiments
    failed: experiments that could not select; they can do so later on the same day
    revision: 1 for the first selection of the date
    after: the id of the revision before this one; None for the first
    """

    context_set_id: str
    date: date
    groups: tuple[ContextGroup, ...]
    report: tuple[StratumReport, ...]
    failed: tuple[FailedExperiment, ...] = ()
    revision: int = 1
    after: str | None = None

    @classmethod
    def of_one_key(
        cls,
        context_set_id: str,
        day: _Day,
        experiments: Iterable[str],
        key: Iterable[DataKey],
        files: Iterable[DataFile],
        report: Iterable[StratumReport] = (),
    ) -> Self:
        """Return a context set whose experiments have the same key."""
        selected = tuple(SelectedExperiment(experiment) for experiment in experiments)
        return cls(context_set_id, day, (ContextGroup(tuple(key), selected, tuple(files)),), tuple(report))

    @property
    def experiments(self) -> tuple[str, ...]:
        """The ids of the experiments that selected contexts."""
        return tuple(experiment.id for group in self.groups for experiment in group.experiments)

    @property
    def rows(self) -> int:
        """Number of contexts."""
        return sum(group.rows for group in self.groups)

    @property
    def files(self) -> tuple[DataFile, ...]:
        """The files of all groups."""
        return tuple(file for group in self.groups for file in group.files)

    def group_of(self, experiment: str) -> ContextGroup | None:
        """Return the group with an experiment's contexts, None if it selected none."""
        return next(
            (group for group in self.groups for selected in group.experiments if selected.id == experiment), None
        )

    def unfilled(self, group: ContextGroup) -> int:
        """The number of a group's strata that have fewer contexts than were requested."""
        ids = {selected.id for selected in group.experiments}
        return sum(not stratum.filled for stratum in self.report if stratum.experiment in ids)

    def __repr__(self) -> str:
        """One line for people."""
        chosen_for = ", ".join(self.experiments) or "no experiment"
        failed = f"; failed: {', '.join(each.id for each in self.failed)}" if self.failed else ""
        return plain_text(
            f"context set {self.context_set_id}: {self.rows:,} contexts for {chosen_for},"
            f" in {len(self.report)} strata{failed}"
        )

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned, or the record of an earlier release: of one key, without revisions."""
        set_id, day = fields["context_set_id"], date.fromisoformat(fields["date"])
        report = tuple(StratumReport.from_json(row) for row in fields["report"])
        if "groups" not in fields:
            key = [DataKey.from_json(each) for each in fields["key"]]
            files = [DataFile.from_json(file) for file in fields["files"]]
            return cls.of_one_key(set_id, day, fields["experiments"], key, files, report)
        groups = tuple(ContextGroup.from_json(group) for group in fields["groups"])
        failed = tuple(FailedExperiment.from_json(each) for each in fields["failed"])
        return cls(set_id, day, groups, report, failed, fields["revision"], fields["after"])
