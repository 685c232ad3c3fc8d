"""Label data and events may be Delta tables: a run pins the versions that it read, and replays after they moved on."""

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from project_at_rest import long_labels

from delorean.experiment.replay import replay
from delorean.experiment.tables import query
from schemas.errors import LabelError
from snapshotter.storage.table_source import TableSource

QUERY = """
query = "SELECT s.*, coalesce(weight, 1) * s.label AS gain FROM shown s LEFT JOIN events USING (profile_id)"
label = "gain"
context = ["profile_id"]
"""
TABLES = """shown = { path = "shown", format = "delta" }
events = { path = "events", format = "delta"PINNED }"""


@pytest.fixture
def delta_lab(lab):
    """A lab whose labels are made of two Delta tables."""
    write_deltalake(str(lab.folder / "shown"), pa_rows(40))
    write_deltalake(str(lab.folder / "events"), events(2.0))
    return lab


def pa_rows(profiles):
    return long_labels([(p, m, v, (p + v) % 2) for p in range(profiles) for m in (7, 14, 40) for v in range(4)])


def events(weight):
    return pa.table({"profile_id": list(range(20)), "weight": pa.array([weight] * 20, pa.float32())})


def write_spec(lab, pinned=""):
    lab.write_spec(
        ('shown = { path = "shown.parquet" }', TABLES.replace("PINNED", pinned)),
        ('table = "shown"\n', QUERY.lstrip("\n")),
    )


def versions(record):
    return {name: table["version"] for name, table in record.labels.tables.items()}


def test_a_run_replays_bit_for_bit_after_its_tables_moved_on_and_their_old_versions_are_gone(delta_lab, spark):
    lab = delta_lab
    write_spec(lab)
    record = lab.run(spark)
    assert versions(record) == {"shown": 0, "events": 0}
    write_deltalake(str(lab.folder / "events"), events(3.0), mode="overwrite")
    changed = events(5.0).append_column("more", pa.array(["x"] * 20))
    write_deltalake(str(lab.folder / "events"), changed, mode="overwrite", schema_mode="overwrite")
    write_deltalake(str(lab.folder / "shown"), pa_rows(30), mode="overwrite")

    def repeat():
        return replay(record, lab.index, lab.storage, modules=(lab.module,))

    assert repeat().identical
    later = lab.run(spark)
    assert versions(later) == {"shown": 1, "events": 2}
    assert later.experiment_id == record.experiment_id
    assert later.features.digest.keys != record.features.digest.keys

    write_spec(lab, ", version = 0")
    pinned = lab.run(spark)
    assert versions(pinned) == {"shown": 1, "events": 0}

    for name in ("shown", "events"):
        DeltaTable(str(lab.folder / name)).vacuum(0, dry_run=False, enforce_retention_duration=False)
    assert repeat().identical  # what it read lies with the run
    with pytest.raises(LabelError, match=r"table 'events': 1 of 1 files of version 0 of .*events are gone.*vacuumed"):
        lab.run(spark)


def test_a_version_pinned_by_the_spec_gives_what_it_gave_when_it_was_the_newest(delta_lab, spark):
    lab = delta_lab
    write_spec(lab)
    newest = lab.run(spark)
    write_deltalake(str(lab.folder / "events"), events(3.0), mode="overwrite")
    moved = lab.run(spark)
    write_spec(lab, ", version = 0")
    pinned = lab.run(spark)
    assert pinned.features.digest == newest.features.digest
    assert moved.features.digest.keys != newest.features.digest.keys
    assert pinned.experiment_id != newest.experiment_id


def test_a_table_that_the_catalogue_does_not_know_is_named_with_similar_ones(spark, tmp_path):
    spark.sql("CREATE DATABASE company")
    try:
        spark.range(3).write.mode("overwrite").saveAsTable("company.impressions")
        assert query(spark, "SELECT * FROM company.impressions", {}).count() == 3
        with pytest.raises(
            LabelError, match=r"unknown table .* 'company.impresions' → did you mean 'company.impressions'"
        ):
            query(spark, "SELECT * FROM company.impresions", {})
        with pytest.raises(LabelError, match=r"unknown table .* 'compny.impressions' → .*known: .*company.…"):
            query(spark, "SELECT * FROM compny.impressions", {})
        pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "shown.parquet")
        with pytest.raises(LabelError, match="unknown table .* 'shwn' → did you mean 'shown'"):
            query(spark, "SELECT * FROM shwn", {"shown": TableSource(str(tmp_path / "shown.parquet"))})
    finally:
        spark.sql("DROP DATABASE company CASCADE")
