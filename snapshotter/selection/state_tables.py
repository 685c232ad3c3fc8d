"""Tables of what was selected and captured, in Spark SQL: `contexts('homepage')` and `captures('viewing_history')`.

Calls in a query are replaced by names of views. A Python table function would read everything in one task; a view is
read in place by many, and only from files of the dates that are used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from schemas.data_keys import DataKey
from schemas.errors import DeloreanError
from schemas.tables import IS_FALLBACK, TIME, contexts_schema
from snapshotter.index import SnapshotIndex
from snapshotter.records import DataFile
from snapshotter.selection.context_sets import contexts_of
from snapshotter.spark.connect import require_workers
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import ParquetReader, read_parquet

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_MOST_TASKS = 200  # years of days have many small files
_RECENT_SETS = 50  # searched for the names of experiments that an error suggests
_FIRST, _LAST = date(1, 1, 1), date(9999, 12, 31)
_TEXT = r"'[^'\\]*'|\"[^\"\\]*\""
_SKIPPED = r"--[^\n]*|/\*.*?\*/|`[^`]*`|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_CALL = re.compile(
    rf"(?P<skipped>{_SKIPPED})|(?<![\w.])(?P<table>contexts|captures)\s*\(\s*(?P<arguments>(?:{_TEXT})"
    rf"(?:\s*,\s*(?:{_TEXT}))*)\s*\)",
    re.IGNORECASE | re.DOTALL,
)
_File: TypeAlias = dict[str, Any]  # of a task: the file, and the columns that are the same for all of its rows
_Read: TypeAlias = Callable[[Storage, _File], Iterator[pa.Table]]


@dataclass(frozen=True)
class StateTable:
    """A table that a query names.

    view: the name that replaces the call in the query
    files: a JSON object for each task
    sources: the ids of the context sets or runs that it reads, the earliest first
    """

    view: str
    call: str
    schema: pa.Schema
    files: tuple[str, ...]
    sources: tuple[str, ...]
    read: _Read

    def to_spark(self, spark: SparkSession, storage_uri: str) -> DataFrame:
        """Return its rows, which tasks read in place; the JVM needs no access to the storage."""
        from pyspark.sql.pandas.types import from_arrow_schema

        schema, read = self.schema, self.read
        require_workers(spark)

        def read_task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            storage = open_storage(storage_uri)
            for batch in batches:
                for text in batch.column("file").to_pylist():
                    for table in read(storage, json.loads(text)):
                        yield from table.cast(schema).to_batches(max_chunksize=65_536)

        listed = spark.createDataFrame(pa.table({"file": pa.array(self.files, pa.string())}))
        tasks = max(1, min(len(self.files), _MOST_TASKS))
        return listed.repartition(tasks).mapInArrow(read_task, from_arrow_schema(schema))


def state_tables(
    query: str, index: SnapshotIndex, kind: type[DeloreanError], day: date | None = None
) -> tuple[str, tuple[StateTable, ...]]:
    """Find the calls in a query. Returns the query with names of views in their place, and the tables.

    `contexts('homepage')` or `contexts('homepage', '2026-05-01', '2026-05-07')`, first and last date: the contexts
    that an experiment selected, with the columns of its key, `date`, `stratum`, `inclusion_probability` and
    `context_set_id`. `captures('viewing_history')`, also with dates of capture, UTC: what was captured of an element,
    with the columns of the service's key, `captured_at` and `run_id`; fallbacks are no captures.

    kind: of the errors
    day: contexts are those of dates up to this one, and captures those from before it began

    Raises `kind` for unknown names, with similar ones, for other arguments, and for keys that changed over the dates.
    """
    tables: dict[tuple[str, ...], StateTable] = {}

    def replaced(match: re.Match[str]) -> str:
        if match["skipped"] is not None:
            return match[0]
        what = match["table"].lower()
        arguments = [text[1:-1] for text in re.findall(_TEXT, match["arguments"])]
        call = (what, *arguments)
        if call not in tables:
            slug = re.sub(r"\W+", "_", arguments[0])
            view = f"{what}_of_{slug}_{len(tables) + 1}"
            name, first, last = _arguments(call, kind)
            build = _contexts if what == "contexts" else _captures
            tables[call] = build(view, name, (first, last), index, kind, day)
        return tables[call].view

    text = _CALL.sub(replaced, query)
    return text, tuple(tables.values())


def _arguments(call: Sequence[str], kind: type[DeloreanError]) -> tuple[str, date, date]:
    what, name, *dates = call
    try:
        first, last = (date.fromisoformat(text) for text in dates) if dates else (_FIRST, _LAST)
    except ValueError as error:
        raise kind.because(
            f"{_shown(call)} has other arguments than a name and two dates",
            f"write {what}('{name}') or {what}('{name}', '2026-01-01', '2026-01-31')",
        ) from error
    if first > last:
        raise kind.because(f"{_shown(call)}: the first date is after the last", "exchange them")
    return name, first, last


def _shown(call: Sequence[str]) -> str:
    return f"{call[0]}({', '.join(repr(each) for each in call[1:])})"


def _contexts(
    view: str,
    experiment: str,
    dates: tuple[date, date],
    index: SnapshotIndex,
    kind: type[DeloreanError],
    day: date | None,
) -> StateTable:
    first, last = dates[0], min(dates[1], day or _LAST)
    call = _shown(("contexts", experiment, *_given(dates)))
    selected = selected_files(index, experiment, first, last)
    if not selected:
        _refuse_unknown_experiment(index, experiment, kind)
        raise kind.because(f"{call}: no contexts were selected on these dates", "see delorean index context-sets")
    keys = {key for key, *_ in selected}
    if len(keys) > 1:
        shown = " and ".join(sorted(", ".join(f"{each.name}: {each.type}" for each in key) for key in keys))
        raise kind.because(f"{call}: the contexts' key changed over these dates: {shown}", "name dates with one key")
    [key] = keys
    schema = contexts_schema(key)
    for field in (("date", pa.date32()), ("stratum", pa.string()), ("inclusion_probability", pa.float64())):
        schema = schema.append(pa.field(*field))
    schema = schema.append(pa.field("context_set_id", pa.string()))
    names = [variable.name for variable in key]

    def read(storage: Storage, file: _File) -> Iterator[pa.Table]:
        rows = read_parquet(storage, DataFile.from_json(file["file"]), [*names, "experiments"]).combine_chunks()
        if not rows.num_rows:
            return
        chosen = pc.list_flatten(rows["experiments"]).combine_chunks()
        mask = pc.equal(pc.struct_field(chosen, "experiment"), experiment)
        table = rows.select(names).take(pc.list_parent_indices(rows["experiments"]).combine_chunks().filter(mask))
        chosen = chosen.filter(mask)
        columns = {
            "date": pa.repeat(pa.scalar(date.fromisoformat(file["date"]), pa.date32()), len(chosen)),
            "stratum": pc.struct_field(chosen, "stratum"),
            "inclusion_probability": pc.struct_field(chosen, "probability"),
            "context_set_id": pa.repeat(pa.scalar(file["id"], pa.string()), len(chosen)),
        }
        yield pa.table({**{name: table[name] for name in names}, **columns})

    files = tuple(
        json.dumps({"file": file.to_json(), "date": at.isoformat(), "id": set_id})
        for _, at, set_id, of_date in selected
        for file in of_date
    )
    return StateTable(view, call, schema, files, tuple(set_id for _, _, set_id, _ in selected), read)


def selected_files(
    index: SnapshotIndex, experiment: str, earliest: date, latest: date
) -> list[tuple[tuple[DataKey, ...], date, str, tuple[DataFile, ...]]]:
    """Return the key, the date, the id and the files of each context set that an experiment selected, by date."""
    selected = reversed(list(contexts_of(index, experiment, earliest, latest)))
    return [(each.group.key, each.date, each.context_set_id, each.group.files) for each in selected]


def _refuse_unknown_experiment(index: SnapshotIndex, experiment: str, kind: type[DeloreanError]) -> None:
    if not index.context_sets(_LAST, experiment, 1):
        known = {name for each in index.context_sets(_LAST, None, _RECENT_SETS) for name in each.experiments}
        raise kind.unknown("experiment that selected contexts", experiment, sorted(known))


def _captures(
    view: str,
    element: str,
    dates: tuple[date, date],
    index: SnapshotIndex,
    kind: type[DeloreanError],
    day: date | None,
) -> StateTable:
    services = {service.element.name: service for service in index.elements()}
    if element not in services:
        raise kind.unknown("captured element", element, sorted(services))
    call = _shown(("captures", element, *_given(dates)))
    first, end = _midnight(dates[0]), min(_midnight(dates[1], after=True), _midnight(day or _LAST))
    snapshots = [
        snapshot
        for snapshot in index.snapshots(services[element].name, first, end - timedelta(microseconds=1))
        if snapshot.service.element.name == element
    ]
    keys = {snapshot.service.key for snapshot in snapshots} or {services[element].key}
    if len(keys) > 1:
        shown = " and ".join(sorted(", ".join(f"{each.name}: {each.type}" for each in key) for key in keys))
        raise kind.because(f"{call}: the service's key changed over these dates: {shown}", "name dates with one key")
    [key] = keys
    schema = pa.schema([*contexts_schema(key), ("captured_at", TIME), ("run_id", pa.string())])
    names = [*(variable.name for variable in key), "captured_at"]

    def read(storage: Storage, file: _File) -> Iterator[pa.Table]:
        with ParquetReader(storage, DataFile.from_json(file["file"])) as reader:
            marked = IS_FALLBACK in reader.schema.names
            rows = reader.read([*names, IS_FALLBACK] if marked else names)
        if marked:
            rows = rows.filter(pc.invert(rows[IS_FALLBACK])).select(names)
        at = rows["captured_at"]
        inside = pc.and_(pc.greater_equal(at, pa.scalar(first, TIME)), pc.less(at, pa.scalar(end, TIME)))
        rows = rows.filter(inside)
        yield rows.append_column("run_id", pa.repeat(pa.scalar(file["id"], pa.string()), rows.num_rows))

    files = tuple(
        json.dumps({"file": file.to_json(), "id": snapshot.run_id})
        for snapshot in reversed(snapshots)
        for file in snapshot.files
    )
    return StateTable(view, call, schema, files, tuple(each.run_id for each in reversed(snapshots)), read)


def _given(dates: tuple[date, date]) -> list[str]:
    return [] if dates == (_FIRST, _LAST) else [each.isoformat() for each in dates]


def _midnight(day: date, *, after: bool = False) -> datetime:
    start = datetime.combine(day, time(), UTC)
    return start + timedelta(days=1) if after and day < _LAST else start
