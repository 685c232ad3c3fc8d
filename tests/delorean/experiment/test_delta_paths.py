"""A Delta table's files are found whatever its partitions are called and however its log spells their paths."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from delorean.experiment.tables import pinned_tables, query
from schemas.errors import LabelError
from snapshotter.storage.table_source import TableSource

TEXTS = [
    "New Zealand",
    "50% off",
    "a+b",
    "a=b",
    "a:b",
    "a/b",
    "ü",
    "日本",
    "it's",
    'q"q',
    "a#b",
    "a?b",
    "a%20b",
    "[x]",
    None,
]


def rows(texts: list[str | None]) -> pa.Table:
    return pa.table({"country": pa.array(texts, pa.string()), "n": list(range(len(texts)))})


def pinned(path: Path | str) -> int | None:
    return pinned_tables({"shown": TableSource(str(path), "delta")})["shown"].version


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.parquet") if "_delta_log" not in path.parts]


@pytest.mark.parametrize("folder", ["shown", "my tables/ü+&", "c=1"])
def test_every_file_is_found_and_each_that_is_gone_is_missed(tmp_path: Path, folder: str) -> None:
    where = tmp_path / folder
    write_deltalake(str(where), rows(TEXTS), partition_by=["country"])
    assert len(files_of(where)) == len(TEXTS)
    assert pinned(where) == pinned(f"file://{where}") == 0
    for number, file in enumerate(files_of(where), 1):
        file.unlink()
        with pytest.raises(LabelError, match=rf"'shown': {number} of {len(TEXTS)} files of version 0 of .* are gone"):
            pinned(where)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), max_size=30))
def test_any_text_names_a_partition(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    where = tmp_path_factory.mktemp("table")
    write_deltalake(str(where), rows([text]), partition_by=["country"])
    assert pinned(where) == 0


@pytest.mark.parametrize("prefix", ["file://", "file:", ""])
def test_a_log_may_name_files_by_their_whole_path(tmp_path: Path, prefix: str) -> None:
    write_deltalake(str(tmp_path / "theirs"), rows(["New Zealand"]), partition_by=["country"])
    [file] = files_of(tmp_path / "theirs")
    log = Path("_delta_log/00000000000000000000.json")
    (tmp_path / "clone" / log.parent).mkdir(parents=True)
    actions = [json.loads(line) for line in (tmp_path / "theirs" / log).read_text().splitlines()]
    for action in actions:
        if "add" in action:
            action["add"]["path"] = prefix + quote(str(file))
    (tmp_path / "clone" / log).write_text("\n".join(map(json.dumps, actions)))
    assert pinned(tmp_path / "clone") == 0
    file.unlink()
    with pytest.raises(LabelError, match="1 of 1 files of version 0"):
        pinned(tmp_path / "clone")


def test_tables_that_spark_wrote_and_cloned_are_read(spark: SparkSession, tmp_path: Path) -> None:
    theirs, clone = tmp_path / "their table", tmp_path / "clone"
    frame = spark.createDataFrame(rows(TEXTS)).coalesce(1)
    frame.write.format("delta").partitionBy("country").save(str(theirs))
    spark.sql(f"CREATE TABLE delta.`{clone}` SHALLOW CLONE delta.`{theirs}`")
    for table in (theirs, clone):
        assert pinned(table) == 0
        found = query(spark, "SELECT country FROM shown", {"shown": TableSource(str(table), "delta")}).toArrow()
        assert set(found["country"].to_pylist()) == set(TEXTS)
    files_of(theirs)[0].unlink()
    for table in (theirs, clone):
        with pytest.raises(LabelError, match=rf"1 of {len(TEXTS)} files of version 0"):
            pinned(table)
