"""The table of the contexts that an experiment selected."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from schemas.data_keys import DataKey
from schemas.errors import DeloreanError
from schemas.tables import contexts_schema
from snapshotter.index import SnapshotIndex
from snapshotter.records import DataFile
from snapshotter.selection.context_sets import contexts_of
from snapshotter.selection.state_table import LAST_DATE, FileOfTable, StateTable, TableCall
from snapshotter.storage import Storage
from snapshotter.storage.parquet import read_parquet

_RECENT_SETS = 50  # searched for the names of experiments that an error suggests
_COLUMNS = (
    ("date", pa.date32()),
    ("stratum", pa.string()),
    ("inclusion_probability", pa.float64()),
    ("context_set_id", pa.string()),
)


def context_table(
    view: str,
    call: TableCall,
    index: SnapshotIndex,
    kind: type[DeloreanError],
    day: date | None,
    selecting: Mapping[str, Sequence[str]] | None,
) -> StateTable:
    """Return the table of a call, see `state_tables`."""
    until = day or LAST_DATE
    until = until if selecting is None else until - timedelta(days=1)
    selected = selected_files(index, call.name, call.first, min(call.last, until))
    keys = {key for key, *_ in selected}
    if len(keys) > 1:
        shown = " and ".join(sorted(", ".join(f"{each.name}: {each.type}" for each in key) for key in keys))
        raise kind.because(f"{call}: the contexts' key changed over these dates: {shown}", "name dates with one key")
    schema = contexts_schema(keys.pop()) if keys else _schema_of_none(call, index, kind, until, selecting)
    read = _Rows(call.name, tuple(schema.names))
    files = tuple(
        json.dumps({"file": file.to_json(), "date": at.isoformat(), "id": set_id})
        for _, at, set_id, of_date in selected
        for file in of_date
    )
    schema = pa.schema([*schema, *(pa.field(*column) for column in _COLUMNS)])
    return StateTable(view, str(call), schema, files, tuple(set_id for _, _, set_id, _ in selected), read)


def selected_files(
    index: SnapshotIndex, experiment: str, earliest: date, latest: date
) -> list[tuple[tuple[DataKey, ...], date, str, tuple[DataFile, ...]]]:
    """Return the key, the date, the id and the files of each context set that an experiment selected, by date."""
    selected = reversed(list(contexts_of(index, experiment, earliest, latest)))
    return [(each.group.key, each.date, each.context_set_id, each.group.files) for each in selected]


class _Rows:
    """Reads the contexts of an experiment in a file. names: of its key's variables."""

    def __init__(self, experiment: str, names: tuple[str, ...]) -> None:
        self._experiment, self._names = experiment, names

    def __call__(self, storage: Storage, file: FileOfTable) -> Iterator[pa.Table]:
        rows = read_parquet(storage, DataFile.from_json(file["file"]), [*self._names, "experiments"]).combine_chunks()
        if not rows.num_rows:
            return
        chosen = pc.list_flatten(rows["experiments"]).combine_chunks()
        mask = pc.equal(pc.struct_field(chosen, "experiment"), self._experiment)
        parents = pc.list_parent_indices(rows["experiments"]).combine_chunks().filter(mask)
        table, chosen = rows.select(list(self._names)).take(parents), chosen.filter(mask)
        columns = (
            pa.repeat(pa.scalar(date.fromisoformat(file["date"]), pa.date32()), len(chosen)),
            pc.struct_field(chosen, "stratum"),
            pc.struct_field(chosen, "probability"),
            pa.repeat(pa.scalar(file["id"], pa.string()), len(chosen)),
        )
        for (name, _), column in zip(_COLUMNS, columns, strict=True):
            table = table.append_column(name, column)
        yield table


def _schema_of_none(
    call: TableCall,
    index: SnapshotIndex,
    kind: type[DeloreanError],
    until: date,
    selecting: Mapping[str, Sequence[str]] | None,
) -> pa.Schema:
    """Return the key of a table without rows, for a selection. Raises `kind` if it cannot be empty."""
    newest = [each.group_of(call.name) for each in index.context_sets(until, call.name, 1)]
    if selecting is None and newest:
        raise kind.because(f"{call}: no contexts were selected on these dates", "see delorean index contexts")
    if newest and newest[0] is not None:
        return contexts_schema(newest[0].key)
    if selecting is not None and call.name in selecting:
        # The types follow from the query of the first selection; null can be compared with any.
        return pa.schema([(name, pa.null()) for name in selecting[call.name]])
    known = {name for each in index.context_sets(until, None, _RECENT_SETS) for name in each.experiments}
    raise kind.unknown("experiment that selected contexts", call.name, sorted({*known, *(selecting or ())}))
