"""Scores a feature set: here, or in Spark's tasks, and commits the scores as a table."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa

from delorean.feature_sets.table import FeatureSet, find_record
from delorean.frames import require_spark
from delorean.labels import TIME_COLUMN
from delorean.packaging.package import ModelPackage
from delorean.prediction.packaged_model import PROBABILITY_COLUMN, SCORE_COLUMN, PackagedModel
from delorean.prediction.scored_file import ScoredFile, Scoring
from delorean.prediction.table import FOLDER, Predictions, commit, find_predictions, predictions_uri
from delorean.step_timer import StepTimer
from schemas.errors import ConfigError, FingerprintError, PackageError
from snapshotter.spark.connect import require_workers
from snapshotter.spark.errors import spark_errors_as
from snapshotter.spark.jobs import described, parallelism, reported_tasks
from snapshotter.spark.progress import Progress, shown_progress
from snapshotter.storage import Storage, require_plain_name
from snapshotter.storage.delta import delta_table
from snapshotter.storage.delta_version import DeltaVersion

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_TASKS_PER_CORE = 4
_Report = Callable[[int, int], None]


def predict(
    package: ModelPackage,
    source: FeatureSet | str,
    storage: Storage,
    name: str,
    *,
    version: int | None = None,
    keep: Sequence[str] = (),
    run_id: str | None = None,
    spark: SparkSession | None = None,
    progress: Progress | None = None,
) -> Predictions:
    """Score each item of a feature set, with or without labels, and commit a table of the same grouping.

    source: a feature set, or the URI of a Delta table with the package's variables, `time` and features
    name: of the predictions; predicting again adds a version to them
    version: of the table; None: the newest
    keep: further columns to carry along, such as "label"
    run_id: of runs with the same id only the first commits, and all return what it committed
    spark: scores the files in its tasks; None: this process does. Both give the same scores, bit for bit
    progress: called with (what is scored, files done, all); None: a bar in a notebook or at a prompt

    Memory: a thousand rows at a time. Raises ConfigError for missing columns, FingerprintError where the features were
    computed by other encoders than the package's, PackageError for missing values that the model does not accept.
    """
    require_plain_name("predictions", name)
    if spark is not None:
        require_spark(spark)
    uri, version = (source.uri, source.version) if isinstance(source, FeatureSet) else (source, version)
    if run_id is not None and (committed := find_predictions(storage, name, run_id)) is not None:
        _require_same(committed, package, uri, version)
        return committed
    files = DeltaVersion.of(delta_table(uri, version), uri)
    notes = check_encoders(package, uri, files.version)
    scoring = _scoring(package, files, storage, name, keep)
    timer = StepTimer()
    with timer.step("score"), shown_progress(progress) as shown:

        def report(done: int, total: int) -> None:
            shown(f"scores of {name}, files", done, total)

        paths = [file.path for file in files.files]
        results = _score_here(scoring, paths, report) if spark is None else _on_spark(spark, scoring, paths, report)
    predictions = Predictions(
        uri=predictions_uri(storage, name),
        version=-1,
        context=tuple(key.name for key in package.context),
        items=scoring.items,
        kept=tuple(keep),
        rows=sum(result.file.rows for result in results),
        item_count=sum(result.items for result in results),
        lowest=min((result.lowest for result in results if result.lowest is not None), default=None),
        highest=max((result.highest for result in results if result.highest is not None), default=None),
        package={"path": str(package.path), "digest": package.digest},
        feature_set={"uri": uri, "version": files.version},
        seconds=timer.rounded()["score"],
        notes=notes,
    )
    return commit(storage, name, scoring.schema, [result.file for result in results], predictions, run_id)


def check_encoders(package: ModelPackage, uri: str, version: int) -> tuple[str, ...]:
    """Raise FingerprintError unless a version's features were computed by the package's encoders.

    Returns a note where that is unknown, because another program wrote the table or generation recorded none.
    """
    record = find_record(uri, version)
    recorded = {
        feature: encoder
        for encoder in (record.feature_set.lineage.get("encoders", ()) if record is not None else ())
        for feature in encoder["features"]
    }
    if not recorded:
        return (f"version {version} of {uri} does not record which encoders computed its features: not verified",)
    for encoder in package.feature_model.encoders:
        for feature in encoder.features:
            computed = recorded.get(feature)
            if computed is not None and computed["fingerprint"] != encoder.fingerprint:
                raise FingerprintError.because(
                    f"the feature '{feature}' of version {version} of {uri} was computed by another version of the "
                    f"encoder '{encoder.name}' than the package at {package.path} was trained with",
                    "generate the features again with the package's encoders, or train on these features",
                )
    return ()


def _scoring(package: ModelPackage, files: DeltaVersion, storage: Storage, name: str, keep: Sequence[str]) -> Scoring:
    items = tuple(key.name for key in package.items)
    grouping = [*(key.name for key in package.context), TIME_COLUMN, *items]
    carried = [*grouping, *(column for column in dict.fromkeys(keep) if column not in grouping)]
    for column in (*carried, *package.features):
        if column not in files.schema.names:
            raise ConfigError.unknown(f"column of version {files.version} of {files.uri}", column, files.schema.names)
    own = (SCORE_COLUMN, PROBABILITY_COLUMN) if package.calibrations else (SCORE_COLUMN,)
    for column in own:
        if column in carried:
            raise ConfigError.because(f"the column '{column}' is that of the scores", "rename it in the feature set")
    fields = [files.schema.field(column) for column in carried]
    fields[len(grouping) : len(grouping)] = [pa.field(column, pa.list_(pa.float32())) for column in own]
    folder = f"{FOLDER}/{name}/{uuid.uuid4().hex[:12]}"
    return Scoring(files.uri, storage.uri, folder, PackagedModel.of(package), items, pa.schema(fields))


def _score_here(scoring: Scoring, paths: Sequence[str], report: _Report) -> list[ScoredFile]:
    results = []
    for number, path in enumerate(paths):
        results.append(scoring.score_file(path, number, "0"))
        report(len(results), len(paths))
    return results


def _on_spark(spark: SparkSession, scoring: Scoring, paths: Sequence[str], report: _Report) -> list[ScoredFile]:
    require_workers(spark)
    tasks = max(1, min(len(paths), _TASKS_PER_CORE * parallelism(spark)))
    with (
        reported_tasks(spark, tasks, len(paths), report),
        described(spark, f"predict: {len(paths)} files"),
        spark_errors_as(PackageError, "scoring features"),
    ):

        def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            from pyspark import TaskContext

            context = TaskContext.get()
            assert context is not None
            attempt = str(context.taskAttemptId())
            for number in (number for batch in batches for number in batch.column(0).to_pylist()):
                result = scoring.score_file(paths[number], number, attempt)
                yield pa.RecordBatch.from_pydict({"result": [msgspec.json.encode(result).decode()]})

        rows = spark.range(0, len(paths), 1, tasks).mapInArrow(score, "result string").collect()
    results = [msgspec.json.decode(row.result, type=ScoredFile) for row in rows]
    return sorted(results, key=lambda result: result.file.bucket)


def _require_same(committed: Predictions, package: ModelPackage, uri: str, version: int | None) -> None:
    """Raise ConfigError if a run id is that of other predictions."""
    same_version = version is None or committed.feature_set["version"] == version
    if committed.package["digest"] == package.digest and committed.feature_set["uri"] == uri and same_version:
        return
    raise ConfigError.because(
        f"the run id is taken: version {committed.version} of {committed.uri} has the scores of "
        f"{committed.package['path']} for version {committed.feature_set['version']} of {committed.feature_set['uri']}",
        "choose another run id",
    )
