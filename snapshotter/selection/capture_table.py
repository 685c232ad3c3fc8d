"""The table of what was captured of an element."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import DeloreanError
from schemas.tables import IS_FALLBACK, TIME, contexts_schema
from snapshotter.index import SnapshotIndex
from snapshotter.records import DataFile
from snapshotter.selection.captured_values import PLACE, CapturedValues
from snapshotter.selection.state_table import LAST_DATE, FileOfTable, StateTable, TableCall
from snapshotter.storage import Storage
from snapshotter.storage.parquet import ParquetReader

_MICROSECOND = timedelta(microseconds=1)


def capture_table(
    view: str, call: TableCall, index: SnapshotIndex, kind: type[DeloreanError], day: date | None
) -> StateTable:
    """Return the table of a call, see `state_tables`. Values are read as the type that was declared last."""
    declared = [service for service in index.elements() if service.element.name == call.name]
    if not declared:
        raise kind.unknown("captured element", call.name, sorted({one.element.name for one in index.elements()}))
    first, end = _midnight(call.first), min(_midnight(call.last, after=True), _midnight(day or LAST_DATE))
    snapshots = [
        snapshot
        for service in dict.fromkeys(service.name for service in declared)
        for snapshot in index.snapshots(service, first, end - _MICROSECOND)
        if snapshot.service.element.name == call.name
    ]
    keys = {snapshot.service.key for snapshot in snapshots} or {declared[0].key}
    if len(keys) > 1:
        shown = " and ".join(sorted(", ".join(f"{each.name}: {each.type}" for each in key) for key in keys))
        raise kind.because(f"{call}: the service's key changed over these dates: {shown}", "name dates with one key")
    [key] = keys
    schema = pa.schema([*contexts_schema(key), ("captured_at", TIME), ("run_id", pa.string()), *PLACE])
    records = [(snapshot.run_id, file.to_json()) for snapshot in reversed(snapshots) for file in snapshot.files]
    files = tuple(json.dumps({"file": file, "id": id_, "number": n}) for n, (id_, file) in enumerate(records))
    element = snapshots[0].service.element if snapshots else declared[0].element
    values = CapturedValues(element, tuple(json.dumps(file) for _, file in records))
    read = _Rows(tuple(variable.name for variable in key), first, end)
    sources = tuple(snapshot.run_id for snapshot in reversed(snapshots))
    return StateTable(view, str(call), schema, files, sources, read, values)


class _Rows:
    """Reads the key, the time and the place of each capture in a file.

    names: of the key's variables; first, end: of the captures' times, without the end
    """

    def __init__(self, names: tuple[str, ...], first: datetime, end: datetime) -> None:
        self._names, self._first, self._end = [*names, "captured_at"], first, end

    def __call__(self, storage: Storage, file: FileOfTable) -> Iterator[pa.Table]:
        with ParquetReader(storage, DataFile.from_json(file["file"])) as reader:
            marked = IS_FALLBACK in reader.schema.names
            rows = reader.read([*self._names, IS_FALLBACK] if marked else self._names)
        at = rows["captured_at"]
        kept = pc.and_(pc.greater_equal(at, pa.scalar(self._first, TIME)), pc.less(at, pa.scalar(self._end, TIME)))
        if marked:
            kept = pc.and_(kept, pc.invert(rows[IS_FALLBACK]))
        places = pc.indices_nonzero(kept)
        rows = rows.select(self._names).take(places)
        constants = (pa.scalar(file["id"], pa.string()), pa.scalar(file["number"], PLACE[0].type))
        columns = [*(pa.repeat(constant, rows.num_rows) for constant in constants), places.cast(PLACE[1].type)]
        for name, column in zip(("run_id", *PLACE.names), columns, strict=True):
            rows = rows.append_column(name, column)
        yield rows


def _midnight(day: date, *, after: bool = False) -> datetime:
    start = datetime.combine(day, time(), UTC)
    return start + timedelta(days=1) if after and day < LAST_DATE else start
