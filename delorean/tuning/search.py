"""Runs the trials of a study, one at a time, in one process."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from time import monotonic, perf_counter
from typing import Any, TypeAlias

import numpy as np

from delorean.tuning.space import ParameterRange, TuningSpec, Value
from delorean.tuning.study import ERROR, WORKER, Study, imported_optuna
from schemas.errors import ConfigError, TrainingError

OnValue: TypeAlias = Callable[[int, Callable[[], float]], None]
"""called after a round with its number, from 1 on, and what measures it, which is called for some rounds only"""
Objective: TypeAlias = Callable[[Mapping[str, Value], OnValue], float]
_ROUNDS_BETWEEN = 5  # rounds between two values that are recorded: each is a write to disk
_STARTUP = 10  # trials that are random, and that are never pruned


def search(study: Study, spec: TuningSpec, objective: Objective, progress: Callable[[int, int], None]) -> None:
    """Fit trials until there are enough of them or the time is over.

    Any number of processes may search one study. A trial whose fit raises TrainingError or ConfigError is recorded as
    failed, with the reason.

    objective: fits a model with parameters and returns its metric on the validation part; after each round it calls
        back with the same metric so far, where the learner reports rounds, and must let the callback's exception pass
    progress: called with the number of finished trials and of all
    """
    optuna = imported_optuna()
    ends = math.inf if spec.timeout is None else monotonic() + spec.timeout.total_seconds()
    while monotonic() < ends:
        trial = _next_trial(study, spec, optuna)
        if trial is None:
            return
        _run(study, trial, spec, objective, optuna)
        progress(study.finished(), spec.trials)


def _next_trial(study: Study, spec: TuningSpec, optuna: Any) -> Any:
    """Begin the next trial; None if enough are finished or under way."""
    with study.alone():
        study.release_dead()
        begun = study.begun()
        if begun >= spec.trials:
            return None
        # Seeded by the number of trials before it, so that a search that is interrupted proposes the same ones.
        study.study.sampler = optuna.samplers.TPESampler(
            seed=int(np.random.SeedSequence([spec.seed, begun]).generate_state(1)[0]),
            n_startup_trials=_STARTUP,
            constant_liar=spec.workers > 1,
        )
        study.study.pruner = (
            optuna.pruners.MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=2 * _ROUNDS_BETWEEN)
            if spec.pruning
            else optuna.pruners.NopPruner()
        )
        trial = study.study.ask()
        trial.set_user_attr(WORKER, study.worker)
        return trial


def _run(study: Study, trial: Any, spec: TuningSpec, objective: Objective, optuna: Any) -> None:
    states = optuna.trial.TrialState
    parameters = {name: _suggest(trial, name, values) for name, values in spec.space.items()}

    def on_value(number: int, measured: Callable[[], float]) -> None:
        if number % _ROUNDS_BETWEEN == 0:
            trial.report(measured(), number)
            if trial.should_prune():
                raise optuna.TrialPruned

    began = perf_counter()
    try:
        value = objective(parameters, on_value)
        if not math.isfinite(value):
            raise TrainingError.because(f"the metric is {value}")
    except optuna.TrialPruned:
        study.study.tell(trial, state=states.PRUNED)
    except (TrainingError, ConfigError) as error:
        trial.set_user_attr(ERROR, str(error)[:2_000])
        study.study.tell(trial, state=states.FAIL)
    else:
        trial.set_user_attr("seconds", round(perf_counter() - began, 3))
        study.study.tell(trial, value)


def _suggest(trial: Any, name: str, values: ParameterRange) -> Value:
    if values.choices:
        chosen: Value = trial.suggest_categorical(name, values.choices)
    elif values.is_integer:
        chosen = trial.suggest_int(name, values.low, values.high, log=values.log)
    else:
        chosen = trial.suggest_float(name, values.low, values.high, log=values.log)
    return chosen
