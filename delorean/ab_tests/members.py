"""The members of a test that are known in advance, whose cells are balanced within strata."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.ab_tests.allocation import CellAllocation, blocked_cells
from schemas.errors import AbTestError
from snapshotter.storage.table_source import TableSource


@dataclass(frozen=True)
class Members:
    """Units and their cells."""

    units: pa.Array
    cells: NDArray[np.int16]

    @classmethod
    def read(cls, source: TableSource, unit: str, strata: tuple[str, ...], allocation: CellAllocation) -> Members:
        """Read the table of members and give them cells.

        Raises AbTestError for null units and units that occur twice, and what reading the table raises.
        """
        from delorean.ab_tests.local_tables import read_local_table  # scorers mostly serve without readers of tables

        table = read_local_table("members", source, (unit, *strata))
        distinct = len(table[unit].unique())
        if distinct < table.num_rows:
            raise AbTestError.because(
                f"the table of members has {table.num_rows:,} rows, but {distinct:,} different values of '{unit}'",
                "give each unit one row, with one stratum",
            )
        cells = blocked_cells(table[unit], [table[name] for name in strata], allocation)
        return cls(table[unit].combine_chunks(), cells)

    def placed(self, units: pa.Array | pa.ChunkedArray, hashed: NDArray[np.int16]) -> NDArray[np.int16]:
        """Return the cells of units: of members their own, of others their cells by hash."""
        try:
            places = pc.index_in(units.cast(self.units.type), value_set=self.units)
        except pa.ArrowException as error:
            raise AbTestError.because(
                f"units are {units.type}, but those of the table of members {self.units.type}: {error}"
            ) from error
        known = pc.is_valid(places).to_numpy(zero_copy_only=False)
        own = self.cells[pc.fill_null(places, 0).to_numpy(zero_copy_only=False)] if len(self.cells) else hashed
        placed: NDArray[np.int16] = np.where(known, own, hashed)
        return placed
