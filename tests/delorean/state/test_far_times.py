"""Times that Arrow holds and Python does not are shown as text or refused by name, wherever state is looked at."""

import json
from datetime import datetime

import pyarrow as pa
import pytest
from click.testing import CliRunner
from project_at_rest import PROFILE, START, minutes

from delorean.cli.commands import cli
from delorean.time_travel import TimeMachine
from encoders.data_map import DataMaps, Element
from schemas.data_keys import service_element
from schemas.errors import ConfigError, DataKeyError
from schemas.hashing import bucket_of
from schemas.services import Service, Status
from schemas.tables import TIME, python_rows, snapshot_schema
from snapshotter.records import ServiceSnapshot, SnapshotRun, from_micros
from snapshotter.storage.parquet import write_parquet

FAR = 253_402_318_799_000_000  # 9999-12-31T23:59:59-05:00
VISITS = service_element("visits", "list<struct<page: string, at: timestamp[us, UTC]>>")
SEEN = service_element("seen", "timestamp[us, UTC]")


def times(*values):
    return pa.array(values, pa.int64()).cast(TIME)


def visits(*values):
    pages = pa.array(["home"] * len(values))
    rows = pa.StructArray.from_arrays([pages, times(*values)], fields=list(VISITS.type.value_type))
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), rows, type=VISITS.type)


@pytest.fixture
def far(project):
    """A project whose services answered with a time beyond the year 9999 in UTC."""
    for element, value in ((VISITS, visits(0, FAR)), (SEEN, times(FAR))):
        service = Service(element.name, element, (PROFILE,))
        profiles = pa.array([1])
        table = pa.table([profiles, pa.array([minutes(0)], TIME), value], schema=snapshot_schema(service))
        (bucket,) = bucket_of(pa.chunked_array([profiles]), 1)
        file = write_parquet(project.storage, f"snapshots/{element.name}/r/0.parquet", table, table.schema, int(bucket))
        counts, at = {Status.OK: 1}, minutes(0)
        snapshot = ServiceSnapshot(element.name, service, "profile_id", 1, counts, at, at, (file,), {})
        project.index.publish_run(SnapshotRun(element.name, "set", START, (snapshot,)))
    return project


def test_travel_reads_them_and_its_command_shows_them_as_text(far):
    there = TimeMachine(far.index, far.storage).at(minutes(1))
    assert there["seen"].to_arrow()["seen"].cast(pa.int64()).to_pylist() == [FAR]
    assert there["visits"].to_polars().height == 1
    folder = far.storage.uri.removeprefix("file://")
    config = f'index = "{far.index.uri}"\nstorage = "{far.storage.uri}"\n'
    with open(f"{folder}/delorean.toml", "w") as file:
        file.write(config)
    at = minutes(1).isoformat()
    for element in ("visits", "seen"):
        command = ["travel", element, "--at", at, "--config", f"{folder}/delorean.toml", "--json"]
        done = CliRunner().invoke(cli, command)
        assert done.exit_code == 0, done.output
        assert "10000-01-01 04:59:59" in json.dumps(json.loads(done.output)["rows"])


def test_what_pandas_cannot_hold_is_refused_by_name(far):
    there = TimeMachine(far.index, far.storage).at(minutes(1))
    with pytest.raises(DataKeyError, match="pandas cannot hold all values of .*visits.* → .*to_polars"):
        there["visits"].to_pandas()


def test_a_moment_beyond_python_s_years_is_refused():
    with pytest.raises(DataKeyError, match="beyond the years 1 to 9999"):
        from_micros(FAR)
    assert from_micros(0).year == 1970


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-05:00", "0001-01-01T00:00:00+05:00"])
def test_a_moment_to_travel_to_beyond_them_is_refused(far, text):
    machine = TimeMachine(far.index, far.storage)
    for moment in (text, datetime.fromisoformat(text)):
        with pytest.raises(ConfigError, match="beyond the years 1 to 9999"):
            machine.at(moment)


def test_a_data_map_shows_them_as_text():
    element = Element(visits(0, FAR), [0])
    maps = DataMaps(pa.table({"time": times(0)}), pa.table({"item": times(FAR)}), [0, 1], {"visits": element})
    shown = maps.data_map(0)
    assert shown["item"] == ["10000-01-01 04:59:59.000000Z"]
    assert shown["visits"][1]["at"] == "10000-01-01 04:59:59.000000Z"


def test_rows_without_such_times_are_python_s_own():
    table = pa.table({"a": times(0), "b": [[1]], "c": [None]})
    assert python_rows(table) == table.to_pylist()
    assert python_rows(pa.table({"a": pa.array([], TIME)})) == []
