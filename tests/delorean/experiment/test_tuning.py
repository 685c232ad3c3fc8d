"""An experiment at rest is tuned, in this process and in several, without Spark or a JVM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from experiment_lab import Lab
from project_at_rest import long_labels

from delorean.cli.commands import cli
from delorean.display.html import to_html
from delorean.display.text import to_text
from delorean.experiment.model_spec import ModelSpec
from delorean.experiment.training_run import train_newest
from delorean.experiment.tuning import study_path, tune, tuned, with_parameters
from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_labels
from delorean.project.open_project import open_project
from delorean.tuning.result import TuningResult
from delorean.tuning.space import ParameterRange, TuningSpec
from delorean.tuning.study import Study
from schemas.errors import ConfigError, MissingFileError, TrainingError
from snapshotter.index import open_index

SPACE = """
[split]
by_time = false
group = "profile_id"
shares = [0.5, 0.25, 0.25]

[model]
estimator = "sklearn.ensemble:HistGradientBoostingClassifier"
parameters = { max_iter = 8, early_stopping = false, random_state = 0, min_samples_leaf = 5 }

[tuning]
trials = 4
candidates = 2

[tuning.space]
learning_rate = { low = 0.01, high = 0.5, log = true }
max_leaf_nodes = { low = 2, high = 8 }

[evaluation]
replicates = 200
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A lab whose features are generated: an item that was watched is clicked more often."""
    folder = tmp_path_factory.mktemp("tuning")
    random = np.random.default_rng(0)
    shown = [
        (p, m, v, float(random.random() < (0.8 if v == p % 4 else 0.3)))
        for p in range(40)
        for m in (7, 14, 40)
        for v in range(4)
    ]
    with pytest.MonkeyPatch.context() as patch, open_index(f"sqlite://{folder}/index.db") as index:
        patch.syspath_prepend(str(folder))
        lab = Lab(folder, index, "lab_encoders_tuned")
        materialise_labels(long_labels(shown), LabelColumns(("video_id",)), lab.storage, labels_id="shown")
        lab.write_spec(
            ('table = "shown"', 'table = "shown"\nid = "shown"'), ("[as_of.history]", SPACE + "\n[as_of.history]")
        )
        index_uri = f"sqlite://{folder}/index.db"
        (folder / "delorean.toml").write_text(
            f'index = "{index_uri}"\nstorage = "store"\nencoders = ["{lab.module}"]\n'
        )
        lab.run(None)
        yield lab


@pytest.fixture
def study(request: pytest.FixtureRequest) -> str:
    """A study of the test's own."""
    return "".join(letter for letter in request.node.name if letter.isalnum())


def tuned_by(lab: Any, study: str, **changes: Any) -> TuningResult:
    spec = lab.spec
    return tune(replace(spec, tuning=replace(spec.tuning, **changes)), lab.storage, lab.folder, study=study)


def test_the_best_are_measured_on_the_test_part_once_and_the_optimism_is_visible(lab: Any, study: str) -> None:
    result = tuned_by(lab, study)
    assert [trial.state for trial in result.trials] == ["complete"] * 4
    values = sorted((trial.value for trial in result.trials), reverse=True)
    assert [each.validation.value for each in result.candidates] == pytest.approx(values[:2])
    assert result.untuned is not None
    assert result.test_measurements == 2
    best = result.best
    assert result.optimism == pytest.approx(best.validation.value - best.test.value)
    before = (lab.folder / "tuning" / f"{study}.jsonl").read_bytes()
    assert tuned_by(lab, study) == result
    assert (lab.folder / "tuning" / f"{study}.jsonl").read_bytes().startswith(before)
    assert tuned_by(lab, study, trials=5).trials[:4] == result.trials


@pytest.mark.parametrize(("learner", "objective"), [("lightgbm", "binary"), ("xgboost", "binary:logistic")])
@pytest.mark.parametrize("metric", ["log_loss", "mrr"])
def test_trials_are_pruned_by_the_metric_of_the_study(
    lab: Any, study: str, learner: str, objective: str, metric: str
) -> None:
    model = ModelSpec(learner=learner, objective=objective, rounds=10, stop_after=0, threads=1)
    space = {"learning_rate": ParameterRange(0.05, 0.3)}
    spec = replace(lab.spec, model=model, tuning=TuningSpec(space, trials=2, metric=metric, candidates=1))
    tune(spec, lab.storage, lab.folder, study=study)
    opened = Study(study_path(lab.folder, study), {}, spec.tuning.direction)
    for trial in opened.trials("COMPLETE"):
        assert set(trial.intermediate_values) == {5, 10}
        assert trial.intermediate_values[10] == pytest.approx(trial.value, abs=1e-6)  # after the last round
    opened.close()


def test_a_model_that_is_trained_with_the_best_is_the_candidate(lab: Any, study: str) -> None:
    best = tuned_by(lab, study).best
    experiment = tuned(lab.spec, lab.folder, study)
    assert experiment.model.parameters.items() >= best.parameters.items()
    report = train_newest(experiment, lab.storage).report
    for part, estimate in (("validation", best.validation), ("test", best.test)):
        assert report.metrics["model"][part].ndcg_at_10 == pytest.approx(estimate.value, abs=1e-6)


def test_the_parameters_that_come_out_are_those_of_a_spec(lab: Any, study: str) -> None:
    import tomllib

    result = tuned_by(lab, study)
    assert tomllib.loads(result.toml) == {"model": {"parameters": dict(result.best.parameters)}}


@pytest.mark.program
def test_workers_fit_as_many_trials_and_never_have_the_test_part(lab: Any, study: str) -> None:
    result = tuned_by(lab, study, workers=2, trials=6)
    assert [trial.state for trial in result.trials] == ["complete"] * 6
    assert result.best.test.value is not None


