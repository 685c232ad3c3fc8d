"""Only what is new is computed: one changed encoder of workload F, and days of a feature set as its history grows.

Ratios of the processor's time, in one process without Spark: the machine is noisy.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.features import CAPTURED, DAY, MODEL, World
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


def main(arguments: list[str]) -> None:
    """Make the data, measure and print the tables."""
    parser = argparse.ArgumentParser("make bench BENCH=increments", description=__doc__)
    parser.add_argument("--contexts", type=int, default=128_000)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--contexts-a-day", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="increments-"))
    try:
        one_encoder_changed(World(folder / "f", options.contexts), options.repeats)
        days(World(folder / "days", options.contexts_a_day), options.days, options.repeats)
    finally:
        shutil.rmtree(folder)


def one_encoder_changed(world: World, repeats: int) -> None:
    """Change each of seven encoders, and compare with computing everything."""
    rows = pq.read_table(world.long_labels)
    labels = materialise_labels(rows, COLUMNS, world.storage, buckets=world.buckets)

    def run(model: FeatureModel, name: str, recompute: bool) -> Callable[[], object]:
        return lambda: generate(labels, model, world.index, world.storage, name, recompute=recompute)

    run(SEVEN, "full", True)()
    full = median(run(SEVEN, "full", True), repeats)
    table = Table("changed", "CPU s", "of a full generation", title=f"{world.contexts:,} contexts, full: {full:.2f} s")
    shares = []
    for i, encoder in enumerate(SEVEN.encoders):
        changed = encoder.configured(rename={encoder.features[0]: f"{encoder.features[0]}_2"})
        model = FeatureModel([*SEVEN.encoders[:i], changed, *SEVEN.encoders[i + 1 :]])
        run(model, "compiled", True)()
        seconds = []
        for attempt in range(repeats):
            name = f"changed-{i}-{attempt}"
            run(SEVEN, name, True)()
            seconds.append(cpu(run(model, name, False)))
        shares.append(statistics.median(seconds) / full)
        table.add_row(encoder.title, f"{statistics.median(seconds):.2f}", f"{shares[-1]:.0%}")
    table.add_row("mean", "", f"{statistics.mean(shares):.0%}")
    Console().print(table)


def days(world: World, count: int, repeats: int) -> None:
    """Generate days one after the other, all with the same snapshot, and compare the last with the same rows alone."""
    rows = pq.read_table(world.long_labels)
    shift = {name: rows.schema.get_field_index(name) for name in ("time", "outcome_at")}
    first = from_micros(CAPTURED) + timedelta(days=1)

    def labels_of(number: int) -> Labels:
        table = rows
        for name, position in shift.items():
            moved = rows[name].cast(pa.int64()).to_numpy() + number * DAY
            table = table.set_column(position, name, pa.chunked_array([pa.array(moved).cast(TIME)]))
        return materialise_labels(table, COLUMNS, world.storage, buckets=world.buckets)

    settings = PartSettings(MODEL, world.index, world.storage, "days", {}, {})
    seconds = []
    for number in range(count):
        labels = labels_of(number)

        def between(_: datetime | None, __: datetime, labels: Labels = labels) -> Labels:
            return labels

        until = first + timedelta(days=number + 1)
        seconds.append(cpu(lambda until=until, between=between: generate_day(settings, until, {}, between)))
    alone = [
        cpu(lambda name=f"alone-{i}": generate(labels, MODEL, world.index, world.storage, name)) for i in range(repeats)
    ]
    table = Table("day", "CPU s", "of the day alone", title=f"{world.contexts:,} contexts a day, {count} days")
    base = statistics.median(alone)
    for name, part in (("first 10", seconds[1:11]), ("last 10", seconds[-10:])):
        table.add_row(name, f"{statistics.median(part):.2f}", f"{statistics.median(part) / base:.2f}")
    Console().print(table)


def median(action: Callable[[], object], repeats: int) -> float:
    """Return the median of the processor's seconds."""
    return statistics.median(cpu(action) for _ in range(repeats))


def cpu(action: Callable[[], object]) -> float:
    """Return the processor's seconds of an action, in all threads of this process."""
    start = time.process_time()
    action()
    return time.process_time() - start
