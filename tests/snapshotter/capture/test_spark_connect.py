"""Every step on a Spark Connect server, from a client without a JVM, gives what the same step gives without Spark."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from connect_server import connect_server

from prana_proxy.server import start_proxy

ROOT = Path(__file__).parents[3]
BARE_PYTHON = str(Path(sys.base_prefix) / "bin" / Path(sys.executable).resolve().name)
WORK = """
import json, sys
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from connect_encoders import seen_before
from delorean import TimeMachine, as_of_join, as_of_join_spark, generate, materialise_labels
from delorean.experiment import load_experiment
from delorean.experiment.replay import replay
from delorean.experiment.model_spec import ModelSpec
from delorean.experiment.run import run_experiment
from delorean.experiment.training_run import train_newest
from delorean.labels import LabelColumns
from delorean.ranking_data.split import Split
from schemas.errors import LabelError, StorageError
from snapshotter.capture import SnapshotOptions, take_snapshot
from snapshotter.index import open_index
from snapshotter.selection.context_selection import NamedSelection, select_contexts
from snapshotter.spark.jobs import parallelism
from snapshotter.spark.session import spark_session
from snapshotter.spark.table_loader import query_tables
from snapshotter.storage import open_storage
from snapshotter.storage.table_source import TableSource
from schemas.errors import SelectionError
from snapshotter.spark.errors import spark_errors_as

url, folder, proxy = sys.argv[1:]
spark = spark_session("connect", url)
storage, index = open_storage(f"file://{folder}/store"), open_index(f"sqlite://{folder}/index.db")
seen = {"session": type(spark).__module__, "parallelism": parallelism(spark)}

plays = TableSource(f"{folder}/plays.parquet")
query = "SELECT profile_id, country FROM plays WHERE date = :date"
chosen = NamedSelection(
    id="watchers", query=query, key=("profile_id", "country"), strata=("country",), quota=20, tables={"plays": plays}
)
contexts = select_contexts(spark, [chosen], date(2026, 1, 5), storage, index)
seen["selected"] = [(row.stratum, row.population, row.taken) for row in contexts.report]
later = replace(chosen, id="noon", quota=10)
noon = select_contexts(spark, [chosen, later], date(2026, 1, 5), storage, index)
seen["revision"] = (noon.revision, noon.experiments, noon.rows)

progress = []
run = take_snapshot(
    spark, contexts, ["history", "popular"], [proxy], storage.uri, index, "r1", SnapshotOptions(buckets=4, page=16),
    progress=lambda *report: progress.append(report),
)
seen["snapshot"] = {one.service.name: one.confidence for one in run.services}
seen["progress"] = sorted({(what, done) for what, done, of in progress if done == of})

again = '''
    SELECT profile_id FROM contexts('watchers') JOIN captures('history') USING (profile_id)
    LEFT ANTI JOIN contexts('again') USING (profile_id)
    WHERE size(value) > 0 AND (SELECT max(value) FROM captures('popular')) IS NOT NULL
'''
chosen = NamedSelection(id="again", query=again, key=("profile_id",), fraction=1.0)
tomorrow = run.services[0].captured_to.date() + timedelta(days=1)
again = select_contexts(spark, [chosen], tomorrow, storage, index).rows

captured = {service.element.name: service for service in index.elements()}["history"]
now = run.services[0].captured_to + timedelta(minutes=1)
view = TimeMachine(index, storage).at(now)["history"]
state, frame = view.to_arrow(), view.to_spark(spark)
seen["selected by value"] = again == pc.sum(pc.greater(pc.list_value_length(state["history"]), 0)).as_py() > 0
seen["view"] = frame.orderBy("profile_id").toArrow().cast(state.schema).to_pylist() == state.to_pylist()
seen["chosen"] = TimeMachine(index, storage).at(now).for_experiment("watchers")["history"].to_spark(spark).count()

