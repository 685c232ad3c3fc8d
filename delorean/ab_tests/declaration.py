"""An A/B test as it is declared in TOML or Python: its cells, their units, what is measured, and its plan."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.ab_tests.allocation import CellAllocation, LayerPart
from delorean.ab_tests.members import Members
from delorean.ab_tests.metrics import InterleavingSpec, MetricSpec
from delorean.ab_tests.plan_spec import PlanSpec
from schemas.errors import AbTestError, ConfigError
from snapshotter.selection.declarations import ContextSelection, NamedSelection
from snapshotter.storage import require_plain_name
from snapshotter.storage.table_source import TableSource

_CELL, _NUMBER = "cell", "_cell_number"  # columns of what is selected
_SHARES = 1e-6  # by which a sum of shares such as 0.3333333 may differ from 1


@dataclass(frozen=True)
class Cell:
    """One way in which the units of a test are served.

    share: of the test's units
    package: folder of a model package, or `registry:NAME`
    interleave: two other cells whose rankings are merged into one, instead of a package
    method: of merging: "team-draft" (Radlinski et al. 2008) or "balanced" (Joachims 2003)
    explore: the probability with which the first places are shuffled, so that exposures have propensities
    """

    share: float
    package: str | None = None
    interleave: tuple[str, str] | None = None
    method: str = "team-draft"
    explore: float = 0.0

    def __post_init__(self) -> None:
        """Reject what cannot be served."""
        if not 0 < self.share <= 1:
            raise ConfigError.because(
                f"share is {self.share}, expected more than 0 and at most 1",
                "remove the cell, or give it some of the units",
            )
        if (self.package is None) == (self.interleave is None):
            raise ConfigError.because(
                "a cell needs either a package or interleave", 'write package = "registry:production"'
            )
        if self.method not in ("team-draft", "balanced"):
            raise ConfigError.unknown("method", self.method, ("team-draft", "balanced"))
        if not 0 <= self.explore <= 1:
            raise ConfigError.because(f"explore is {self.explore}, expected a probability from 0 to 1")


@dataclass(frozen=True)
class Holdout:
    """Units that are in no test of the layer. share: of the layer's units; the same in all of its tests."""

    share: float

    def __post_init__(self) -> None:
        """Reject what is no part."""
        if not 0 < self.share < 1:
            raise ConfigError.because(f"share is {self.share}, expected a share between 0 and 1", "write share = 0.05")


