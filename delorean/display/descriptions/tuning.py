"""Describes searches for parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from delorean.display.description import describes
from delorean.display.descriptions.evaluation import shown
from delorean.display.parts import Code, Facts, Note, Part, Table
from delorean.tuning.result import Candidate, TuningResult

_ENOUGH = 10  # candidates that were measured on the test part, beyond which its best value is itself a choice


@describes(TuningResult, TuningResult.to_json)
def _tuning(result: TuningResult) -> Iterator[Part]:
    yield Note(
        f"The candidates are the best of {len(result.trials)} trials by {result.metric} on the validation part; "
        "the test part was used only to measure them."
    )
    if result.optimism is not None:
        yield Note(f"The best looks {result.optimism:+.4f} better where it was chosen than on the test part.")
    if result.test_measurements > _ENOUGH:
        yield Note(
            f"{result.test_measurements} candidates of this study have been measured on the test part: do not choose "
            "among them by it.",
            strong=True,
        )
    rows = [_row(str(each.trial), each) for each in result.candidates]
    yield Table([*rows, *([] if result.untuned is None else [_row("as in the spec", result.untuned)])], "candidates")
    yield Facts({"study": result.study, "to paste into the spec": Code(result.toml)})
    trials = [
        {
            "trial": trial.number,
            "state": trial.state,
            result.metric: None if trial.value is None else round(trial.value, 4),
            **trial.parameters,
            "seconds": trial.seconds,
            "error": trial.error,
        }
        for trial in result.trials
    ]
    yield Table(trials, "trials")


def _row(name: str, candidate: Candidate) -> dict[str, Any]:
    return {
        "trial": name,
        "validation": shown(candidate.validation),
        "test": shown(candidate.test),
        **candidate.parameters,
    }