profiles = sorted(state["profile_id"].to_pylist())
rows = pa.table({
    "profile_id": [p for p in profiles for _ in range(3)], "video_id": [p + v for p in profiles for v in range(3)],
    "time": pa.array([now] * 3 * len(profiles), pa.timestamp("us", "UTC")),
    "outcome_at": pa.array([now + timedelta(hours=1)] * 3 * len(profiles), pa.timestamp("us", "UTC")),
    "label": [float((p + v) % 2) for p in profiles for v in range(3)],
})
spark.createDataFrame(rows).write.parquet(f"{folder}/labels")
tables = {"labels": TableSource(f"{folder}/labels")}
labelled = query_tables(spark, "WITH l AS (TABLE labels) SELECT * FROM l", tables, SelectionError)
columns = LabelColumns(("video_id",))
there = materialise_labels(labelled, columns, storage, labels_id="there", buckets=4)
here = materialise_labels(rows, columns, storage, labels_id="here", buckets=4)
seen["labels"] = [file.checksum for file in there.files] == [file.checksum for file in here.files]

done = []
on_spark = generate(there, seen_before, index, storage, "f", spark=spark, progress=lambda *report: done.append(report))
seen["features"] = on_spark.digest == generate(here, seen_before, index, storage, "g").digest
seen["last progress"] = done[-1][1:]
seen["feature set"] = on_spark.to_spark(spark).count() == on_spark.rows

today = rows.set_column(1, "video_id", pa.array([0, 1, 2] * len(profiles)))
next_day = today.set_column(2, "time", pc.add(rows["time"], timedelta(days=1)))
next_day = next_day.set_column(3, "outcome_at", pc.add(rows["outcome_at"], timedelta(days=1)))
spark.createDataFrame(pa.concat_tables([today, next_day])).write.saveAsTable("shown")
spec = load_experiment(f"{folder}/lab.toml", index)
known = [(now + timedelta(days=days, hours=1)).date() + timedelta(days=1) for days in (0, 1)]
runs = [run_experiment(spec, index, storage, spark, training=False, run_id=str(day), day=day) for day in known]
seen["parts"] = [run.labels.parts for run in runs]
seen["rows of runs"] = [run.features.rows == days * len(profiles) for days, run in enumerate(runs, start=1)]
again = replay(runs[1], index, storage, spark=spark, modules=("connect_encoders",))
seen["replay"] = again.identical

ranker = ModelSpec(learner="xgboost", parameters={"max_depth": 3}, rounds=6, threads=1)
split = Split(by_time=False, group="profile_id", shares=(0.5, 0.25, 0.25))
alone = replace(spec, model=ranker, split=split)
shared = replace(spec, model=replace(ranker, workers=2), split=split)
models = [train_newest(each, storage, str(known[1]), spark) for each in (alone, shared, shared)]
fitted = [model.report.sizes.get("fitted", {}) for model in models]
seen["fitted"] = [each.get("workers") for each in fitted]
seen["fitted items"] = fitted[1]["items"] == models[0].report.sizes["train"]["items"]
seen["same trees"] = models[1].trees == models[2].trees
try:
    typo = replace(spec, labels=replace(spec.labels, query=None, table="showm"))
    run_experiment(typo, index, storage, spark, training=False)
except LabelError as error:
    seen["typo"] = str(error)

def fail(batches):
    raise StorageError.because("the disk is full", "free some")

try:
    with spark_errors_as(SelectionError, "a worker"):
        spark.range(1).mapInArrow(fail, "id long").collect()
except StorageError as error:
    seen["error"] = str(error)

left = rows.select(["profile_id", "time"]).append_column("row", [list(range(rows.num_rows))])
right = state.drop_columns("run_id")
frames = spark.createDataFrame(left), spark.createDataFrame(right)
joined = as_of_join_spark(*frames, by="profile_id", buckets=2).toArrow().sort_by("row")
seen["join"] = joined.to_pylist() == as_of_join(left, right, by="profile_id").cast(joined.schema).to_pylist()
print(json.dumps(seen))
"""
SPEC = '''
encoders = ["connect_encoders:seen_before"]

[labels]
items = ["video_id"]
buckets = 4
query = """
SELECT s.* FROM shown s
JOIN contexts('watchers') c USING (profile_id)
JOIN (SELECT DISTINCT profile_id FROM captures('history')) h USING (profile_id)
"""
'''
ENCODERS = """
from encoders import feature_encoder
from schemas.data_keys import service_element

HISTORY = service_element("history", "list<struct<video_id: int64, minutes: float>>")

@feature_encoder(data=[HISTORY], features=["seen"])
def seen_before(context, items, data, out):
    for i in range(len(items.video_id)):
        out.seen[i] = 0.0
        for j in range(len(data.history.video_id)):
            if data.history.video_id[j] == items.video_id[i]:
                out.seen[i] += 1.0
