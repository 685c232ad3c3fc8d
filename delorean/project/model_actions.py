"""What can be done with the models of an open project: tuned, trained, packaged, tracked and served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from delorean.experiment import ExperimentSpec, load_experiment
from delorean.feature_sets.table import FeatureSet, table_uri
from delorean.project.config import Project
from delorean.registry.registry import PREFIX, Registry, package_name
from schemas.errors import ConfigError
from snapshotter.index import SnapshotIndex
from snapshotter.storage import Storage

# Methods import what they need when they are called, as in `actions`.
if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from delorean.ab_tests.declaration import AbTest
    from delorean.comparison.result import Comparison
    from delorean.label_quality.report import LabelQuality
    from delorean.packaging.package import ModelPackage
    from delorean.prediction import Predictions
    from delorean.serving import Ranker
    from delorean.tracking import TrackedRun
    from delorean.training.fitting import TrainedModel
    from delorean.tuning.result import TuningResult
    from snapshotter.spark.progress import Progress


class ModelActions:
    """The actions of an open project that are about models and their label data; see `ProjectActions`."""

    folder: Path
    config: Project
    index: SnapshotIndex
    storage: Storage
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

    def label_quality(
        self, spec: ExperimentSpec | str | Path, *, against: str | None = None, spark: SparkSession | None = None
    ) -> LabelQuality:
        """Measure an experiment's label data by the limits of its spec, see `measure_label_quality`.

        against: the id of earlier label data; None: that of the last recorded run
        spark: makes the label data if it is not at rest

        Example: `project.label_quality("homepage").violations`
        """
        from delorean.experiment.label_quality import quality_of

        return quality_of(self.spec(spec), self.storage, spark=spark, index=self.index, against=against)

    def tune(
        self,
        spec: ExperimentSpec | str | Path,
        study: str | None = None,
        run_id: str | None = None,
        progress: Progress | None = None,
    ) -> TuningResult:
        """Search for the parameters of an experiment's model, as `[tuning]` of its spec says.

        study: its name; a study that exists is continued. None: the experiment's name
        run_id: of the generation; None: the newest version of the feature set

        Example: `print(project.tune("homepage").toml)`
        """
        from delorean.experiment.tuning import tune

        return tune(self.spec(spec), self.storage, self.folder, study=study, run_id=run_id, progress=progress)

    def train(
        self,
        spec: ExperimentSpec | str | Path,
        run_id: str | None = None,
        *,
        tuned: str | None = None,
        spark: SparkSession | None = None,
    ) -> TrainedModel:
        """Train an experiment's model on its generated features, measure it, and record the run.

        run_id: of the generation; None: the newest version of the feature set
        tuned: the study whose best parameters the model gets, see `tune`; None: those of the spec
        spark: where the model's workers run, if its spec has several

        Example: `project.train("homepage").report.metrics["model"]["test"].ndcg_at_10`
        """
        from delorean.experiment.training_run import train_newest

        return train_newest(self._tuned(spec, tuned), self.storage, run_id, spark)

    def package(
        self,
        spec: ExperimentSpec | str | Path,
        folder: str | Path,
        run_id: str | None = None,
        *,
        tuned: str | None = None,
        spark: SparkSession | None = None,
    ) -> ModelPackage:
        """Train an experiment's model on its generated features, write it as a model package, and record the run.

        folder: of the new package; a relative path starts at the project's folder
        run_id, tuned, spark: as in `train`

        Example: `project.package("homepage", "packages/homepage-1")`
        """
        from delorean.experiment.training_run import train_and_package

        experiment, target = self._tuned(spec, tuned), self.folder / folder
        run = train_and_package(experiment, self.index, self.storage, target, self.config.encoders, run_id, spark)
        if self.config.tracking.mlflow is not None:
            from delorean.tracking import track_trained

            track_trained(run.package, self.config.tracking.mlflow, experiment.name, self.config.encoders)
        return run.package

    def load_package(self, package: str | Path) -> ModelPackage:
        """Load a model package whose encoders are the project's, or allowed by it, see `delorean.load_package`.

        package: its folder, or `registry:NAME` for a version or a pointer of the registry

        Example: `project.load_package("registry:production").report`
        """
        from delorean.packaging.package import load_package

        if isinstance(package, str) and package.startswith(PREFIX):
            return self.registry.load(package)
        return load_package(self.folder / package, modules=self.config.encoders, allow=self.config.packages.allow)

    def compare(
        self,
        candidate: ModelPackage | str | Path,
        production: ModelPackage | str | Path = "registry:production",
        features: FeatureSet | str | None = None,
        production_features: FeatureSet | str | None = None,
        **options: Any,
    ) -> Comparison:
        """Compare a candidate with production, on contexts that neither was trained on, see `compare_packages`.

        candidate, production: packages, folders, or `registry:NAME`
        features, production_features: feature sets, or their names; None: what the candidate was trained on
        options: of `compare_packages`, such as `labels`, `settings` and `exposures`

        Example: `project.compare("packages/homepage-2").verdict`
        """
        from delorean.comparison import compare_packages
        from delorean.packaging.package import ModelPackage

        packages = [
            each if isinstance(each, ModelPackage) else self.load_package(each) for each in (candidate, production)
        ]
        names = tuple(
            each.path.name if isinstance(each, ModelPackage) else package_name(each) for each in (candidate, production)
        )
        sources = [
            table_uri(self.storage, each) if isinstance(each, str) else each for each in (features, production_features)
        ]
        opened = {"index": self.index, "storage": self.storage, "names": names}
        return compare_packages(packages[0], packages[1], sources[0], sources[1], **{**opened, **options})

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
    def ranker(
        self, package: ModelPackage | str | Path, *, tests: Sequence[AbTest | str | Path] = (), **options: Any
    ) -> Iterator[Ranker]:
        """Open the live scorer in this process, over the project's services, for as long as the block lasts.

        tests: whose cells answer the requests of their units, or their files; what is shown is then logged
        options: `budget`, for all services together, `refresh` and `log_exposures`, see `delorean.serving.open_ranker`

        Example: `with project.ranker("packages/homepage-1") as ranker: ranker.rank(request)`
        """
        from delorean.ab_tests.declaration import AbTest
        from delorean.ab_tests.files import read_test
        from delorean.packaging.package import ModelPackage
        from delorean.serving import load_tests, open_ranker

        package = package if isinstance(package, ModelPackage) else self.load_package(package)
        declared = [each if isinstance(each, AbTest) else read_test(self.folder / each) for each in tests]
        packaged = load_tests(declared, self.load_package)
        with open_ranker(package, self.config.services, self.index, self.storage, tests=packaged, **options) as ranker:
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

    def _tuned(self, spec: ExperimentSpec | str | Path, study: str | None) -> ExperimentSpec:
        if study is None:
            return self.spec(spec)
        from delorean.experiment.tuning import tuned

        return tuned(self.spec(spec), self.folder, study)