@dataclass(frozen=True)
class AbTest:
    """An A/B test. `read_test` reads it from TOML.

    name: also the experiment's name, under which its members are selected and captured
    unit: the context variable that is randomised
    cells: the first with a package is the control
    metrics: the first decides, the others are guardrails
    seed: another one gives other cells
    start, end: when units may enter, UTC; None: not planned yet. Outcomes are awaited after the end
    layer: tests in different parts of one layer never share a unit; tests of different layers are independent. None: a
        layer of the test's own
    holdout: units of the layer that are in no test
    members: a table of units that are known in advance: they are allocated in equal blocks within each stratum, others
        by their hash
    strata: columns of `members`
    interleaving: what gives credit to interleaved items
    contexts: which contexts `delorean select` selects for it, so that they are captured from the first day
    tables: names for queries
    folder: where relative paths start; not part of the declaration

    >>> test = AbTest("home-2", "profile_id", {"control": Cell(0.5, "registry:production"), "new": Cell(0.5, "home-2")})
    >>> test.allocate(pa.table({"profile_id": [7, 8, 9]})).tolist()
    [0, 1, 1]
    """

    name: str
    unit: str
    cells: Mapping[str, Cell]
    metrics: Mapping[str, MetricSpec] = field(default_factory=dict)
    plan: PlanSpec = field(default_factory=PlanSpec)
    seed: int = 0
    start: datetime | None = None
    end: datetime | None = None
    layer: LayerPart | None = None
    holdout: Holdout | None = None
    members: TableSource | None = None
    strata: tuple[str, ...] = ()
    interleaving: InterleavingSpec | None = None
    contexts: ContextSelection | None = None
    tables: Mapping[str, TableSource] = field(default_factory=dict)
    folder: str = ""

    def __post_init__(self) -> None:
        """Reject tests that cannot be run."""
        require_plain_name("name of a test", self.name)
        if len(self.cells) < 2:
            raise ConfigError.because(
                f"cells: {len(self.cells)} declared, expected two or more",
                "a test compares: add a control, such as [cells.control]",
            )
        total = math.fsum(cell.share for cell in self.cells.values())
        if abs(total - 1) > _SHARES:
            raise ConfigError.because(
                f"cells have shares that add up to {total:g}, expected 1", "shares are of the test's units: correct one"
            )
        for name, cell in self.cells.items():
            require_plain_name("cell", name)
            self._check_interleaving(name, cell)
        self._check_times()
        if self.strata and self.members is None:
            raise ConfigError.because(
                "strata are named, but no table of members: only members that are known can be stratified",
                'write members = { path = "members.parquet" }, or leave strata out',
            )
        if self.contexts is not None and self.unit not in self.contexts.key:
            raise ConfigError.unknown("unit among the contexts' key", self.unit, self.contexts.key)

    def _check_interleaving(self, name: str, cell: Cell) -> None:
        for other in cell.interleave or ():
            if other not in self.cells:
                raise ConfigError.unknown(f"cell that '{name}' interleaves", other, self.cells)
            if self.cells[other].package is None:
                raise ConfigError.because(f"cells: '{name}' interleaves '{other}', which has no package of its own")
        if cell.interleave is not None and cell.interleave[0] == cell.interleave[1]:
            raise ConfigError.because(f"cells: '{name}' interleaves '{cell.interleave[0]}' with itself")

    def _check_times(self) -> None:
        for name in ("start", "end"):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                raise ConfigError.because(f"{name} is {moment}, which has no time zone", f"write {moment.isoformat()}Z")
        if self.start is not None and self.end is not None and not self.start < self.end:
            raise ConfigError.because(f"end is {self.end}, which is not after the start, {self.start}")

    @property
    def control(self) -> str:
        """The cell that the others are compared with: the first with a package of its own."""
        return next(name for name, cell in self.cells.items() if cell.interleave is None)

    @property
    def part(self) -> LayerPart:
        """The layer's part that the test has; its own layer by default."""
        return self.layer or LayerPart(f"test:{self.name}")

    @property
    def share(self) -> float:
        """The share of all units that are in the test."""
        return self.part.width * (1 - (0.0 if self.holdout is None else self.holdout.share))

    @property
    def allocation(self) -> CellAllocation:
        """The rule that gives units their cells."""
        return CellAllocation(
            tuple(cell.share for cell in self.cells.values()),
            self.part,
            0.0 if self.holdout is None else self.holdout.share,
            f"{self.name}:{self.seed}",
        )

    def allocate(self, contexts: pa.Table) -> NDArray[np.int16]:
        """Return the number of each context's cell, in the order of declaration; −1: it is not in the test.

        contexts: has the unit's column

        Raises AbTestError for a table without the unit, and for null units.
        """
        if self.unit not in contexts.schema.names:
            raise AbTestError.unknown("unit of the test in the table's columns", self.unit, contexts.schema.names)
        cells = self.allocation.cells_of(contexts[self.unit], self.unit)
        return cells if self._members is None else self._members.placed(contexts[self.unit], cells)

    @cached_property
    def _members(self) -> Members | None:
        """The members that are known in advance; their table is read once."""
        if self.members is None:
            return None
        source = self.members.beside(Path(self.folder) / "test.toml")
        return Members.read(source, self.unit, self.strata, self.allocation)

    def to_json(self) -> dict[str, Any]:
        """Return the declaration as plain fields."""
        plain: dict[str, Any] = msgspec.to_builtins(asdict(self))  # which alone would leave out defaults
        del plain["folder"]
        return plain

    @property
    def digest(self) -> str:
        """A hash of the declaration."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def located_tables(self) -> dict[str, TableSource]:
        """The tables, with relative paths made absolute."""
        return {name: source.beside(Path(self.folder) / "test.toml") for name, source in self.tables.items()}

    @property
    def selection(self) -> NamedSelection:
        """The selection for `select_contexts`: of the contexts of the query, those whose units are in the test.

        The query gets a column `cell`, which is the stratum where none is declared, so that each selected context's
        cell is known. Units must be integers or texts. With a table of members the query is taken as it is.

        Raises ConfigError if the test selects no contexts.
        """
        if self.contexts is None:
            raise ConfigError.because(f"test '{self.name}' selects no contexts", "write a table [contexts]")
        selection = NamedSelection(**vars(self.contexts), id=self.name, tables=self.located_tables)
        if self.members is not None:
            return selection
        names = ", ".join(f"'{name}'" for name in self.cells)
        query = selection.query.strip().removesuffix(";")
        number = self.allocation.sql(self.unit, None)
        cell = f"element_at(array({names}), {_NUMBER} + 1) AS {_CELL}"
        members = f"SELECT *, {number} AS {_NUMBER} FROM (\n{query}\n)"  # noqa: S608  # the project's own query
        wrapped = f"SELECT *, {cell} FROM ({members}) WHERE {_NUMBER} >= 0"  # noqa: S608  # as above
        return replace(selection, query=wrapped, strata=selection.strata or (_CELL,))
