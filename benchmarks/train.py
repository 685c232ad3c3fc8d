"""Training 5 million items of 30 features with LightGBM: by LightGBM alone and through DeLorean, on the same arrays.

Both fit the same rounds by lambdarank and measure NDCG@10 of the validation part after each. Each way has a process of
its own; shown are its processor time, by which it is judged because other programs slow the clock, and its memory: the
peak of all, and of what the system cannot evict. Ended with 1 when DeLorean's fit takes more than 1.1 times the time or
1.3 times the memory of LightGBM alone. `delorean.train` also fits the baselines and evaluates the model.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.load_report import CONSOLE, Verdict, show
from delorean.ranking_data.feature_set_reader import RankingColumns, read_parts
from delorean.ranking_data.ranking_data import RankingData
from delorean.ranking_data.split import Split, SplitParts
from delorean.training.fitting import train
from delorean.training.learners.lightgbm import LightGBM

MOST_TIME, MOST_MEMORY = 1.1, 1.3
PER_CONTEXT, FEATURES = 20, 30
NAMES = tuple(f"f{i}" for i in range(FEATURES))
COLUMNS = RankingColumns(NAMES, ("video_id",), ("profile_id",))


def main(arguments: list[str]) -> None:
    """Write the data, run each way in a process and print the table."""
    parser = argparse.ArgumentParser("make bench BENCH=train", description=__doc__)
    parser.add_argument("--items", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="train-") as folder:
        write_data(Path(folder), options.items // PER_CONTEXT)
        results: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for _ in range(options.repeats):
            for way in WAYS:
                results[way].append(in_a_process(way, folder, options.rounds, options.threads))
    report(results, options.items)


def write_data(folder: Path, contexts: int) -> None:
    """Write the same data as arrays and as a feature set, whose files are not in the order of time."""
    times = np.arange(contexts)
    with open(folder / "features.npy", "wb") as file:
        np.lib.format.write_array_header_2_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (contexts * PER_CONTEXT, FEATURES)}
        )
        labels = [write_batch(folder, file, batch) for batch in np.array_split(times, max(1, contexts // 16_384))]
    np.save(folder / "labels.npy", np.concatenate(labels))


def write_batch(folder: Path, file: Any, times: NDArray[np.int64]) -> NDArray[np.float32]:
    """Write some contexts to both, and return their labels."""
    random = np.random.default_rng(int(times[0]))
    items = len(times) * PER_CONTEXT
    features = random.normal(size=(items, FEATURES)).astype(np.float32)
    features[random.random(features.shape) < 0.05] = np.nan
    known = np.nan_to_num(features)
    labels = (known[:, 0] + known[:, 1] * known[:, 2] + random.normal(size=items) > 1.5).astype(np.float32)
    file.write(features.tobytes())
    offsets = pa.array(np.arange(0, items + 1, PER_CONTEXT), pa.int32())
    lists = {"video_id": random.integers(0, 10_000, items), "label": labels}
    columns = {
        "profile_id": pa.array(times),
        "time": pa.array(times).cast(pa.timestamp("us", "UTC")),
        **{name: pa.ListArray.from_arrays(offsets, pa.array(values)) for name, values in lists.items()},
        **{
            name: pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(features[:, i])))
            for i, name in enumerate(NAMES)
        },
    }
    write_deltalake(str(folder / "set"), pa.table(columns), mode="append")
    return labels


def loaded(folder: str) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    """Return features, labels, and the number of items of the training part."""
    features, labels = np.load(Path(folder) / "features.npy"), np.load(Path(folder) / "labels.npy")
    return features, labels, int(len(labels) // PER_CONTEXT * 0.8) * PER_CONTEXT


def alone(folder: str, rounds: int, threads: int) -> None:
    """Fit by LightGBM's own functions."""
    import lightgbm

    features, labels, end = loaded(folder)
    groups = [PER_CONTEXT]
    data = lightgbm.Dataset(features[:end], labels[:end], group=groups * (end // PER_CONTEXT))
    held_out = data.create_valid(features[end:], labels[end:], group=groups * ((len(labels) - end) // PER_CONTEXT))
    parameters = {"objective": "lambdarank", "metric": "ndcg", "eval_at": [10], "num_threads": threads, "verbosity": -1}
    stop = lightgbm.early_stopping(rounds, verbose=False)
    lightgbm.train(parameters, data, rounds, valid_sets=[held_out], callbacks=[stop])


def parts_of(folder: str) -> SplitParts:
    """Return the same arrays as parts."""
    features, labels, end = loaded(folder)
    contexts = len(labels) // PER_CONTEXT
    ids = np.arange(contexts)
    data = RankingData(
        pa.table({"profile_id": ids, "time": pa.array(ids).cast(pa.timestamp("us", "UTC"))}),
        pa.table({"video_id": np.arange(len(labels)) % 10_000}),
        np.arange(0, len(labels) + 1, PER_CONTEXT),
        labels,
        features,
        NAMES,
    )
    first = end // PER_CONTEXT
    validation = data.between(first, contexts)
    return SplitParts(data.between(0, first), validation, validation, 0)


def learner_of(rounds: int, threads: int) -> LightGBM:
    """Return our learner with the settings that LightGBM has alone."""
    return LightGBM("lambdarank", rounds=rounds, stop_after=rounds, threads=threads)


def fit(folder: str, rounds: int, threads: int) -> None:
    """Fit by our learner."""
    parts = parts_of(folder)
    learner_of(rounds, threads).fit(parts.train, parts.validation, 0)


def fit_feature_set(folder: str, rounds: int, threads: int) -> None:
    """Fit by our learner from the Delta table, with features in a mapped file."""
    parts = read_parts(f"{folder}/set", COLUMNS, Split((0.8, 0.199, 0.001)), in_memory=0)
    learner_of(rounds, threads).fit(parts.train, parts.validation, 0)


def train_all(folder: str, rounds: int, threads: int) -> dict[str, float]:
    """Fit, measure and compare with baselines; return the seconds of each step."""
    return dict(train(parts_of(folder), Split(), learner_of(rounds, threads)).report.seconds)


WAYS: dict[str, Callable[[str, int, int], dict[str, float] | None]] = {
    "LightGBM alone": alone,
    "our learner": fit,
    "our learner, from Delta, mapped": fit_feature_set,
    "delorean.train": train_all,
}


def in_a_process(way: str, folder: str, rounds: int, threads: int) -> dict[str, Any]:
    """Run a way in a new process, and return what it took."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(way, folder, rounds, threads, sending))
    process.start()
    sending.close()
    try:
        result: dict[str, Any] = json.loads(receiving.recv())
    except EOFError:
        sys.exit(f"{way} failed")
    process.join()
    return result


def run(way: str, folder: str, rounds: int, threads: int, sending: Any) -> None:
    """Run a way in this process, and send what it took."""
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            peak[0] = max(peak[0], status("RssAnon"))

    thread = threading.Thread(target=watch)
    thread.start()
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    steps = WAYS[way](folder, rounds, threads)
    used = resource.getrusage(resource.RUSAGE_SELF)
    ended.set()
    thread.join()
    taken = {
        "cpu": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
        "wall": time.perf_counter() - start,
        "peak": status("VmHWM"),
        "anonymous": peak[0],
        "steps": steps,
    }
    sending.send(json.dumps(taken))


def status(field: str) -> int:
    """Return a field of this process's memory, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) >> 10


def report(results: dict[str, list[dict[str, Any]]], items: int) -> None:
    """Print the table of the fastest runs, and end with 1 where DeLorean needs too much."""
    best = {way: min(runs, key=lambda run: run["cpu"]) for way, runs in results.items()}
    base = best["LightGBM alone"]
    table = Table(title=f"{items:,} items × {FEATURES} features")
    for column in ("", "processor s", "wall s", "peak MiB", "not evictable MiB", "time ×", "memory ×"):
        table.add_column(column, justify="right" if column else "left")
    for way, taken in best.items():
        seconds = (f"{taken[field]:,.1f}" for field in ("cpu", "wall"))
        sizes = (f"{taken[field]:,}" for field in ("peak", "anonymous"))
        table.add_row(way, *seconds, *sizes, f"{taken['cpu'] / base['cpu']:.2f}", f"{memory_of(taken, base):.2f}")
    CONSOLE.print(table)
    CONSOLE.print("delorean.train, wall seconds:", best["delorean.train"]["steps"])
    ours = best["our learner"]
    slower, larger = ours["cpu"] / base["cpu"], memory_of(ours, base)
    verdicts = [
        Verdict(f"fit in at most {MOST_TIME} times the time of LightGBM alone", f"{slower:.2f}", slower <= MOST_TIME),
        Verdict(f"in at most {MOST_MEMORY} times its memory", f"{larger:.2f}", larger <= MOST_MEMORY),
    ]
    show(verdicts)
    sys.exit(not all(verdict.met for verdict in verdicts))


def memory_of(taken: dict[str, Any], base: dict[str, Any]) -> float:
    """Return how many times as much memory a way needs, in peaks of what cannot be evicted."""
    return float(taken["anonymous"] / base["anonymous"])
