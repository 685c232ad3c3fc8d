"""Context sets: the stratified sample of contexts that was chosen for a date."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Self

from schemas.data_keys import DataKey
from schemas.plain_text import plain_text
from snapshotter.records.data_file import DataFile
from snapshotter.records.record_text import JsonRecord


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


@dataclass(frozen=True, repr=False)
class ContextSet(JsonRecord):
    """A stratified sample of contexts chosen for a date.

    key: the variables that make a context's key
    files: Parquet with one row for each context: its key, and `experiments`, a
        list<struct<experiment: string, stratum: string, probability: double>>
    """

    context_set_id: str
    date: date
    experiments: tuple[str, ...]
    key: tuple[DataKey, ...]
    files: tuple[DataFile, ...]
    report: tuple[StratumReport, ...]

    @property
    def table(self) -> str:
        """The path of its Delta table, which has the same files, relative to the storage's root."""
        return self.files[0].path.rpartition("/")[0]

    @property
    def rows(self) -> int:
        """Number of contexts."""
        return sum(file.rows for file in self.files)

    def __repr__(self) -> str:
        """One line for people."""
        chosen_for = ", ".join(self.experiments) or "no experiment"
        return plain_text(
            f"context set {self.context_set_id}: {self.rows:,} contexts for {chosen_for}, in {len(self.report)} strata"
        )

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned."""
        return cls(
            fields["context_set_id"],
            date.fromisoformat(fields["date"]),
            tuple(fields["experiments"]),
            tuple(DataKey.from_json(key) for key in fields["key"]),
            tuple(DataFile.from_json(file) for file in fields["files"]),
            tuple(StratumReport.from_json(row) for row in fields["report"]),
        )
