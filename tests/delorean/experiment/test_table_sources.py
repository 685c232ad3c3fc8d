"""Label data from Iceberg and Spark's catalogue: a run records what it read, and replays after it moved on."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from iceberg_lake import add_version_hint, delete_beside, lake_in, new_table
from project_at_rest import long_labels

from delorean.experiment.label_data import labels_at_rest
from delorean.experiment.replay import replay
from delorean.project.vacuum import _Pins
from schemas.errors import LabelError

QUERY = """
id = "at-rest"
query = "SELECT s.*, coalesce(weight, 1) * s.label AS gain FROM shown s LEFT JOIN events USING (profile_id)"
label = "gain"
context = ["profile_id"]
"""


def shown(profiles: int) -> pa.Table:
    return long_labels([(p, m, v, (p + v) % 2) for p in range(profiles) for m in (7, 14, 40) for v in range(4)])


def test_a_run_records_the_snapshot_and_the_version_that_it_read(lab: Any, spark: Any) -> None:
    write_deltalake(str(lab.folder / "shown"), shown(40))
    spark.sql("CREATE DATABASE shop")
    try:
        spark.sql(f"CREATE TABLE shop.shown USING delta LOCATION '{lab.folder}/shown'")
        weights = pa.table({"profile_id": list(range(20)), "weight": pa.array([2.0] * 20, pa.float32())})
        events = new_table(lake_in(lab.folder), "events", weights)
        folder = add_version_hint(events)
        tables = (
            f'shown = {{ path = "shop.shown", format = "table" }}\nevents = {{ path = "{folder}", format = "iceberg" }}'
        )
        lab.write_spec(('shown = { path = "shown.parquet" }', tables), ('table = "shown"\n', QUERY.lstrip("\n")))
        record = lab.run(spark)
        first = events.metadata.current_snapshot_id
        assert {name: table["version"] for name, table in record.labels.tables.items()} == {"shown": 0, "events": first}
        assert _Pins.of(lab.storage, (), ()).anywhere == {0}, "a table of a catalogue may be a feature set"
        assert labels_at_rest(lab.spec, lab.storage).labels_id == "at-rest"
        delete_beside(events, [0, 1])
        add_version_hint(events)
        with pytest.raises(LabelError, match="made by another query, or from another version of its tables"):
            labels_at_rest(lab.spec, lab.storage)
        write_deltalake(str(lab.folder / "shown"), shown(30), mode="overwrite")
        assert replay(record, lab.index, lab.storage, modules=(lab.module,)).identical
        lab.write_spec(
            ('shown = { path = "shown.parquet" }', tables.replace('"iceberg"', f'"iceberg", version = {first}')),
            ('table = "shown"\n', QUERY.lstrip("\n")),
        )
        assert labels_at_rest(lab.spec, lab.storage, None) is not None, "without a session the catalogue is not asked"
        with pytest.raises(LabelError, match="from another version of its tables"):
            labels_at_rest(lab.spec, lab.storage, spark)
    finally:
        spark.sql("DROP DATABASE shop CASCADE")
