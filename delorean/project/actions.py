"""What can be done with an open project, without passing its index and storage around."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from delorean.experiment import ExperimentSpec, load_experiment
from delorean.experiment.record import RunRecord, find_run
from delorean.feature_sets.table import FeatureSet, load_feature_set, table_uri
from delorean.labels import Labels, load_labels
from delorean.project.config import Project
from delorean.registry.registry import PREFIX, Registry
from delorean.time_travel import Moment, TimeMachine
from schemas.errors import ConfigError
from snapshotter.index import SnapshotIndex
from snapshotter.storage import Storage

# Methods import what they need when they are called: opening a project takes neither scikit-learn nor Spark.
if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from delorean.audit.comparison import FeatureComparison
    from delorean.audit.paradox import ParadoxReport
    from delorean.cost.result import Cost
    from delorean.coverage import DayCoverage, LabelCoverage
    from delorean.experiment.diff import RunDiff
    from delorean.experiment.replay import Replay
    from delorean.feature_sets.registration import RegisteredFeatureSet
    from delorean.leaks import LeakThresholds
    from delorean.packaging.package import ModelPackage
    from delorean.prediction import Predictions
    from delorean.serving import Ranker
    from delorean.tracking import TrackedRun
    from delorean.training.fitting import TrainedModel
    from encoders.feature_model import Encoders
    from snapshotter.spark.progress import Progress


class ProjectActions:
    """The actions of an open project.

    A `spec` is an `ExperimentSpec`, the name of a spec beside the project's file, or the path of a TOML file; relative
    paths start at the project's folder. A `run` is a `RunRecord`, the id of one, or the name of an experiment, which
    means its latest run. Errors are those of the functions that the methods call.
    """

    folder: Path
    config: Project
    index: SnapshotIndex
    storage: Storage
    machine: TimeMachine
    registry: Registry
    experiments: Mapping[str, ExperimentSpec]

    def spec(self, spec: ExperimentSpec | str | Path) -> ExperimentSpec:
        """Return an experiment's spec, checked against what the index has captured if it is read from a file.

        Example: `project.spec("homepage").feature_model`
        """
        if isinstance(spec, ExperimentSpec):
            return replace(spec, folder=spec.folder or str(self.folder))
        if isinstance(spec, str) and not spec.endswith(".toml"):
            return self.experiments[spec]
        return load_experiment(self.folder / spec, self.index)

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

    def train(self, spec: ExperimentSpec | str | Path, run_id: str | None = None) -> TrainedModel:
        """Train an experiment's model on its generated features, and measure it.

        run_id: of the generation; None: the newest version of the feature set

        Example: `project.train("homepage").report.metrics["model"]["test"].ndcg_at_10`
        """
        from delorean.experiment.steps import train_newest

        return train_newest(self.spec(spec), self.storage, run_id)

    def package(self, spec: ExperimentSpec | str | Path, folder: str | Path, run_id: str | None = None) -> ModelPackage:
        """Train an experiment's model on its generated features, and write it as a model package.

        folder: of the new package; a relative path starts at the project's folder
        run_id: as in `train`

        Example: `project.package("homepage", "packages/homepage-1")`
        """
        from delorean.experiment.steps import package_of

        target = self.folder / folder
        return package_of(self.spec(spec), self.index, self.storage, target, self.config.encoders, run_id)

    def load_package(self, package: str | Path) -> ModelPackage:
        """Load a model package whose encoders are the project's, or allowed by it, see `delorean.load_package`.

        package: its folder, or `registry:NAME` for a version or a pointer of the registry

        Example: `project.load_package("registry:production").report`
        """
        from delorean.packaging.package import load_package

        if isinstance(package, str) and package.startswith(PREFIX):
            return self.registry.load(package)
        return load_package(self.folder / package, modules=self.config.encoders, allow=self.config.packages.allow)

    def predict(
        self,
        feature_set: FeatureSet | str,
        package: ModelPackage | str | Path,
        name: str | None = None,
        *,
        version: int | None = None,
        **options: Any,
    ) -> Predictions:
        """Score every item of a feature set, see `delorean.predict`.

        feature_set: or its name; then version is None: the newest
        name: of the predictions; None: the feature set's
        options: `keep`, `run_id`, `spark`, `progress`

        Example: `project.predict("homepage", "packages/homepage-1", keep=["label"]).to_polars()`
        """
        from delorean.packaging.package import ModelPackage
        from delorean.prediction import predict

        package = package if isinstance(package, ModelPackage) else self.load_package(package)
        source = table_uri(self.storage, feature_set) if isinstance(feature_set, str) else feature_set
        own_name = feature_set if isinstance(feature_set, str) else PurePosixPath(feature_set.uri).name
        return predict(package, source, self.storage, name or own_name, version=version, **options)

    def track(
        self, package: ModelPackage | str | Path, server: str | None = None, experiment: str | None = None
    ) -> TrackedRun:
        """Record a package as a run of MLflow, see `delorean.track_package`.

        server: None: the one that the project's file names
        experiment: of MLflow; None: the name of the experiment that the package is of

        Example: `project.track("packages/homepage-1").model_uri`
        """
        from delorean.packaging.package import ModelPackage
        from delorean.tracking import track_package

        server = server or self.config.tracking.mlflow
        if server is None:
            raise ConfigError.because("no tracking server is named", 'write [tracking] mlflow = "http://…"')
        package = package if isinstance(package, ModelPackage) else self.load_package(package)
        name = experiment or (package.lineage.get("spec") or {}).get("name") or package.path.name
        return track_package(package, server, name, self.config.encoders)

    @contextmanager
    def ranker(self, package: ModelPackage | str | Path, **options: Any) -> Iterator[Ranker]:
        """Open the live scorer in this process, over the project's services, for as long as the block lasts.

        options: `budget`, for all services together, and `refresh`, see `delorean.serving.open_ranker`

        Example: `with project.ranker("packages/homepage-1") as ranker: ranker.rank(request)`
        """
        from delorean.packaging.package import ModelPackage
        from delorean.serving import open_ranker

        package = package if isinstance(package, ModelPackage) else self.load_package(package)
        with open_ranker(package, self.config.services, self.index, self.storage, **options) as ranker:
            yield ranker

    def rank(
        self,
        package: ModelPackage | str | Path,
        context: Mapping[str, Any],
        candidates: Sequence[Any],
        **options: Any,
    ) -> dict[str, Any]:
        """Rank candidates for a context with the project's services as they answer now, as `POST /rank` would.

        context: variable → value
        candidates: items: one value each, or a mapping of variables
        options: `k`, `explain` and `time`, as in a request

        Opens the scorer for one request; use `ranker` for more. Raises DataKeyError for variables that do not fit.

        Example: `project.rank("packages/homepage-1", {"profile_id": 7, "country": "US"}, [12, 9], k=1)["ranked"]`
        """
        request = {"context": context, "candidates": candidates, **options}
        with self.ranker(package) as ranker:
            ranker.warm_up()
            return ranker.rank(msgspec.json.encode(request))

    def _record(self, run: RunRecord | str) -> RunRecord:
        return find_run(run, self.storage) if isinstance(run, str) else run
