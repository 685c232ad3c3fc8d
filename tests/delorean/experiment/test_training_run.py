"""Training is a run of its own: recorded, listed, found by the vacuum and by costs, with every learner."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from pyarrow.parquet import read_table

from delorean.cost import cost
from delorean.display.text import to_text
from delorean.experiment import ModelSpec
from delorean.experiment.record import RunRecord, find_run, named_run, newest_runs
from delorean.experiment.replay import replay
from delorean.experiment.run import run_experiment
from delorean.experiment.training_run import train_and_package, train_newest
from delorean.labels.materialise import materialise_labels
from delorean.packaging.files import digest_of, read_files
from delorean.packaging.package import load_package
from delorean.project.vacuum import vacuum
from delorean.ranking_data.split import Split
from schemas.errors import ConfigError

LEARNERS = {
    "scikit-learn": ModelSpec(),
    "lightgbm": ModelSpec(learner="lightgbm", rounds=5, threads=1, parameters={"min_data_in_leaf": 1}),
    "lightgbm binary": ModelSpec(learner="lightgbm", objective="binary", rounds=5, categorical=("mood_known",)),
    "xgboost": ModelSpec(learner="xgboost", rounds=5, threads=1),
    "xgboost regression": ModelSpec(learner="xgboost", objective="reg:squarederror", rounds=5, parameters={"eta": 0.1}),
}


@pytest.fixture
def generated(lab):
    """A spec whose features were generated in this process, under the run id `day-1`."""
    spec = replace(lab.spec, split=Split(by_time=False, group="profile_id"))
    spec = replace(spec, labels=replace(spec.labels, id="shown"))
    materialise_labels(read_table(lab.folder / "shown.parquet"), spec.labels, lab.storage, labels_id="shown", buckets=4)
    run_experiment(spec, lab.index, lab.storage, training=False, run_id="day-1")
    return spec


def packaged(lab, spec, folder="package", run_id=None, spark=None):
    return train_and_package(spec, lab.index, lab.storage, lab.folder / folder, [lab.module], run_id, spark)


@pytest.mark.parametrize("model", LEARNERS.values(), ids=LEARNERS)
def test_each_learner_of_a_spec_trains_a_package_that_reproduces_its_golden_rows(lab, generated, model):
    spec = replace(generated, model=model)
    run = packaged(lab, spec)
    assert run.record.training.model == run.package.report.model
    again = load_package(run.package.path, modules=[lab.module])
    again.check_golden_rows()
    assert again.report == run.package.report
    assert (
        packaged(lab, spec, "other").package.scorer.score(again.golden.features).tolist()
        == again.score(again.golden.features).tolist()
    )
    for name in ("model.onnx", "trees.arrow"):
        one, other = (lab.folder / folder / name for folder in ("package", "other"))
        assert one.exists() == other.exists()
        assert not one.exists() or one.read_bytes() == other.read_bytes()


def test_a_training_is_recorded_with_who_what_and_from_which_features(lab, generated):
    spec = replace(generated, model=LEARNERS["lightgbm"])
    before = datetime.now(UTC)
    run = packaged(lab, spec)
    record = find_run("lab", lab.storage)
    assert record == run.record
    assert record.run_id == f"{spec.id}-1"
    assert record.started_at >= before
    training = record.training
    assert (training.model, training.package) == ("LightGBM lambdarank", str(lab.folder / "package"))
    assert training.digest == digest_of(read_files(lab.folder / "package"))
    assert training.by
    assert training.rounds == run.package.report.rounds
    assert training.sizes == run.package.report.sizes
    assert record.experiment.id == record.experiment_id == spec.id
    assert record.experiment.model == replace(spec.model, threads=0)
    assert (record.features.feature_set, record.features.version) == ("lab", 0)
    assert record.metrics["model"]["test"]["ndcg@10"] == run.package.report.metrics["model"]["test"].ndcg_at_10
    assert "fit" in record.seconds
    assert record.versions["lightgbm"]
    text = to_text(record)
    for part in ("LightGBM lambdarank", "trained by", str(training.digest)[:12], "validation"):
        assert part in text
    assert replay(record, lab.index, lab.storage, modules=[lab.module]).identical


def test_a_training_without_a_package_and_a_whole_run_are_recorded_too(lab, generated):
    trained = train_newest(generated, lab.storage)
    record = find_run("lab", lab.storage)
    assert (record.training.model, record.training.package, record.training.digest) == (
        trained.report.model,
        None,
        None,
    )
    whole = run_experiment(generated, lab.index, lab.storage)
    assert whole.training == record.training
    assert whole.generated
    assert not record.generated
    assert [run.training is None for run in newest_runs(lab.storage, 10)] == [False, False, True]


def test_a_training_with_a_run_id_is_recorded_once_even_if_it_died_before_its_record(lab, generated):
    first = packaged(lab, generated, run_id="day-1")
    assert first.record.run_id == f"{generated.id}-day-1-training"
    assert packaged(lab, generated, run_id="day-1").record == first.record
    path = f"experiments/{generated.id}/{first.record.run_id}.json"
    lab.storage.delete([path])
    resumed = packaged(lab, generated, run_id="day-1").record
    assert (resumed.run_id, resumed.training) == (first.record.run_id, first.record.training)
    other = packaged(lab, generated, "elsewhere", run_id="day-1").record
    assert other.run_id != first.record.run_id
    assert other.training.package == str(lab.folder / "elsewhere")
    assert named_run(generated, "day-1-training", lab.storage) == resumed


def test_a_training_keeps_its_features_from_the_vacuum_and_costs_no_generation(lab, generated):
    spec = replace(generated, model=LEARNERS["xgboost"])
    generation = newest_runs(lab.storage, 1)[0]
    today = datetime.now(UTC).date()
    before = cost(lab.index, lab.storage, since=today, until=today).total
    record = packaged(lab, spec).record
    after = cost(lab.index, lab.storage, since=today, until=today).total
    assert after.stored_bytes == before.stored_bytes
    assert after.read_bytes > before.read_bytes
    assert after.core_seconds == pytest.approx(before.core_seconds + sum(record.seconds.values()))
    lab.storage.delete([f"experiments/{generation.experiment_id}/{generation.run_id}.json"])
    run_experiment(generated, lab.index, lab.storage, training=False)
    lab.write_encoders((lab.folder / f"{lab.module}.py").read_text())
    report = vacuum(lab.storage, lab.index, timedelta(hours=1), dry_run=True)
    assert not any(path.startswith("feature_sets/lab/") and path.endswith(".parquet") for path in report.paths)
    assert replay(record, lab.index, lab.storage, modules=[lab.module]).identical


def test_workers_fit_on_spark_from_the_same_spec_into_the_same_kind_of_package(lab, generated, spark):
    model = replace(LEARNERS["xgboost"], workers=2)
    spec = replace(generated, model=model)
    with pytest.raises(ConfigError, match=r"2 workers are Spark tasks, and there is no Spark session → pass"):
        packaged(lab, spec)
    runs = [packaged(lab, spec, folder, spark=spark) for folder in ("one", "two")]
    onnx = [(run.package.path / "model.onnx").read_bytes() for run in runs]
    assert onnx[0] == onnx[1]
    sizes = runs[0].record.training.sizes
    assert sizes["fitted"] == {"contexts": sizes["train"]["contexts"], "items": sizes["train"]["items"], "workers": 2}
    runs[0].package.check_golden_rows()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learner": "lightgmb"}, r"unknown learner 'lightgmb' → did you mean 'lightgbm'"),
        ({"learner": "lightgbm", "estimator": "a:b"}, "model.estimator is not a setting of the learner lightgbm"),
        ({"learner": "xgboost", "impute": "mean"}, "model.impute is not a setting of the learner xgboost"),
        ({"rounds": 5}, "model.rounds is not a setting of the learner scikit-learn → name a learner"),
        ({"learner": "lightgbm", "workers": 2}, 'several workers fit with learner = "xgboost"'),
    ],
)
def test_settings_of_another_learner_are_rejected(fields, message):
    with pytest.raises(ConfigError, match=message):
        ModelSpec(**fields)


def test_a_specs_learner_is_checked_where_it_stands_and_threads_are_not_part_of_its_id(lab):
    def load(text):
        lab.write_spec(("[labels]", f"[model]\n{text}\n\n[labels]"))
        return lab.spec

    one = load('learner = "lightgbm"\nparameters = { num_leaves = 7 }\ncategorical = ["mood_known"]\nthreads = 1')
    assert one.model.build().parameters == {"num_leaves": 7}
    assert one.id == replace(one, model=replace(one.model, threads=3)).id
    assert one.id != replace(one, model=replace(one.model, rounds=3)).id
    for text, message in [
        ('learner = "lightgbm"\nobjective = "lambdarnak"', r"line \d+: model.*unknown objective of LightGBM"),
        ('learner = "lightgbm"\nparameters = { n_estimators = 7 }', r"model.*unknown parameter of LightGBM"),
        ('learner = "xgboost"\ncategorical = ["mood"]', r"model.categorical.*unknown feature 'mood' → known"),
        ('learner = "catboost"', r"line \d+: model.learner"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load(text)


def test_records_of_earlier_releases_say_nothing_of_a_training(lab, generated):
    fields = train_and_package(generated, lab.index, lab.storage, lab.folder / "p", [lab.module]).record.to_json()
    del fields["training"]
    earlier = msgspec.convert(fields, RunRecord)
    assert earlier.training is None
    assert "on the test part" in to_text(earlier)