@pytest.mark.program
def test_a_command_that_is_killed_goes_on_where_it_stopped(lab: Any, study: str) -> None:
    command = [sys.executable, "-m", "delorean", "tune", "lab.toml", "--study", study, "--trials", "2000", "--json"]
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    process = subprocess.Popen(command, cwd=lab.folder, env={**os.environ, "PYTHONPATH": paths})
    journal = lab.folder / "tuning" / f"{study}.jsonl"
    try:
        while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b'"seconds"') >= 3):
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = journal.read_bytes().count(b'"seconds"')
    result = tuned_by(lab, study, trials=done + 2)
    assert sum(trial.state == "complete" for trial in result.trials) == done + 2


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments])


def test_the_command_prints_what_the_project_returns(lab: Any, study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lab.folder)
    result = run("tune", "lab.toml", "--study", study, "--json")
    assert result.exit_code == 0, result.output
    fields = json.loads(result.stdout)
    with open_project(lab.folder) as project:
        again = project.tune("lab", study)
        trained = project.train("lab", tuned=study)
    assert fields == json.loads(json.dumps(again.to_json()))
    assert trained.report.metrics["model"]["test"].ndcg_at_10 == pytest.approx(fields["candidates"][0]["test"]["value"])
    text = run("tune", "lab.toml", "--study", study).stdout
    for part in ("better where it was chosen", "as in the spec", "[model.parameters]", "candidates"):
        assert part in text
    packaged = run("train", "lab.toml", "--package", "packages/one", "--tuned", study, "--json")
    assert packaged.exit_code == 0, packaged.output
    evaluation = json.loads(packaged.stdout)["evaluation"]
    assert evaluation["parts"]["test"]["metrics"]["ndcg@10"]["low"] is not None
    assert [each["name"] for each in evaluation["encoders"]] == ["minutes_watched", "mood_known"]


def test_a_report_is_shown_as_text_and_as_html(lab: Any) -> None:
    trained = train_newest(lab.spec, lab.storage)
    for rendered in (to_text(trained), to_html(trained)):
        for part in ("ndcg@10", "reliability", "what encoders contribute", "minutes_watched", "over popularity"):
            assert part in rendered
    assert "●" in to_text(trained.report.evaluation)
    assert "dl-interval" in to_html(trained.report)


def test_a_study_of_another_spec_is_an_error_that_names_the_difference(lab: Any, study: str) -> None:
    tuned_by(lab, study)
    spec = lab.spec
    wider = {**spec.tuning.space, "learning_rate": ParameterRange(0.01, 0.9, log=True)}
    with pytest.raises(ConfigError, match=r"space\.learning_rate\.high was 0\.5, is 0\.9"):
        tuned_by(lab, study, space=wider)
    with pytest.raises(ConfigError, match="metric was 'ndcg@10', is 'mrr'"):
        tuned_by(lab, study, metric="mrr")
    with pytest.raises(ConfigError, match="metric was 'ndcg@10', is 'mrr'"):
        tuned(replace(spec, tuning=replace(spec.tuning, metric="mrr")), lab.folder, study)
    with pytest.raises(ConfigError, match=r"split\.shares"):
        tune(replace(spec, split=replace(spec.split, shares=(0.6, 0.2, 0.2))), lab.storage, lab.folder, study=study)
    lab.run(None, recompute=True)  # another version of the same features
    with pytest.raises(ConfigError, match=r"feature set.version was \d+, is"):
        tuned_by(lab, study)
    assert tune(spec, lab.storage, lab.folder, study=f"{study}2").study.endswith("2.jsonl")


def test_a_search_without_space_or_with_an_unknown_parameter_is_an_error_before_any_trial(lab: Any, study: str) -> None:
    with pytest.raises(ConfigError, match="names no parameters to tune"):
        tuned_by(lab, study, space={})
    with pytest.raises(ConfigError, match="learnin_rate"):
        tuned_by(lab, study, space={"learnin_rate": ParameterRange(0.1, 0.2)})
    assert not (lab.folder / "tuning" / f"{study}.jsonl").exists()


def test_a_search_whose_trials_all_fail_says_why(lab: Any, study: str) -> None:
    with pytest.raises(TrainingError, match=r"none of 2 trials of .* has succeeded, the last with: .*max_iter"):
        tuned_by(lab, study, space={"max_iter": ParameterRange(-3, -1)}, trials=2)


def test_an_unknown_study_is_an_error_that_names_the_command(lab: Any) -> None:
    with pytest.raises(MissingFileError, match="there is no study .*nothing.jsonl → delorean tune"):
        tuned(lab.spec, lab.folder, "nothing")
    with pytest.raises(ConfigError, match="cannot name"):
        tuned(lab.spec, lab.folder, "../other")


def test_tuning_does_not_change_an_experiments_id(lab: Any) -> None:
    spec = lab.spec
    assert replace(spec, tuning=TuningSpec()).id == spec.id


def test_parameters_are_those_of_the_learner_or_of_its_settings() -> None:
    boosted = with_parameters(
        ModelSpec(learner="lightgbm", parameters={"max_bin": 63}), {"num_leaves": 7, "rounds": 20}
    )
    assert (boosted.rounds, dict(boosted.parameters)) == (20, {"max_bin": 63, "num_leaves": 7})
    plain = with_parameters(ModelSpec(seed=3), {"learning_rate": 0.5})
    assert plain.build().get_params()["learning_rate"] == 0.5
    assert plain.build().get_params()["max_iter"] == 200
    assert plain.build().get_params()["random_state"] == 3
    assert with_parameters(ModelSpec(), {}) == ModelSpec()
