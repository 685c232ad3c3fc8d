"""The units that a test has shown something to: when first, and in which cell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.ab_tests.declaration import AbTest
from delorean.ab_tests.unit_rows import UNIT, UnitRows, plain_units
from schemas.errors import AbTestError

EXPOSURE_COLUMNS = ("time", "cell", "context")


@dataclass(frozen=True)
class ExposedUnits:
    """Units that were shown something, in parts of all of them.

    units: (n,) of one plain type, distinct
    first: (n,) microseconds since the epoch of the first exposure
    cells: (n,) number of the cell
    exposures: (n,)
    mixed: (n,) whether a unit saw several cells: it belongs to none of them
    """

    units: pa.Array
    first: NDArray[np.int64]
    cells: NDArray[np.int64]
    exposures: NDArray[np.int64]
    mixed: NDArray[np.bool_]


def collect_exposures(test: AbTest, batches: Iterable[pa.RecordBatch], rows_in_memory: int | None = None) -> UnitRows:
    """Read exposures into rows of units, one for each unit and cell of a batch.

    batches: of the exposure log, with `EXPOSURE_COLUMNS`; rows without a cell are not the test's

    Raises AbTestError for an unknown or null unit, and for a cell that the test does not declare.
    """
    rows: UnitRows | None = None
    for batch in batches:
        grouped = _grouped(test, batch)
        if rows is None:
            rows = UnitRows(grouped.schema, **({} if rows_in_memory is None else {"rows_in_memory": rows_in_memory}))
        if grouped.schema != rows.schema:
            raise AbTestError.because(
                f"unit '{test.unit}' is {grouped.schema.field(UNIT).type} in some exposures and "
                f"{rows.schema.field(UNIT).type} in others",
                "serve the test with one type of it",
            )
        rows.add(grouped)
    if rows is None or rows.rows == 0:
        raise AbTestError.because(f"test '{test.name}' has no exposures", "serve it with `delorean serve --test`")
    return rows


def _grouped(test: AbTest, batch: pa.RecordBatch) -> pa.Table:
    batch = batch.filter(batch["cell"].is_valid())
    context = batch["context"]
    if context.type.get_field_index(test.unit) < 0:
        known = [context.type.field(i).name for i in range(context.type.num_fields)]
        raise AbTestError.unknown("unit of the test in the contexts of its exposures", test.unit, known)
    units = plain_units(pa.chunked_array([pc.struct_field(context, test.unit)]), test.unit)
    if units.null_count:
        raise AbTestError.because(
            f"unit '{test.unit}' is null in {units.null_count:,} exposures of test '{test.name}'",
            "log only contexts that have it, or randomise another variable",
        )
    names = pa.array(list(test.cells))
    cells = pc.index_in(batch["cell"], value_set=names)
    if cells.null_count:
        other = batch["cell"].filter(cells.is_null())[0].as_py()
        raise AbTestError.unknown(f"cell in the exposures of test '{test.name}'", other, test.cells)
    table = pa.table({UNIT: units, "cell": cells.cast(pa.int16()), "first": batch["time"].cast(pa.int64())})
    grouped = table.group_by([UNIT, "cell"], use_threads=False).aggregate([("first", "min"), ([], "count_all")])
    return grouped.select([UNIT, "cell", "first_min", "count_all"]).rename_columns([UNIT, "cell", "first", "exposures"])


def exposed_units(rows: pa.Table) -> ExposedUnits:
    """Combine the rows of each unit. rows: see `collect_exposures`."""
    ordered = rows.sort_by([(UNIT, "ascending"), ("first", "ascending"), ("cell", "ascending")]).combine_chunks()
    units = ordered[UNIT].combine_chunks()
    units = pa.concat_arrays(units.chunks) if isinstance(units, pa.ChunkedArray) else units
    if not len(units):
        none = np.empty(0, np.int64)
        return ExposedUnits(units, none, none, none, none.astype(bool))
    new = np.r_[True, pc.not_equal(units[1:], units[:-1]).to_numpy(zero_copy_only=False)]
    starts = np.flatnonzero(new)
    cells = ordered["cell"].to_numpy().astype(np.int64)
    mixed = np.maximum.reduceat(cells, starts) != np.minimum.reduceat(cells, starts)
    counts = np.add.reduceat(ordered["exposures"].to_numpy(), starts)
    return ExposedUnits(units.take(starts), ordered["first"].to_numpy()[starts], cells[starts], counts, mixed)
