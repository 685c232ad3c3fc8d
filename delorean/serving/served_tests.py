"""The tests that a scorer serves: which cell answers a request, and with which packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa

from delorean.ab_tests.declaration import AbTest, Cell
from delorean.packaging.package import ModelPackage
from delorean.registry.registry import PREFIX
from delorean.serving.served_package import ServedPackage
from delorean.tasks.task_set import TaskSet
from schemas.data_keys import DataKey
from schemas.errors import AbTestError, DeloreanError


@dataclass(frozen=True)
class PackagedTest:
    """A test with the packages of its cells. packages: cell → package, for each cell that has one."""

    test: AbTest
    packages: Mapping[str, ModelPackage]


@dataclass(frozen=True)
class ServedCell:
    """A cell of a test that serves requests. packages: one, or the two that it interleaves."""

    test: AbTest
    name: str
    cell: Cell
    packages: tuple[ServedPackage, ...]


class ServedTests:
    """The tests of a scorer. Every request belongs to one cell of one test, or to none.

    Raises AbTestError for tests that cannot be served together, or for packages that cannot replace the default one.
    """

    def __init__(
        self,
        default: ModelPackage,
        tests: Sequence[PackagedTest],
        served: Callable[[ModelPackage], ServedPackage],
    ) -> None:
        self.packaged = tuple(tests)
        for first, second in combinations(tests, 2):
            _require_apart(first.test, second.test)
        for each in tests:
            _check(each, default)
        self._cells = [(each.test, list(_cells(each, served))) for each in tests]

    def cell_of(self, context: pa.Table, when: datetime, lacking: frozenset[str] = frozenset()) -> ServedCell | None:
        """Return the cell of a request's context; None: it is in no test.

        when: tests that have not begun or have ended have no requests
        lacking: variables that the request's task lacks; a test of such a unit has none of its requests
        """
        for test, cells in self._cells:
            begun = test.start is None or test.start <= when
            if not begun or (test.end is not None and test.end <= when) or test.unit in lacking:
                continue
            if context[test.unit].null_count:
                continue
            number = int(test.allocate(context)[0])
            if number >= 0:
                return cells[number]
        return None


def load_tests(tests: Sequence[AbTest], load: Callable[[str | Path], ModelPackage]) -> list[PackagedTest]:
    """Load the packages of tests, each once.

    load: receives a folder, or `registry:NAME`

    Raises what `load` raises, with the test and the cell.
    """
    loaded: dict[str | Path, ModelPackage] = {}
    found = []
    for test in tests:
        packages = {}
        for name, cell in test.cells.items():
            if cell.package is None:
                continue
            place = cell.package if cell.package.startswith(PREFIX) else Path(test.folder, cell.package)
            try:
                loaded[place] = packages[name] = loaded.get(place) or load(place)
            except DeloreanError as error:
                raise type(error)(f"test '{test.name}', cell '{name}': {error}") from error
        found.append(PackagedTest(test, packages))
    return found


def _cells(packaged: PackagedTest, served: Callable[[ModelPackage], ServedPackage]) -> Iterator[ServedCell]:
    for name, cell in packaged.test.cells.items():
        names = (name,) if cell.interleave is None else cell.interleave
        yield ServedCell(packaged.test, name, cell, tuple(served(packaged.packages[each]) for each in names))


def _require_apart(first: AbTest, second: AbTest) -> None:
    """Raise AbTestError if a unit could be in both tests at one time: only one of them can decide what it is served."""
    both = f"tests '{first.name}' and '{second.name}'"
    if first.name == second.name:
        raise AbTestError.because(f"two tests are named '{first.name}'", "serve each test once, or rename one")
    latest_start = max((test.start or datetime.min.replace(tzinfo=UTC)) for test in (first, second))
    earliest_end = min((test.end or datetime.max.replace(tzinfo=UTC)) for test in (first, second))
    if latest_start >= earliest_end:
        return
    if first.part.name != second.part.name:
        raise AbTestError.because(
            f"{both} run at one time in different layers, so a unit could be in both, but is served one package",
            "give them parts of one layer, or serve them by different scorers",
        )
    if first.unit != second.unit:
        raise AbTestError.because(
            f"{both} are in layer '{first.part.name}' with different units, '{first.unit}' and '{second.unit}'",
            "randomise a layer by one unit",
        )
    if first.part.overlaps(second.part) or first.holdout != second.holdout:
        raise AbTestError.because(
            f"{both} run at one time with overlapping parts or different hold-outs of layer '{first.part.name}'",
            "give them parts of the layer that do not overlap, and one hold-out",
        )


def _check(packaged: PackagedTest, default: ModelPackage) -> None:
    test = packaged.test
    for name, cell in test.cells.items():
        if cell.interleave is not None and cell.explore:
            raise AbTestError.because(
                f"test '{test.name}', cell '{name}': it interleaves and explores, so no propensity is known",
                "explore in a cell with a package",
            )
    for name, package in packaged.packages.items():
        for what, own, expected in (
            ("context", package.context, default.context),
            ("item", package.items, default.items),
        ):
            if _types(own) != _types(expected):
                raise AbTestError.because(
                    f"test '{test.name}', cell '{name}': its package has the {what} variables {_types(own)}, the "
                    f"default package {_types(expected)}",
                    "packages that are served together need the same variables",
                )
        if _uses(package.tasks) != _uses(default.tasks):
            raise AbTestError.because(
                f"test '{test.name}', cell '{name}': its package has the tasks {_uses(package.tasks)}, the default "
                f"package {_uses(default.tasks)}",
                "packages that are served together need the same tasks and sentinels",
            )
    context = pa.schema([(key.name, key.type) for key in default.context]).empty_table()
    try:
        test.allocate(context)
    except AbTestError as error:
        raise AbTestError(f"test '{test.name}': {error}") from error


def _types(keys: Sequence[DataKey]) -> dict[str, str]:
    return {key.name: str(key.type) for key in sorted(keys, key=lambda key: key.name)}


def _uses(tasks: TaskSet | None) -> dict[str, Any]:
    """Return what requests depend on: each task's variables, and the sentinels of what tasks lack."""
    if tasks is None:
        return {}
    variables = {task.name: sorted((*task.context, *task.items)) for task in tasks.tasks}
    return {**variables, "sentinels": dict(sorted(tasks.sentinels.items()))}
