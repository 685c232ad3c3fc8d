"""Searches for the parameters of an experiment's model, and measures the best on the test part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from delorean.evaluation.estimate import Estimate
from delorean.evaluation.measure import PartScores
from delorean.evaluation.part_measurement import estimate_of, value_of
from delorean.evaluation.settings import EvaluationSettings
from delorean.experiment.model_spec import ModelSpec
from delorean.experiment.spec import ExperimentSpec
from delorean.experiment.steps import generated_features, learning_source
from delorean.labels import load_labels
from delorean.ranking_data.ranking_data import RankingData
from delorean.ranking_data.split import SplitParts
from delorean.tasks.task_set import TaskSet, recorded_tasks
from delorean.training.candidate import fit_candidate
from delorean.training.consolidation.settings import Consolidation
from delorean.training.consolidation.task_weights import measured_by_task
from delorean.training.learners import OnRound
from delorean.tuning.result import Candidate, Trial, TuningResult
from delorean.tuning.search import OnValue, search
from delorean.tuning.space import TuningSpec, Value
from delorean.tuning.study import ERROR, Study
from delorean.tuning.workers import run_workers
from schemas.errors import ConfigError, MissingFileError, TrainingError
from snapshotter.spark.progress import Progress, shown_progress
from snapshotter.storage import Storage, require_plain_name

FOLDER = "tuning"
_TESTED = "tested"  # a study's attribute: trial → its measurements on both parts, made once
_UNTUNED = "untuned"
_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
_DEFAULT_TREES = "sklearn.ensemble:HistGradientBoostingClassifier"
_OF_SPEC = ("objective", "rounds", "stop_after", "impute")  # fields of [model] that a space may name


@dataclass(frozen=True)
class SearchRequest:
    """What a worker needs besides the data: as JSON between processes."""

    study: str
    identity: dict[str, Any]
    tuning: TuningSpec
    model: ModelSpec
    tasks: TaskSet | None = None
    consolidation: Consolidation = field(default_factory=Consolidation)

    def fit(
        self,
        train: RankingData,
        validation: RankingData,
        parameters: Mapping[str, Value] | None,
        on_round: OnRound | None = None,
    ) -> PartScores:
        """Fit the model with parameters; None: as the spec has it."""
        model = self.model if parameters is None else with_parameters(self.model, parameters)
        seed = self.model.seed
        return fit_candidate(model.build(), train, validation, seed, on_round, self.tasks, self.consolidation)

    def measured_on(self, part: RankingData, name: str) -> RankingData:
        """Return a part as it is measured: with tasks, the mean of the tasks' metrics counts."""
        return part if self.tasks is None else measured_by_task(part, self.tasks, name)


def tune(
    experiment: ExperimentSpec,
    storage: Storage,
    folder: Path,
    *,
    study: str | None = None,
    run_id: str | None = None,
    progress: Progress | None = None,
) -> TuningResult:
    """Search for the parameters of an experiment's model on the features that were generated for it.

    Trials are fitted on the training part and measured on the validation part only. Once they are done, the best
    candidates, and the model of the spec as it is, are measured on the test part, each once: a search that is started
    again repeats no measurement. Of a model of several tasks, the mean of the tasks' metrics is measured.

    folder: of the project; the study is a file in its `tuning` folder, which all workers must be able to write to
    study: its name; None: the experiment's
    run_id: of the generation; None: the newest version of the feature set
    progress: called with (what, finished trials, all); None: a bar in a notebook or at a prompt

    Raises ConfigError for a spec without a space, for a study of another search, and if Optuna is not installed;
    TrainingError if no trial succeeds.
    """
    spec = experiment.tuning
    if not spec.space:
        raise ConfigError.because(
            f"experiment '{experiment.name}' names no parameters to tune",
            "write [tuning.space] with learning_rate = { low = 0.01, high = 0.3, log = true }",
        )
    with_parameters(experiment.model, _first(spec)).build()  # wrong names are an error before any trial
    uri, version, lineage = generated_features(experiment, storage, run_id)
    identity = _identity(experiment, uri, version, lineage)
    path = study_path(folder, study or experiment.name)
    opened = Study(path, identity, spec.direction)
    try:
        labels = load_labels(lineage["labels"], storage)
        parts = learning_source(experiment, labels, uri, version).parts(experiment.split)
        with shown_progress(progress) as shown:
            tasks = recorded_tasks(lineage)
            request = SearchRequest(str(path), identity, spec, experiment.model, tasks, experiment.consolidation)
            _search(opened, request, parts, lambda done, of: shown(f"tuning {experiment.name}, trials", done, of))
        return _measured(opened, experiment, parts, request)
    finally:
        opened.close()


def tuned(experiment: ExperimentSpec, folder: Path, study: str) -> ExperimentSpec:
    """Return the experiment with the best parameters of a study, by the validation part.

    Raises ConfigError if there is no such study, or it is of another spec.
    """
    path = study_path(folder, study)
    if not path.exists():
        raise MissingFileError.because(f"there is no study {path}", f"delorean tune SPEC --study {study}")
    opened = Study(path, _of_spec(experiment), experiment.tuning.direction)
    try:
        best = _best(opened, experiment.tuning, 1)
        return replace(experiment, model=with_parameters(experiment.model, best[0].params))
    finally:
        opened.close()


def study_path(folder: Path, study: str) -> Path:
    """Return the path of a study's journal. Raises ConfigError for a name that is no file's."""
    require_plain_name("study", study)
    return folder / FOLDER / f"{study}.jsonl"


