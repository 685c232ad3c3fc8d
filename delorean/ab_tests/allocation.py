"""Gives units their cells by seeded hashes: the same in every process, in Arrow and in Spark SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.errors import AbTestError, ConfigError, DataKeyError
from schemas.hashing import salted_share, salted_share_sql

NOT_IN_TEST = -1


@dataclass(frozen=True)
class LayerPart:
    """A test's part of the units of a layer, whose other parts belong to other tests.

    name: of the layer
    part: from (included) and to (excluded), of [0, 1]

    >>> LayerPart("ranking", (0.0, 0.5)).width
    0.5
    """

    name: str
    part: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Reject what is no part of the layer."""
        first, last = self.part
        if not 0 <= first < last <= 1:
            raise ConfigError.because(
                f"part is {list(self.part)}, expected where it begins and ends, from 0 to 1", "write part = [0.0, 0.5]"
            )
        if not self.name:
            raise ConfigError.because("name is empty", "name the layer")

    @property
    def width(self) -> float:
        """The share of the layer's units."""
        return self.part[1] - self.part[0]

    def overlaps(self, other: LayerPart) -> bool:
        """Whether a unit can be in both parts."""
        return self.name == other.name and self.part[0] < other.part[1] and other.part[0] < self.part[1]


@dataclass(frozen=True)
class CellAllocation:
    """The rule that gives units of a test their cells.

    A unit is in the test if its hash with the layer's salt is in the test's part, and another one beyond the hold-out.
    Its cell is the one with the least −ln(hash) / share, with a hash for each cell (weighted rendezvous hashing, after
    Thaler and Ravishankar 1998): where shares change, units only move into cells that grow, in any order of the cells.

    shares: of the cells
    holdout: the share of the layer's units that are in no test
    salt: of the cells; salts of different tests are independent
    """

    shares: tuple[float, ...]
    part: LayerPart
    holdout: float
    salt: str

    def cells_of(self, units: pa.Array | pa.ChunkedArray, name: str = "unit") -> NDArray[np.int16]:
        """Return each unit's cell, or −1.

        Raises AbTestError for nulls, and for types that have no hash, such as floats.
        """
        try:
            member = self._members(units)
            best, cells = np.full(len(units), np.inf), np.full(len(units), NOT_IN_TEST, np.int16)
            for cell, share in enumerate(self.shares):
                with np.errstate(divide="ignore"):
                    distance = -np.log(salted_share(units, self._salt_of(cell))) / share
                nearer = member & (distance < best)
                best[nearer], cells[nearer] = distance[nearer], cell
        except DataKeyError as error:
            raise AbTestError(f"unit '{name}': {error}") from error
        return cells

    def _members(self, units: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
        place = salted_share(units, self._layer_salt)
        member: NDArray[np.bool_] = (place >= self.part.part[0]) & (place < self.part.part[1])
        return member & (salted_share(units, self._holdout_salt) >= self.holdout) if self.holdout else member

    def sql(self, column: str, type: pa.DataType | None) -> str:  # noqa: A002  # the field's own name
        """Write the rule as a Spark SQL expression that is the cell's number, or −1. type: see `salted_share_sql`."""
        place = salted_share_sql(column, type, self._layer_salt)
        member = f"{place} >= {self.part.part[0]!r}D AND {place} < {self.part.part[1]!r}D"
        if self.holdout:
            member += f" AND {salted_share_sql(column, type, self._holdout_salt)} >= {self.holdout!r}D"
        distances = [
            f"-ln({salted_share_sql(column, type, self._salt_of(cell))}) / {share!r}D"
            for cell, share in enumerate(self.shares)
        ]
        listed = ", ".join(distances)
        nearest = f"array_position(array({listed}), array_min(array({listed}))) - 1"
        return f"CAST(CASE WHEN {member} THEN {nearest} ELSE {NOT_IN_TEST} END AS SMALLINT)"

    @property
    def _layer_salt(self) -> str:
        return f"layer:{self.part.name}"

    @property
    def _holdout_salt(self) -> str:
        return f"holdout:{self.part.name}"

    def _salt_of(self, cell: int) -> str:
        return f"cell:{self.salt}:{cell}"


def blocked_cells(
    units: pa.Array | pa.ChunkedArray, strata: Sequence[pa.Array | pa.ChunkedArray], allocation: CellAllocation
) -> NDArray[np.int16]:
    """Give the units of each stratum their cells in the order of their hashes, so that counts fit the shares.

    In each stratum, and in each run of its units, a cell's count differs from its share by less than 1 (the quota
    method: the next unit goes to the cell that is furthest behind). Units outside the test get −1.

    units: distinct
    """
    member = allocation.cells_of(units) != NOT_IN_TEST
    groups = np.zeros(len(member), np.int64)
    for column in strata:
        encoded = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        codes = encoded.dictionary_encode(null_encoding="encode").indices.to_numpy(zero_copy_only=False)
        groups = np.unique(groups * (int(codes.max(initial=0)) + 1) + codes, return_inverse=True)[1]
    order = np.lexsort((salted_share(units, f"block:{allocation.salt}"), groups))
    order = order[member[order]]
    cells = np.full(len(member), NOT_IN_TEST, np.int16)
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    ends = [*starts[1:].tolist(), len(order)]
    longest = max((end - start for start, end in zip(starts.tolist(), ends, strict=True)), default=0)
    pattern = _balanced_sequence(allocation.shares, longest)
    for start, end in zip(starts.tolist(), ends, strict=True):
        cells[order[start:end]] = pattern[: end - start]
    return cells


def _balanced_sequence(shares: Sequence[float], length: int) -> NDArray[np.int16]:
    """Return cells in an order in which each has about its share of every beginning."""
    behind, sequence = [0.0] * len(shares), np.empty(length, np.int16)
    for place in range(length):
        behind = [debt + share for debt, share in zip(behind, shares, strict=True)]
        chosen = max(range(len(shares)), key=behind.__getitem__)
        behind[chosen] -= 1
        sequence[place] = chosen
    return sequence
