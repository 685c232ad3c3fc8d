"""What can be done with an open project, without passing its index and storage around."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from delorean.experiment import ExperimentSpec
from delorean.experiment.record import RunRecord, find_run
from delorean.feature_sets.table import FeatureSet, load_feature_set, table_uri
from delorean.labels import Labels, load_labels
from delorean.project.ab_test_actions import AbTestActions
from delorean.project.model_actions import ModelActions
from delorean.time_travel import Moment, TimeMachine

# Methods import what they need when they are called: opening a project takes neither scikit-learn nor Spark.
if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from delorean.audit.comparison import FeatureComparison
    from delorean.audit.paradox import ParadoxReport
    from delorean.cost.result import Cost
    from delorean.coverage import DayCoverage, LabelCoverage
    from delorean.experiment.diff import RunDiff
    from delorean.experiment.replay import Replay
    from delorean.exposures.counts import ExposureCounts
    from delorean.feature_sets.registration import RegisteredFeatureSet
    from delorean.leaks import LeakThresholds
    from encoders.feature_model import Encoders
    from snapshotter.spark.progress import Progress


class ProjectActions(ModelActions, AbTestActions):
    """The actions of an open project.

    A `spec` is an `ExperimentSpec`, the name of a spec beside the project's file, or the path of a TOML file; relative
    paths start at the project's folder. A `run` is a `RunRecord`, the id of one, or the name of an experiment, which
    means its latest run. Errors are those of the functions that the methods call.
    """

    machine: TimeMachine

    def travel(self, moment: datetime | str, max_age: timedelta | None = None) -> Moment:
        """Return the state as of a past moment, see `TimeMachine.at`.

        Example: `project.travel("2026-01-31T12:00:00Z")["viewing_history"].to_polars()`
        """
        return self.machine.at(moment, max_age)

    def coverage(self, labels: Labels | str | Any = None, **options: Any) -> DayCoverage | LabelCoverage:
        """Return how much state there is: for each day, or for label data.

        labels: label data, its id, or a frame with context variables and `time`; None: by day
        options: of `day_coverage`, or of `label_coverage` where there are labels

        Example: `project.coverage(max_age=timedelta(hours=36))` or `project.coverage("homepage-labels")`
        """
        from delorean.coverage import day_coverage, label_coverage

        if labels is None:
            return day_coverage(self.index, self.storage, **options)
        rows = load_labels(labels, self.storage) if isinstance(labels, str) else labels
        return label_coverage(rows, self.index, self.storage, **options)

    def run(
        self,
        spec: ExperimentSpec | str | Path,
        *,
        spark: SparkSession | None = None,
        training: bool = True,
        run_id: str | None = None,
        day: date | None = None,
        recompute: bool = False,
        progress: Progress | None = None,
    ) -> RunRecord:
        """Run a whole experiment and record it, see `run_experiment`.

        spark: None: in this process, without a JVM; then the label data must be at rest already

        Example: `project.run("homepage", spark=project.spark_session()).metrics`
        """
        from delorean.experiment.run import run_experiment

        return run_experiment(
            self.spec(spec),
            self.index,
            self.storage,
            spark,
            training=training,
            run_id=run_id,
            day=day,
            recompute=recompute,
            progress=progress,
        )

    def generate(
        self,
        spec: ExperimentSpec | str | Path,
        *,
        spark: SparkSession | None = None,
        run_id: str | None = None,
        day: date | None = None,
        recompute: bool = False,
        progress: Progress | None = None,
    ) -> FeatureSet:
        """Generate an experiment's features; they are recorded as a run, so that they can be replayed.

        recompute: copy no features from earlier versions

        Example: `project.generate("homepage").to_polars()`
        """
        record = self.run(
            spec, spark=spark, training=False, run_id=run_id, day=day, recompute=recompute, progress=progress
        )
        return load_feature_set(self.storage, record.features.feature_set, record.features.version)

    def replay(self, run: RunRecord | str, **options: Any) -> Replay:
        """Repeat a run and compare every value, see `delorean.replay`. options: `spark`, `buckets`, `into`, `progress`.

        Example: `project.replay("homepage").identical`
        """
        from delorean.experiment.replay import replay

        return replay(self._record(run), self.index, self.storage, modules=self.config.encoders, **options)

    def diff(self, before: RunRecord | str, after: RunRecord | str) -> RunDiff:
        """Compare two runs, see `delorean.diff`.

        Example: `project.diff("3f2a91c04b7e-1", "3f2a91c04b7e-2").changes`
        """
        from delorean.experiment.diff import diff

        return diff(self._record(before), self._record(after), self.storage)

    def compare_encoders(
        self, before: Encoders, after: Encoders, labels: Labels | str, **options: Any
    ) -> FeatureComparison:
        """Compare two versions of encoders on the same label rows and state, see `delorean.compare_encoders`.

        labels: label data, or its id
        """
        from delorean.audit.comparison import compare_encoders

        rows = load_labels(labels, self.storage) if isinstance(labels, str) else labels
        return compare_encoders(before, after, rows, self.index, self.storage, **options)

    def check(
        self, feature_set: FeatureSet | str, version: int | None = None, thresholds: LeakThresholds | None = None
    ) -> ParadoxReport:
        """Check every row of a feature set for input that was not known at its time, see `check_feature_set`.

        feature_set: or its name; then version is None: the newest

        Example: `project.check("homepage").clean`
        """
        from delorean.audit.paradox import check_feature_set

        if isinstance(feature_set, FeatureSet):
            return check_feature_set(feature_set.uri, feature_set.version, self.index, thresholds)
        return check_feature_set(table_uri(self.storage, feature_set), version, self.index, thresholds)

    def register(
        self, feature_set: str, table: str | None = None, *, spark: SparkSession | None = None
    ) -> RegisteredFeatureSet:
        """Add a feature set to Spark's catalogue, see `delorean.register_feature_set`.

        table: `database.table`; None: `features.<feature set>`
        spark: a session with Delta; None: the active one, or a new one as the project's file configures it

        Example: `project.register("homepage")`, then `spark.sql("SELECT * FROM features.homepage")`
        """
        from delorean.feature_sets.registration import register_feature_set

        session = spark or self.config.spark_session(delta=True)
        return register_feature_set(session, self.storage, feature_set, table)

    def cost(self, **options: Any) -> Cost:
        """Return what experiments captured, stored, read and computed, see `delorean.cost.cost`.

        options: `since` and `until`, days; `by`; `owner`, `namespace` or `experiment`

        Example: `project.cost(by=("owner", "day"))`
        """
        from delorean.cost import cost
        from delorean.project.schedule import owners_in

        return cost(self.index, self.storage, owners=owners_in(self.config.schedule), **options)

    def exposures(self, test: str | None, since: date | None = None, until: date | None = None) -> ExposureCounts:
        """Count what the scorer showed, by day and cell of a test, see `delorean.read_exposures` for the rows.

        test: None: outside tests
        since, until: the first day and the last; None: all

        Example: `project.exposures("homepage-2").cells`
        """
        from delorean.exposures.counts import count_exposures

        return count_exposures(self.storage, test, since, until)

    def _record(self, run: RunRecord | str) -> RunRecord:
        return find_run(run, self.storage) if isinstance(run, str) else run
