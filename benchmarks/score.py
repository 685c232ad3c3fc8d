"""Scores rows with trees: ours beside onnxruntime, pylignum and the learners themselves, in one process on one core.

Each learner trains a model of the same size. All ways score the same rows in turns; the table shows medians of the
thread's processor time, which is the elapsed time of an idle machine. Then a million rows, many of them on thresholds
or missing, are scored by the learner and by us, and compared bit by bit.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm
import lignum
import numpy as np
import onnxruntime
import xgboost
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from benchmarks.turns import seconds_in_turns
from delorean.scoring.conversion import trees_of
from delorean.scoring.onnx_scorer import OnnxScorer
from delorean.scoring.tree_scorer import TreeScorer
from delorean.scoring.trees import TreeEnsemble
from delorean.scoring.trees_onnx import trees_to_onnx

SIZES = (1, 50, 500, 2_000)
TRAINING_ROWS = 50_000
BLOCK = 50_000  # rows of the comparison at a time
OURS = "delorean"

Rows = NDArray[np.float32]
Raw = Callable[[Rows], Any]


def main(arguments: list[str]) -> None:
    """Train, measure, compare and print."""
    parser = argparse.ArgumentParser("make bench BENCH=score", description=__doc__)
    parser.add_argument("--trees", type=int, default=500)
    parser.add_argument("--leaves", type=int, default=31)
    parser.add_argument("--features", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--compared-rows", type=int, default=1_000_000)
    options = parser.parse_args(arguments)
    random = np.random.default_rng(0)
    features = random.normal(size=(TRAINING_ROWS, options.features)).astype(np.float32)
    features[random.random(features.shape) < 0.05] = np.nan
    known = np.nan_to_num(features)
    labels = (known[:, 0] + known[:, 1] * known[:, 2] + random.normal(size=len(known)) > 0).astype(np.int64)
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
        for name, train in LEARNERS.items():
            model, raw, native = train(features, labels, options, Path(folder))
            trees = trees_of(model)
            assert trees is not None
            print_times(name, trees, ways(trees, raw, native, Path(folder)), features, options.repeats)
            compare(name, trees, raw, options.compared_rows)


def train_lightgbm(features: Rows, labels: Any, options: Any, folder: Path) -> tuple[Any, Raw, Path]:
    """Return a model, its own raw scores, and its file."""
    settings = {"objective": "binary", "num_leaves": options.leaves, "num_threads": 1, "verbose": -1}
    model = lightgbm.train(settings, lightgbm.Dataset(features, labels), options.trees)
    model.save_model(folder / "model.txt")
    return model, lambda rows: model.predict(rows, raw_score=True, num_threads=1), folder / "model.txt"


def train_xgboost(features: Rows, labels: Any, options: Any, folder: Path) -> tuple[Any, Raw, Path]:
    """Return a model, its own raw scores, and its file."""
    settings = {
        "objective": "binary:logistic",
        "grow_policy": "lossguide",
        "max_depth": 0,
        "max_leaves": options.leaves,
        "eta": 0.1,
        "nthread": 1,
    }
    model = xgboost.train(settings, xgboost.DMatrix(features, labels), options.trees)
    model.save_model(folder / "model.json")
    return model, lambda rows: model.inplace_predict(rows, predict_type="margin"), folder / "model.json"


def train_sklearn(features: Rows, labels: Any, options: Any, _folder: Path) -> tuple[Any, Raw, None]:
    """Return a model and its own raw scores."""
    model = HistGradientBoostingClassifier(
        max_iter=options.trees, max_leaf_nodes=options.leaves, early_stopping=False, random_state=0
    ).fit(features, labels)
    return model, lambda rows: model._raw_predict(rows, n_threads=1)[:, 0], None


LEARNERS: Mapping[str, Callable[..., Any]] = {
    "LightGBM": train_lightgbm,
    "XGBoost": train_xgboost,
    "scikit-learn": train_sklearn,
}


def ways(trees: TreeEnsemble, raw: Raw, file: Path | None, folder: Path) -> dict[str, Raw]:
    """Return the ways to score the same model; raw scores, except ours and onnxruntime's, which apply the link too."""
    single = replace(trees, single=True, base=float(np.float32(trees.base)), leaf_values=rounded(trees.leaf_values))
    found: dict[str, Raw] = {
        OURS: TreeScorer(trees).score,
        "the learner": raw,
        "onnxruntime, float32": session(trees_to_onnx(single)),
        "ONNX of a package": OnnxScorer(trees_to_onnx(trees)).score,
    }
    if file is not None:
        compiled = lignum.load(str(file))
        compiled.compile(work_dir=str(folder))
        found["pylignum, compiled"] = lambda rows: compiled.predict(rows, True, 1)
    return found


def rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values.astype(np.float32).astype(np.float64)


def session(model: bytes) -> Raw:
    """Return onnxruntime as it is, with all rows in one call."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    opened = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda rows: opened.run(None, {"features": rows})


def print_times(name: str, trees: TreeEnsemble, found: dict[str, Raw], features: Rows, repeats: int) -> None:
    table = Table(title=f"{name}: {trees.trees} trees, {len(trees.leaf_values)} leaves, {trees.features} features")
    table.add_column("milliseconds, median of turns")
    for size in SIZES:
        table.add_column(f"{size:,} rows", justify="right")
    medians = {}
    for size in SIZES:
        rows = np.ascontiguousarray(features[:size])
        calls = {way: (lambda score=score, rows=rows: score(rows)) for way, score in found.items()}
        gc.disable()
        taken = seconds_in_turns(calls, repeats, time.thread_time)
        gc.enable()
        medians[size] = {way: statistics.median(seconds) * 1e3 for way, seconds in taken.items()}
    for way in found:
        cells = []
        for size in SIZES:
            ratio = medians[size][way] / medians[size][OURS]
            cells.append(f"{medians[size][way]:.3f}" + ("" if way == OURS else f" ({ratio:.1f} ×)"))
        table.add_row(way, *cells)
    Console(width=120).print(table)


def compare(name: str, trees: TreeEnsemble, raw: Raw, count: int) -> None:
    """Compare sums with the learner's, bit by bit."""
    random = np.random.default_rng(1)
    plain, different = TreeScorer(replace(trees, link="identity", scale=1.0)), 0
    by_feature = [trees.threshold[trees.feature == feature] for feature in range(trees.features)]
    for start in range(0, count, BLOCK):
        rows = random.normal(size=(min(BLOCK, count - start), trees.features)).astype(np.float32)
        for column, thresholds in enumerate(by_feature):
            chosen = np.flatnonzero(random.random(len(rows)) < 0.2)
            if len(thresholds):
                near = random.choice(thresholds, len(chosen))
                ends = random.choice(np.float32([-np.inf, np.inf]), len(chosen))
                rows[chosen, column] = np.where(random.random(len(chosen)) < 0.5, near, np.nextafter(near, ends))
        rows[random.random(rows.shape) < 0.05] = np.nan
        theirs = np.asarray(raw(rows), np.float64).astype(np.float32)
        different += int((plain.score(rows).view(np.uint32) != theirs.view(np.uint32)).sum())
    Console(width=120).print(f"{name}: {different} of {count:,} rows have another raw score than the learner's\n")
    assert different == 0
