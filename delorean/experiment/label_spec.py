"""The label data of an experiment."""

from __future__ import annotations

from dataclasses import dataclass

from delorean.labels import LabelColumns
from schemas.errors import ConfigError


@dataclass(frozen=True)
class LabelSpec(LabelColumns):
    """The source of the label data, and what its columns mean: see `LabelColumns`.

    query: Spark SQL over `[tables]`, any table that Spark knows, and what was selected and captured:
        `contexts('homepage')`, `captures('viewing_history')`
    table: the name of one such table, instead of a query
    id: a name for the label data once it is at rest in buckets; later runs then read it instead of making it again
    bucket_variable, buckets: None: chosen from the label data
    incremental: whether features for a day are computed for what became known since the days before only, and the rest
        is kept from them. Not for queries that name `:date`, because their earlier rows may change

    >>> LabelSpec(items=("video_id",), table="shown", time_unit="s").sql
    'TABLE shown'
    """

    query: str | None = None
    table: str | None = None
    id: str | None = None
    bucket_variable: str | None = None
    buckets: int | None = None
    incremental: bool = True

    def __post_init__(self) -> None:
        """Require exactly one source."""
        super().__post_init__()
        if (self.query is None) == (self.table is None):
            raise ConfigError.because("labels need either a query or a table", 'write query = "SELECT …"')

    @property
    def sql(self) -> str:
        """The query, also where a table is named."""
        return self.query if self.query is not None else f"TABLE {self.table}"
