"""Only what is new is computed: one changed encoder of workload F, and days of a feature set after a year of history.

Ratios of the processor's time, in one process without Spark: the machine is noisy. Ends with 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from benchmarks.features import CAPTURED, DAY, ITEMS, World
from benchmarks.load_report import CONSOLE, Verdict, show
from delorean.generation import generate
from delorean.generation.day import generate_day
from delorean.generation.parts import PartSettings
from delorean.labels import LabelColumns, Labels
from delorean.labels.materialise import materialise_labels
from encoders import FeatureModel
from encoders.library import (
    listed,
    minutes_watched,
    predicted_rating,
    predicted_rating_rank,
    recency_weighted_plays,
    recent_plays,
    rewatching,
)
from schemas.tables import TIME
from snapshotter.records import from_micros

SEVEN = FeatureModel(
    [minutes_watched, rewatching, listed, predicted_rating, predicted_rating_rank, recent_plays, recency_weighted_plays]
)
COLUMNS = LabelColumns(("video_id",))
MOST_SHARE = 0.30  # of a full generation, where one encoder of seven has changed
MOST_OF_A_DAY = 1.3  # times the same day alone
HISTORY_CONTEXTS = 500  # of a day long ago: what grows with history is the number of days and files, not their size


def main(arguments: list[str]) -> None:
    """Make the data, measure and print the tables."""
    parser = argparse.ArgumentParser("make bench BENCH=increments", description=__doc__)
    parser.add_argument("--contexts", type=int, default=256_000, help="of which one encoder's features are computed")
    parser.add_argument("--days", type=int, default=365, help="of history")
    parser.add_argument("--contexts-a-day", type=int, nargs="+", default=[2_000, 20_000], help="of the days measured")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="increments-") as folder:
        verdicts = [one_encoder_changed(World(Path(folder, "f"), options.contexts), options.repeats)]
        world = World(Path(folder, "days"), max(options.contexts_a_day))
        verdicts += days(world, options.days, options.contexts_a_day, 3 * options.repeats)
    show(verdicts)
    if not all(verdict.met for verdict in verdicts):
        raise SystemExit(1)


def one_encoder_changed(world: World, repeats: int) -> Verdict:
    """Change each of seven encoders, and compare with computing everything."""
    labels = materialise_labels(pq.read_table(world.long_labels), COLUMNS, world.storage, buckets=world.buckets)

    def run(model: FeatureModel, recompute: bool) -> Callable[[], object]:
        return lambda: generate(labels, model, world.index, world.storage, "f", recompute=recompute)

    run(SEVEN, True)()  # compiles
    full = statistics.median(cpu(run(SEVEN, True)) for _ in range(repeats))
    items = f"{world.contexts * ITEMS:,} items"
    table = Table(
        "changed", "CPU s", "of a full generation", title=f"One encoder of seven, {items}, full: {full:.2f} s"
    )
    shares = []
    for i, encoder in enumerate(SEVEN.encoders):
        feature = encoder.features[0]
        # Another name each time: all features but this one are copied, from the version that has most.
        changed = [encoder.configured(rename={feature: f"{feature}_{attempt}"}) for attempt in range(repeats)]
        models = [FeatureModel([*SEVEN.encoders[:i], each, *SEVEN.encoders[i + 1 :]]) for each in changed]
        seconds = statistics.median(cpu(run(model, False)) for model in models)
        shares.append(seconds / full)
        table.add_row(encoder.title, f"{seconds:.2f}", f"{shares[-1]:.0%}")
    mean = statistics.mean(shares)
    table.add_row("mean", "", f"{mean:.0%}")
    CONSOLE.print(table)
    what = f"one encoder of seven changed costs at most {MOST_SHARE:.0%} of a full generation of {items}, on average"
    return Verdict(what, f"{mean:.0%}", mean <= MOST_SHARE)


def days(world: World, history: int, sizes: list[int], repeats: int) -> list[Verdict]:
    """Generate days one after the other, then days of each size, each compared with the same rows alone."""
    settings = PartSettings(SEVEN, world.index, world.storage, "days", {}, {})

    def add_day(number: int, labels: Labels) -> float:
        until = from_micros(CAPTURED) + timedelta(days=number + 2)
        return cpu(lambda: generate_day(settings, until, {}, lambda _, __: labels))

    rows = pq.read_table(world.long_labels)
    for number in range(history):
        add_day(number, labels_of(world, rows, HISTORY_CONTEXTS, number))
    number = history
    table = Table("contexts a day", "day, CPU s", "alone, CPU s", "ratio", title=f"A day after {history} days")
    verdicts = []
    for size in sizes:
        pairs = []
        for repeat in range(repeats):
            number += 1
            labels = labels_of(world, rows, size, number)
            alone = cpu(
                lambda r=repeat, n=size, lab=labels: generate(lab, SEVEN, world.index, world.storage, f"a{n}-{r}")
            )
            pairs.append((add_day(number, labels), alone))
        ratio = statistics.median(day / alone for day, alone in pairs)
        day, alone = (statistics.median(each) for each in zip(*pairs, strict=True))
        table.add_row(f"{size:,}", f"{day:.2f}", f"{alone:.2f}", f"{ratio:.2f}")
        what = f"a day of {size:,} contexts costs at most {MOST_OF_A_DAY} times as much after {history} days as alone"
        verdicts.append(Verdict(what, f"{ratio:.2f}", ratio <= MOST_OF_A_DAY))
    CONSOLE.print(table)
    return verdicts


def labels_of(world: World, rows: pa.Table, contexts: int, day: int) -> Labels:
    """Materialise the first contexts' rows, moved to a day."""
    table = rows.slice(0, contexts * ITEMS)
    for name in ("time", "outcome_at"):
        moved = table[name].cast(pa.int64()).to_numpy() + day * DAY
        position = table.schema.get_field_index(name)
        table = table.set_column(position, name, pa.chunked_array([pa.array(moved).cast(TIME)]))
    return materialise_labels(table, COLUMNS, world.storage, buckets=world.buckets)


def cpu(action: Callable[[], object]) -> float:
    """Return the processor's seconds of an action, in all threads of this process."""
    start = time.process_time()
    action()
    return time.process_time() - start
