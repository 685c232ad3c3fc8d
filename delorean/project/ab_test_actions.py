"""What can be done with the A/B tests of an open project: planned, watched and analysed."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from snapshotter.index import SnapshotIndex
from snapshotter.storage import Storage

# Methods import what they need when they are called, as in `actions`.
if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from delorean.ab_tests.declaration import AbTest
    from delorean.ab_tests.interleaving_analysis import InterleavingAnalysis
    from delorean.ab_tests.plan import TestPlan
    from delorean.ab_tests.result import AbAnalysis, Health


class AbTestActions:
    """The actions of an open project that are about A/B tests; see `ProjectActions`.

    A `test` is an `AbTest`, the name of a file beside the project's without .toml, or the path of a TOML file.
    """

    folder: Path
    index: SnapshotIndex
    storage: Storage

    def ab_test(self, test: AbTest | str | Path) -> AbTest:
        """Return a test as it is declared.

        Example: `project.ab_test("homepage-2").cells`
        """
        from delorean.ab_tests.declaration import AbTest
        from delorean.ab_tests.files import read_test

        if isinstance(test, AbTest):
            return test
        name = f"{test}.toml" if isinstance(test, str) and not test.endswith(".toml") else test
        return read_test(self.folder / name)

    def plan_ab_test(
        self, test: AbTest | str | Path, until: datetime | None = None, *, spark: SparkSession | None = None
    ) -> TestPlan:
        """Plan a test from the past of its metrics: size, duration, looks and boundaries.

        until: outcomes up to this moment are the past; None: the test's start, or now
        spark: for metrics that are queries

        Example: `print(project.plan_ab_test("homepage-2").toml)`
        """
        from delorean.ab_tests.stored import plan_from_history

        return plan_from_history(self.ab_test(test), self.storage, until, spark=spark, index=self.index)

    def peek_ab_test(self, test: AbTest | str | Path, at: datetime | None = None) -> Health:
        """Return a test's health: units by cell, and whether they are as declared. No metric is read.

        Example: `project.peek_ab_test("homepage-2").problems`
        """
        from delorean.ab_tests.stored import peek

        return peek(self.ab_test(test), self.storage, at)

    def analyse_ab_test(
        self, test: AbTest | str | Path, at: datetime | None = None, *, spark: SparkSession | None = None
    ) -> AbAnalysis:
        """Analyse a test at its last planned look before a moment, by default now.

        spark: for metrics that are queries

        Example: `project.analyse_ab_test("homepage-2").verdict`
        """
        from delorean.ab_tests.stored import analyse_test

        return analyse_test(self.ab_test(test), self.storage, at, spark=spark, index=self.index)

    def analyse_interleaving(
        self, test: AbTest | str | Path, at: datetime | None = None, *, spark: SparkSession | None = None
    ) -> InterleavingAnalysis:
        """Analyse the cells of a test that interleave, at any moment; arguments as for `analyse_ab_test`.

        Example: `project.analyse_interleaving("homepage-2").cells[0].verdict`
        """
        from delorean.ab_tests.stored import analyse_interleaved

        return analyse_interleaved(self.ab_test(test), self.storage, at, spark=spark, index=self.index)