"""
LACKING = """
import sys
from schemas.errors import SetupError
from snapshotter.spark.session import spark_session

url, unreachable, python = sys.argv[1:]
for where, program in ((unreachable, ""), (url, python)):
    try:
        spark_session("lacking", where, spark__sql__execution__pyspark__python=program)
    except SetupError as error:
        print(error)
"""


def client(script: str, folder: Path, *arguments: str) -> str:
    """Run a client in a process of its own, and give what it prints."""
    path = folder / "client.py"
    path.write_text(script)
    command = [sys.executable, str(path), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-6_000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with connect_server(tmp_path_factory.mktemp("server"), {"PYTHONPATH": str(ROOT)}) as url:
        yield url


def test_every_step_gives_what_it_gives_without_spark(server: str, company: Any, tmp_path: Path) -> None:
    ids = range(100)
    plays = {"profile_id": list(ids), "country": ["US" if i % 2 else "FR" for i in ids]}
    pq.write_table(
        pa.table(plays).append_column("date", pa.array(["2026-01-05"] * 100).cast(pa.date32())),
        tmp_path / "plays.parquet",
    )
    (tmp_path / "lab.toml").write_text(SPEC)
    (tmp_path / "connect_encoders.py").write_text(ENCODERS)  # beside the client; the server does not have it
    with start_proxy(company.config()) as proxy:
        seen = json.loads(client(WORK, tmp_path, server, str(tmp_path), proxy.address).splitlines()[-1])
    assert seen == {
        "session": "pyspark.sql.connect.session",
        "parallelism": 2,
        "selected": [["FR", 50, 20], ["US", 50, 20]],
        "revision": [2, ["noon"], 20],
        "snapshot": {"history": 1.0, "popular": 1.0},
        "progress": [["history", 40], ["popular", 2]],
        "selected by value": True,
        "view": True,
        "chosen": 40,
        "labels": True,
        "features": True,
        "last progress": [4, 4],
        "feature set": True,
        "parts": [1, 2],
        "rows of runs": [True, True],
        "replay": True,
        "fitted": [None, 2, 2],
        "fitted items": True,
        "same trees": True,
        "typo": "unknown table in the labels' query 'showm' → did you mean 'shown'? known: shown",
        "error": "the disk is full → free some",
        "join": True,
    }


def test_a_command_uses_the_server_that_its_project_file_names_and_sends_it_the_archive(
    server: str, environment: Path, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"profile_id": range(9), "country": ["FR"] * 9}), tmp_path / "plays.parquet")
    (tmp_path / "delorean.toml").write_text(
        f'[submit]\nmaster = "{server}"\nenvironment = "{environment}"\n'
        f'[spark]\n"spark.sql.execution.pyspark.python" = "{BARE_PYTHON}"\n'  # which could not run the command's tasks
    )
    (tmp_path / "contexts.toml").write_text(
        '[tables]\nplays = { path = "plays.parquet" }\n[experiments.all]\nquery = "TABLE plays"\n'
        'key = ["profile_id"]\nquota = 5\n'
    )
    words = ("select", str(tmp_path / "contexts.toml"), "--config", str(tmp_path / "delorean.toml"), "--json")
    shown = client("from delorean.cli import main\nmain()\n", tmp_path, *words, "--date", "2026-01-05")
    assert json.loads(shown)["contexts"] == 5


def test_a_server_that_does_not_answer_and_workers_that_lack_packages_are_one_clear_error(
    server: str, tmp_path: Path
) -> None:
    refused, lacking = client(LACKING, tmp_path, server, "sc://127.0.0.1:1/;token=secret", BARE_PYTHON).splitlines()
    assert re.fullmatch(
        "no Spark Connect server answers at sc://127.0.0.1:1: .* refused → start it, or correct the URL", refused
    )
    assert re.fullmatch(
        r"the workers of the Spark Connect server cannot run DeLorean: ModuleNotFoundError: No module named '\w+'"
        r" → install delorean-features \S+ with Python 3\.\d+ on its machines, name a Python that has it in "
        r"spark\.sql\.execution\.pyspark\.python, or send an archive from make package: "
        r"spark_session\(…, environment=…\)",
        lacking,
    )