def with_parameters(model: ModelSpec, parameters: Mapping[str, Value]) -> ModelSpec:
    """Return a model with other parameters; those that it has keep their values unless they are named."""
    fields: dict[str, Any] = {name: value for name, value in parameters.items() if name in _OF_SPEC}
    others = {name: value for name, value in parameters.items() if name not in fields}
    if model.learner == "scikit-learn" and model.estimator is None and parameters:
        from delorean.training.learners.scikit_learn import default_model

        defaults = default_model(model.seed).get_params()
        chosen = {name: value for name, value in defaults.items() if isinstance(value, str | int | float | bool)}
        model = replace(model, estimator=_DEFAULT_TREES, parameters=chosen)
    return replace(model, **fields, parameters={**model.parameters, **others})


def search_parts(study: Study, request: SearchRequest, train: RankingData, validation: RankingData, shown: Any) -> None:
    """Run trials in this process."""
    spec, measured = request.tuning, request.measured_on(validation, "validation")

    def metric(scores: NDArray[np.float32]) -> float:
        return value_of(spec.metric, scores, measured, spec.at)

    def objective(parameters: Mapping[str, Value], on_value: OnValue) -> float:
        def on_round(number: int, scores: NDArray[np.float32]) -> None:
            on_value(number, lambda: metric(scores))

        score = request.fit(train, validation, parameters, on_round if spec.pruning else None)
        return metric(score(validation))

    search(study, spec, objective, shown)


def _search(study: Study, request: SearchRequest, parts: SplitParts, shown: Any) -> None:
    spec = request.tuning
    missing = spec.trials - study.finished()
    if missing <= 0:
        return
    if spec.workers == 1:
        search_parts(study, request, parts.train, parts.validation, shown)
        return
    run_workers(
        "delorean.experiment.tuning_worker",
        msgspec.json.encode(request),
        (parts.train, parts.validation),
        min(spec.workers, missing),
        lambda: shown(study.finished(), spec.trials),
    )


def _measured(study: Study, experiment: ExperimentSpec, parts: SplitParts, request: SearchRequest) -> TuningResult:
    """Measure the best candidates on both parts, those that have not been yet."""
    spec = experiment.tuning
    best = _best(study, spec, spec.candidates)
    settings = replace(experiment.evaluation, at=spec.at)
    candidates = [_candidate(study, request, parts, settings, trial.number, trial.params) for trial in best]
    try:
        untuned = _candidate(study, request, parts, settings, None, {})
    except TrainingError:
        untuned = None  # perhaps the spec's own parameters cannot be fitted, which is why they are tuned
    tested = study.study.user_attrs[_TESTED]
    return TuningResult(
        str(study.path),
        spec.metric,
        tuple(_trial(trial) for trial in study.trials()),
        tuple(candidates),
        untuned,
        len(tested) - (_UNTUNED in tested),
    )


def _candidate(
    study: Study,
    request: SearchRequest,
    parts: SplitParts,
    settings: EvaluationSettings,
    number: int | None,
    parameters: Mapping[str, Value],
) -> Candidate:
    key = _UNTUNED if number is None else str(number)
    recorded = dict(study.study.user_attrs.get(_TESTED, {}))
    if key not in recorded:
        score = request.fit(parts.train, parts.validation, None if number is None else parameters)
        measured = {}
        for name, part in (("validation", parts.validation), ("test", parts.test)):
            counted = request.measured_on(part, name)
            measured[name] = msgspec.to_builtins(estimate_of(request.tuning.metric, score(part), counted, settings))
        with study.alone():
            recorded = {**study.study.user_attrs.get(_TESTED, {}), key: measured}
            study.study.set_user_attr(_TESTED, recorded)
    values = {name: msgspec.convert(each, Estimate) for name, each in recorded[key].items()}
    return Candidate(number, dict(parameters), values["validation"], values["test"])


def _best(study: Study, spec: TuningSpec, most: int) -> list[Any]:
    """Return the best complete trials with different parameters. Raises TrainingError if no trial is complete."""
    complete = sorted(study.trials("COMPLETE"), key=lambda trial: trial.value, reverse=spec.direction == "maximize")
    if not complete:
        errors = [trial.user_attrs[ERROR] for trial in study.trials("FAIL") if ERROR in trial.user_attrs]
        raise TrainingError.because(
            f"none of {len(study.trials())} trials of {study.path} has succeeded"
            + (f", the last with: {errors[-1]}" if errors else ""),
            "correct the space, or give the search more time",
        )
    distinct: dict[str, Any] = {}
    for trial in complete:
        distinct.setdefault(repr(sorted(trial.params.items())), trial)
    return list(distinct.values())[:most]


def _trial(trial: Any) -> Trial:
    state = trial.state.name
    return Trial(
        trial.number,
        _STATES.get(state, state.lower()),
        trial.value if state == "COMPLETE" else None,
        dict(trial.params),
        trial.user_attrs.get("seconds"),
        trial.user_attrs.get(ERROR),
    )


def _first(spec: TuningSpec) -> dict[str, Value]:
    """Return one value of each parameter."""
    return {name: values.choices[0] if values.choices else values.low for name, values in spec.space.items()}


def _identity(experiment: ExperimentSpec, uri: str, version: int, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes two searches the same: their values are not comparable otherwise."""
    return {
        "feature set": {"uri": uri, "version": version, "labels": lineage["labels"]},
        **_of_spec(experiment),
    }


def _of_spec(experiment: ExperimentSpec) -> dict[str, Any]:
    spec = experiment.to_json()
    sharing = {"consolidation": spec.get("consolidation", {})} if experiment.tasks else {}
    return {
        **sharing,
        "split": spec.get("split", {}),
        "model": spec.get("model", {}),
        "space": msgspec.to_builtins(experiment.tuning.space),
        "metric": experiment.tuning.metric,
        "seed": experiment.tuning.seed,
    }
