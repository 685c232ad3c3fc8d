"""Feature sets and context sets are plain Delta tables: every reader sees the same values, of every version."""

from datetime import date

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from project_at_rest import minutes

from delorean.feature_sets.table import lineage_of, table_uri
from delorean.feature_sets.versions import versions_of
from delorean.generation import generate
from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_labels
from delorean.ranking_data.feature_set_reader import read_feature_set
from schemas.errors import TrainingError
from schemas.tables import TIME
from snapshotter.selection.context_selection import NamedSelection, read_context_set, select_contexts
from snapshotter.storage.delta import delta_table
from snapshotter.storage.delta_version import DeltaVersion
from snapshotter.storage.table_source import TableSource


def with_spark(spark, uri, version):
    return spark.read.format("delta").option("versionAsOf", version).load(uri).toArrow()


def with_polars(_, uri, version):
    return pl.read_delta(uri, version=version).to_arrow()


def with_duckdb(_, uri, version):
    files = [path.removeprefix("file://") for path in DeltaTable(uri, version=version).file_uris()]
    return duckdb.sql(f"SELECT * FROM read_parquet({files})").to_arrow_table()


def with_duckdb_over_arrow(_, uri, version):
    rows = DeltaTable(uri, version=version).to_pyarrow_dataset()
    return duckdb.sql("SELECT * FROM rows").to_arrow_table() if rows is not None else None


def with_pandas(_, uri, version):
    table = DeltaTable(uri, version=version)
    frame, schema = table.to_pandas(), pa.schema(table.schema().to_arrow())
    columns = [  # a null float of its own is NaN in pandas, one in a list is what it is
        pa.array(frame[f.name].tolist(), f.type, from_pandas=not pa.types.is_list(f.type)) for f in schema
    ]
    return pa.table(columns, schema=schema)


READERS = [with_spark, with_polars, with_duckdb, with_duckdb_over_arrow, with_pandas]


def values(table, schema, by):
    """Give rows in one order, in the types they were written in, so that NaN equals NaN and nothing else."""
    return repr(table.select(schema.names).cast(schema).sort_by([(name, "ascending") for name in by]).to_pylist())


def written(uri, version):
    return DeltaVersion.of(delta_table(uri, version), uri).to_arrow()


@pytest.fixture
def two_runs(lab, spark):
    """A feature set of two versions, made for two experiments, with other features."""
    before = lab.run(spark)
    lab.write_spec((f', "{lab.module}:mood_known"', ""), ('"PT1H"', '"PT9M"'))
    return before, lab.run(spark)


def test_every_reader_sees_the_same_feature_set_in_every_version(lab, spark, two_runs):
    uri = table_uri(lab.storage, "lab")
    assert [record.features.version for record in two_runs] == [0, 1]
    for version in (0, 1):
        expected = written(uri, version)
        assert expected.num_rows == 120
        assert ("mood_known" in expected.schema.names) == (version == 0)
        assert expected.schema.field("minutes_watched").type == pa.list_(pa.float32())
        reported = values(expected, expected.schema, ["profile_id", "time"])
        for read in READERS:
            found = read(spark, uri, version)
            assert found.schema.names == expected.schema.names, read
            assert values(found, expected.schema, ["profile_id", "time"]) == reported, read
    assert "nan" in reported


def test_unsigned_integers_are_the_same_to_every_reader(lab, spark):
    at = pa.array([minutes(9)] * 2, TIME)
    rows = pa.table(
        {
            "profile_id": pa.array([5, 2**32 - 1], pa.uint32()),
            "shelf": pa.array([2**63 - 1, 0], pa.uint64()),
            "time": at,
            "video_id": pa.array([2**31, 1], pa.uint32()),
            "label": pa.array([1, 0], pa.uint8()),
            "outcome_at": pa.array([minutes(10)] * 2, TIME),
        }
    )
    labels = materialise_labels(rows, LabelColumns(("video_id",)), lab.storage)
    made = generate(labels, lab.spec.feature_model, lab.index, lab.storage, "unsigned")
    expected = made.to_arrow()
    assert sorted(expected["profile_id"].to_pylist()) == [5, 2**32 - 1]
    assert sorted(expected["shelf"].to_pylist()) == [0, 2**63 - 1]
    reported = values(expected, expected.schema, ["profile_id"])
    for read in READERS:
        found = read(spark, made.uri, 0)
        assert [found.schema.field(name).type for name in ("profile_id", "shelf")] == [pa.int64()] * 2, read
        assert values(found, expected.schema, ["profile_id"]) == reported, read


def test_each_version_says_which_experiment_it_was_made_for(lab, spark, two_runs):
    uri = table_uri(lab.storage, "lab")
    ids = [record.experiment_id for record in two_runs]
    assert ids[0] != ids[1]
    assert [each.experiment for each in versions_of(uri)] == ids[::-1]
    assert [lineage_of(uri, version)["experiment"] for version in (0, 1)] == ids
    history = spark.sql(f"DESCRIBE HISTORY delta.`{uri}`").orderBy("version").select("userMetadata").collect()
    assert [row.userMetadata for row in history] == ids
    assert [entry["userMetadata"] for entry in DeltaTable(uri).history()] == ids[::-1]


def test_training_on_a_version_that_lacks_a_feature_names_the_version(lab, two_runs):
    uri = table_uri(lab.storage, "lab")
    assert len(read_feature_set(uri, ["mood_known"], ["video_id"], ["profile_id"], version=0)) == 120
    with pytest.raises(TrainingError, match="unknown column of version 1 of .*lab 'mood_known' → .*minutes_watched"):
        read_feature_set(uri, ["mood_known"], ["video_id"], ["profile_id"])
    with pytest.raises(TrainingError, match="there is no version 2 of the Delta table at .* the newest is 1"):
        read_feature_set(uri, ["mood_known"], ["video_id"], ["profile_id"], version=2)


def test_every_reader_sees_the_same_context_set(project, spark, tmp_path):
    profiles = pa.table({"profile_id": range(90), "country": ["US", "FR", None] * 30, "seen": [date(2026, 1, 5)] * 90})
    pq.write_table(profiles, tmp_path / "profiles.parquet")
    tables = {"profiles": TableSource(str(tmp_path / "profiles.parquet"))}
    query = "SELECT profile_id, coalesce(country, 'ü') AS country, seen FROM profiles WHERE seen = :date"
    key = ("profile_id", "country", "seen")
    experiments = [
        NamedSelection(query, key, ("country",), quota=20, id="home", tables=tables),
        NamedSelection(query, key, fraction=0.5, id="search", tables=tables),
    ]
    chosen = select_contexts(spark, experiments, date(2026, 1, 5), project.storage, project.index)
    uri = project.storage.uri_of(chosen.groups[0].table)
    expected = read_context_set(chosen, project.storage)
    assert {len(chosen_by) for chosen_by in expected["experiments"].to_pylist()} == {1, 2}
    assert expected.num_rows == chosen.rows
    reported = values(expected, expected.schema, ["profile_id"])
    for read in READERS:
        assert values(read(spark, uri, 0), expected.schema, ["profile_id"]) == reported, read
    [made] = DeltaTable(uri).history()
    assert made["userMetadata"] == "home, search"
    again = select_contexts(spark, experiments, date(2026, 1, 5), project.storage, project.index)
    assert again == chosen
    assert len(DeltaTable(uri).history()) == 1
