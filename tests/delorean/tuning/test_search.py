"""Studies are real journals on disk; the objective is a function whose best parameters are known."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delorean.tuning.journal import JournalFile
from delorean.tuning.search import OnValue, search
from delorean.tuning.space import ParameterRange, TuningSpec
from delorean.tuning.study import ERROR, Study
from schemas.errors import ConfigError, CorruptFileError, TrainingError

SPACE = {
    "rate": ParameterRange(0.01, 1.0, log=True),
    "leaves": ParameterRange(2, 64),
    "kind": ParameterRange(choices=("a", "b", None)),
}
IDENTITY = {"data": {"version": 3}, "space": {"rate": [0.01, 1.0]}}


def objective(parameters: Mapping[str, Any], on_value: OnValue | None = None) -> float:
    del on_value
    return -abs(parameters["rate"] - 0.1) - abs(parameters["leaves"] - 30) / 100 + (parameters["kind"] == "b") / 10


def run(path: Path, spec: TuningSpec, objective: Any = objective) -> list[tuple[Any, ...]]:
    """Search, and return the trials that have an outcome."""
    study = Study(path, IDENTITY, spec.direction)
    try:
        search(study, spec, objective, lambda done, of: None)
        return [
            (trial.state.name, trial.value, tuple(trial.params.items()))
            for trial in study.trials()
            if trial.number not in study.dead
        ]
    finally:
        study.close()


def test_a_search_comes_near_the_best_parameters_and_stays_in_the_space(tmp_path: Path) -> None:
    trials = run(tmp_path / "s.jsonl", TuningSpec(SPACE, trials=60))
    assert len(trials) == 60
    best = dict(max(trials, key=lambda trial: trial[1])[2])
    assert best["kind"] == "b"
    assert best["rate"] == pytest.approx(0.1, abs=0.05)
    for _, _, parameters in trials:
        chosen = dict(parameters)
        assert 0.01 <= chosen["rate"] <= 1
        assert chosen["leaves"] in range(2, 65)


def test_a_metric_that_is_better_when_lower_is_minimised(tmp_path: Path) -> None:
    spec = TuningSpec({"x": ParameterRange(-1.0, 1.0)}, trials=40, metric="log_loss")
    trials = run(tmp_path / "s.jsonl", spec, lambda parameters, _: (parameters["x"] - 0.5) ** 2)
    values = [trial[1] for trial in trials]
    assert sum(values[20:]) < sum(values[:20])


def test_equal_seeds_propose_equal_trials_and_others_do_not(tmp_path: Path) -> None:
    first, again, other = (
        run(tmp_path / f"{name}.jsonl", TuningSpec(SPACE, trials=15, seed=seed))
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert first == again
    assert first != other


def test_a_search_goes_on_where_it_stopped_and_proposes_what_it_would_have(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole.jsonl", TuningSpec(SPACE, trials=16))
    run(tmp_path / "parts.jsonl", TuningSpec(SPACE, trials=6))
    assert run(tmp_path / "parts.jsonl", TuningSpec(SPACE, trials=16)) == whole
    assert run(tmp_path / "parts.jsonl", TuningSpec(SPACE, trials=16)) == whole  # nothing is left to do


def _die_in_the_fourth(path: str) -> None:
    calls = [0]

    def dying(parameters: Mapping[str, Any], on_value: OnValue) -> float:
        calls[0] += 1
        if calls[0] == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return objective(parameters, on_value)

    run(Path(path), TuningSpec(SPACE, trials=16), dying)


def test_a_search_that_was_killed_repeats_only_the_trial_under_way(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole.jsonl", TuningSpec(SPACE, trials=16))
    process = multiprocessing.get_context("fork").Process(target=_die_in_the_fourth, args=(str(tmp_path / "s.jsonl"),))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    began = time.monotonic()
    assert run(tmp_path / "s.jsonl", TuningSpec(SPACE, trials=16)) == whole
    assert time.monotonic() - began < 25  # Optuna's own file waits 30 s for a dead process' lock
    assert not list(tmp_path.glob("s.*.worker"))


def _search_in_process(path: str, workers: int) -> None:
    run(Path(path), TuningSpec(SPACE, trials=30, workers=workers))


def test_processes_share_a_study_and_fit_exactly_as_many_trials_as_requested(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    arguments = (str(tmp_path / "s.jsonl"), 3)
    processes = [context.Process(target=_search_in_process, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    trials = run(tmp_path / "s.jsonl", TuningSpec(SPACE, trials=30))
    assert [trial[0] for trial in trials] == ["COMPLETE"] * 30
    assert len({trial[2] for trial in trials}) == 30


def test_a_trial_of_a_worker_that_lives_is_left_alone(tmp_path: Path) -> None:
    mine, other = (Study(tmp_path / "s.jsonl", IDENTITY, "maximize") for _ in range(2))
    trial = other.study.ask()
    trial.set_user_attr("worker", other.worker)
    mine.release_dead()
    assert len(mine.trials("RUNNING")) == 1
    other.close()
    mine.release_dead()
    assert mine.trials("RUNNING") == []
    assert (mine.dead, mine.finished()) == ([trial.number], 0)
    mine.close()


def test_trials_that_cannot_be_fitted_are_recorded_with_the_reason_and_count(tmp_path: Path) -> None:
    def failing(parameters: Mapping[str, Any], on_value: OnValue) -> float:
        if parameters["leaves"] > 30:
            raise TrainingError.because("too many leaves")
        return float("nan") if parameters["leaves"] < 10 else objective(parameters, on_value)

    trials = run(tmp_path / "s.jsonl", TuningSpec(SPACE, trials=20), failing)
    assert {trial[0] for trial in trials} == {"COMPLETE", "FAIL"}
    study = Study(tmp_path / "s.jsonl", IDENTITY, "maximize")
    reasons = {trial.user_attrs[ERROR] for trial in study.trials("FAIL")}
    study.close()
    assert reasons == {"too many leaves", "the metric is nan"}


def test_trials_that_learn_nothing_are_ended_early(tmp_path: Path) -> None:
    rounds: list[int] = []
    measured: list[int] = []

    def boosting(parameters: Mapping[str, Any], on_value: OnValue) -> float:
        value = 0.0
        for number in range(1, 101):
            value = parameters["x"] * number / 100
            rounds.append(number)

            def measure(value: float = value, number: int = number) -> float:
                measured.append(number)
                return float(value)

            on_value(number, measure)
        return float(value)

    space = {"x": ParameterRange(0.0, 1.0)}
    states = [trial[0] for trial in run(tmp_path / "s.jsonl", TuningSpec(space, trials=30), boosting)]
    assert states[:10] == ["COMPLETE"] * 10
    assert "PRUNED" in states
    assert len(rounds) < 30 * 100
    assert {number % 5 for number in measured} == {0}  # measuring takes as long as a round
    rounds.clear()
    assert "PRUNED" not in {
        trial[0] for trial in run(tmp_path / "all.jsonl", TuningSpec(space, trials=30, pruning=False), boosting)
    }


@pytest.mark.parametrize(
    ("identity", "problem"),
    [
        ({**IDENTITY, "data": {"version": 4}}, r"data\.version was 3, is 4"),
        ({**IDENTITY, "space": {"rate": [0.01, 2.0]}}, r"space\.rate was \[0.01, 1.0\], is \[0.01, 2.0\]"),
        ({**IDENTITY, "metric": "mrr"}, "metric was None, is 'mrr'"),
    ],
)
def test_a_study_of_another_search_is_an_error_that_names_the_difference(
    tmp_path: Path, identity: dict[str, Any], problem: str
) -> None:
    run(tmp_path / "s.jsonl", TuningSpec(SPACE, trials=2))
    with pytest.raises(ConfigError, match=f"is of another search: {problem} → undo the change, or begin another study"):
        Study(tmp_path / "s.jsonl", identity, "maximize")


operations = st.lists(
    st.fixed_dictionaries({"op_code": st.integers(0, 10), "text": st.text(max_size=20)}), min_size=1, max_size=8
)


@settings(max_examples=60, deadline=None)
@given(operations, operations, st.data())
def test_a_line_that_was_not_finished_is_cut_off_and_everything_else_is_kept(
    tmp_path_factory: pytest.TempPathFactory, before: list[Any], after: list[Any], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("journal") / "s.jsonl"
    JournalFile(path).append_logs(before)
    line = json.dumps({"op_code": 1, "text": "x" * 50}).encode() + b"\n"
    torn = line[: data.draw(st.integers(0, len(line) - 1))]
    with path.open("ab") as file:
        file.write(torn)
    reader = JournalFile(path)
    assert list(reader.read_logs(0)) == before
    JournalFile(path).append_logs(after)
    assert list(reader.read_logs(len(before))) == after
    assert list(JournalFile(path).read_logs(0)) == before + after


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\x80\x04pickle\n", "is not JSON in line 1"),
        (b'["no operation"]\n', "has no operation of a study in line 1"),
        (b'{"op_code": 99}\n', "has no operation of a study in line 1"),
        (b'{"op_code": 0, "worker_id": "w"}\n', "cannot be read: KeyError"),
        (b"x" * (2 << 20), "has a line of more than 1 MB"),
        (b"[" * 100_000 + b"\n", "is not JSON in line 1"),
    ],
)
def test_a_file_that_is_no_journal_is_an_error_that_names_the_file(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=problem):
        Study(path, IDENTITY, "maximize")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"low": 1.0}, "no range"),
        ({"low": 2, "high": 1}, "low < high"),
        ({"low": 0.0, "high": 1.0, "log": True}, "above 0"),
        ({"low": float("nan"), "high": 1.0}, "finite"),
        ({"low": 1, "high": 2, "choices": ("a",)}, "choices and a range"),
        ({"choices": ("a", "a")}, "repeat a value"),
    ],
)
def test_ranges_without_values_are_rejected(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        ParameterRange(**fields)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"trials": 0}, "trials is 0"),
        ({"metric": "ndgc@10"}, "unknown metric 'ndgc@10' → did you mean 'ndcg@10'"),
        ({"metric": "ndcg@0"}, "unknown metric"),
        ({"workers": 0}, "workers is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_searches_that_cannot_run_are_rejected(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        TuningSpec(SPACE, **fields)
