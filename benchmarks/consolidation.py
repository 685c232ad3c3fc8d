"""One model for four tasks beside a model for each: what every task's ranking gains or loses, and what a score costs.

The tasks have 400, 60, 30 and 60 lists to learn from. The last one is like the others, wants the opposite in part, or
in everything. Each row of the first table is a mean over data of several seeds, of NDCG@10 on lists that were not
learned from. The second table has the processor time of scoring with 180 trees: with all of them, and with the trunk
and a task's own trees out of more.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from rich.table import Table

from benchmarks.load_report import CONSOLE
from benchmarks.task_lists import LISTS, NAMES, task_parts, task_set
from benchmarks.turns import seconds_in_turns
from delorean.evaluation.settings import EvaluationSettings
from delorean.scoring.task_scorers import TaskTreeScorer
from delorean.scoring.tree_scorer import TreeScorer
from delorean.training.consolidation.judgement import judge
from delorean.training.consolidation.learner import TaskLearner
from delorean.training.consolidation.result import ConsolidationReport, Outcome, SharingResult
from delorean.training.consolidation.settings import Consolidation
from delorean.training.learners.lightgbm import LightGBM
from delorean.training.served_model import ServedModel

ADVERSE = (0.0, 0.3, 1.0)
SIZES = (1, 50, 500, 2_000)


def main(arguments: list[str]) -> None:
    """Fit, judge and score, and print both tables."""
    parser = argparse.ArgumentParser("make bench BENCH=consolidation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--lists", type=int, default=300, help="of each task, to measure on")
    parser.add_argument("--rounds", type=int, default=180, help="a third of them the tasks' own")
    options = parser.parse_args(arguments)
    rows = Table(title=f"NDCG@10; {' / '.join(map(str, LISTS))} lists, {options.rounds} trees for each task's score")
    for column in ("last task", "model", *NAMES, "loses", "a loss is not excluded"):
        rows.add_column(column)
    for adverse in ADVERSE:
        for row in quality(adverse, options.seeds, options.lists, options.rounds):
            rows.add_row(*row)
    CONSOLE.print(rows)
    CONSOLE.print(cost(options.rounds))


def quality(adverse: float, seeds: int, lists: int, rounds: int) -> Iterator[tuple[str, ...]]:
    """Yield a row for the models of single tasks, and one for each sharing."""
    reports = [report_of(adverse, seed, lists, rounds) for seed in range(seeds)]
    kind = {0.0: "like the others", 1.0: "the opposite"}.get(adverse, "partly the opposite")
    single = [[task.single.value or 0 for task in report.chosen.tasks] for report in reports]
    yield kind, "one for each task", *_means(single), "", ""
    for place, sharing in enumerate(reports[0].sharings):
        results = [report.sharings[place] for report in reports]
        values = [[task.shared.value or 0 for task in result.tasks] for result in results]
        found = (_counted(results, outcome) for outcome in (Outcome.LOSES, Outcome.UNCLEAR))
        yield kind, sharing.sharing, *_means(values), *found


def report_of(adverse: float, seed: int, lists: int, rounds: int) -> ConsolidationReport:
    """Return the judgement of all sharings on the data of a seed."""
    parts = task_parts(others=lists, adverse=adverse, seed=seed)
    learner = TaskLearner(_learner(rounds), task_set(), Consolidation())
    fitted = learner.fit(parts.train, parts.validation, seed)
    return judge(learner, fitted, parts, EvaluationSettings(), seed)


def cost(rounds: int) -> Table:
    """Return the processor time of scoring rows of one task, with a shared model and with one of equal trees."""
    parts = task_parts()
    fitted = TaskLearner(_learner(rounds), task_set(), Consolidation()).fit(parts.train, parts.validation, 0)
    trees = ServedModel.of(fitted, len(parts.train.names)).trees
    assert trees is not None
    shared, single, whole = TaskTreeScorer(trees), TreeScorer(trees.of_task(1)), TreeScorer(trees.trees)
    table = Table(title=f"µs of one core for the rows of one task; {trees!r}")
    for column in (
        "rows",
        f"a model of {rounds} trees",
        "of the shared model",
        "ratio",
        f"all {trees.trees.trees} trees",
    ):
        table.add_column(column)
    for size in SIZES:
        rows = np.ascontiguousarray(parts.test.features[:size])
        assert (shared.score_task(rows, 1) == single.score(rows)).all()
        repeated = max(1, 4_000 // size)
        ways = {
            "single": partial(_score, repeated, single.score, rows),
            "shared": partial(_score, repeated, shared.score_task, rows, 1),
            "whole": partial(_score, repeated, whole.score, rows),
        }
        seconds = seconds_in_turns(ways, 15, time.thread_time)
        micros = {name: statistics.median(each) / repeated * 1e6 for name, each in seconds.items()}
        ratio = statistics.median(a / b for a, b in zip(seconds["shared"], seconds["single"], strict=True))
        numbers = (micros["single"], micros["shared"])
        table.add_row(str(size), *(f"{each:,.1f}" for each in numbers), f"{ratio:.2f}", f"{micros['whole']:,.1f}")
    return table


def _counted(results: Sequence[SharingResult], outcome: Outcome) -> str:
    """Return the tasks with an outcome, and in how many of the results."""
    tasks = Counter(task.task for result in results for task in result.tasks if task.outcome is outcome)
    return ", ".join(f"{name} {tasks[name]}/{len(results)}" for name in NAMES if tasks[name])


def _score(repeated: int, score: Callable[..., object], *arguments: object) -> None:
    for _ in range(repeated):
        score(*arguments)


def _learner(rounds: int) -> LightGBM:
    return LightGBM("lambdarank", {"num_leaves": 15}, rounds=rounds, stop_after=0, threads=1)


def _means(values: list[list[float]]) -> list[str]:
    return [f"{mean:.3f}" for mean in np.mean(values, axis=0)]
