"""Trees of a model for several tasks: a trunk that all share, then each task's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from delorean.scoring.tree_arrays import concatenated, some_trees
from delorean.scoring.trees import TreeEnsemble
from schemas.errors import PackageError

TRUNK = -1


@dataclass(frozen=True, eq=False)
class TaskTrees:
    """Trees of which a task's score sums some: first the trunk's, which all tasks share, then its own.

    trees: the trunk's, then those of each task, in the order of the tasks' numbers
    owners: (trees,) int32, the number of the task that a tree belongs to, -1 for the trunk
    tasks: number of tasks

    Raises PackageError unless the trees are in this order.
    """

    trees: TreeEnsemble
    owners: NDArray[np.int32]
    tasks: int

    def __post_init__(self) -> None:
        """Check the order, on which the ranges of trees depend."""
        owners = self.owners
        if owners.dtype != np.int32 or owners.shape != (self.trees.trees,):
            raise _wrong(f"{owners.dtype} {owners.shape} owners of {self.trees.trees} trees, expected one int32 each")
        if self.trees.divisor != 1:
            raise _wrong("their mean is the score, expected their sum")
        if len(owners) and not TRUNK <= owners.min() <= owners.max() < self.tasks:
            raise _wrong(f"an owner is {owners.min()} or {owners.max()}, expected {TRUNK} to {self.tasks - 1}")
        if (np.diff(owners) < 0).any():
            raise _wrong("owners do not ascend")

    def __eq__(self, other: object) -> bool:
        """Compare every number."""
        if not isinstance(other, TaskTrees):
            return NotImplemented
        same = self.tasks == other.tasks and np.array_equal(self.owners, other.owners)
        return same and self.trees == other.trees

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def __repr__(self) -> str:
        """Return one line."""
        own = ", ".join(str(end - start) for start, end in map(self.own, range(self.tasks)))
        return f"TaskTrees({self.trunk} trees of the trunk, {own} of {self.tasks} tasks)"

    @classmethod
    def of(cls, continued: Sequence[TreeEnsemble], trunk: int) -> TaskTrees:
        """Join models that continue the same trunk.

        continued: the model of each task; its first `trunk` trees are the trunk

        Raises PackageError if the trunks differ in any bit.
        """
        for number, each in enumerate(continued[1:], 1):
            if some_trees(each, 0, trunk) != some_trees(continued[0], 0, trunk):
                raise _wrong(f"task {number} continues another trunk than task 0")
        own = [some_trees(each, trunk, each.trees) for each in continued]
        owners = np.repeat(np.arange(TRUNK, len(own)), [trunk, *(each.trees for each in own)])
        return cls(concatenated([some_trees(continued[0], 0, trunk), *own]), owners.astype(np.int32), len(own))

    @property
    def trunk(self) -> int:
        """Number of trees that all tasks share."""
        return int(np.searchsorted(self.owners, TRUNK, side="right"))

    def own(self, task: int) -> tuple[int, int]:
        """Return where a task's own trees begin and end."""
        start, end = np.searchsorted(self.owners, [task, task + 1])
        return int(start), int(end)

    def of_task(self, task: int) -> TreeEnsemble:
        """Return the trees that a task's score sums, as an ensemble of their own."""
        return concatenated([some_trees(self.trees, 0, self.trunk), some_trees(self.trees, *self.own(task))])


def _wrong(problem: str) -> PackageError:
    return PackageError.because(f"the trees of tasks are malformed: {problem}", "package the model again")
