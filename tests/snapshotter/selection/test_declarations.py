from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ConfigError
from snapshotter.selection.context_selection import _context_set_id
from snapshotter.selection.declarations import ContextSelection, NamedSelection, load_selections
from snapshotter.storage.table_source import TableSource

TOML = """
[experiments.binge_watchers]
query = "SELECT profile_id, country, device FROM impressions WHERE date = :date"
key = ["profile_id", "country", "device"]
strata = ["country"]
quota = { US = 100, default = 50 }
seed = 7

[experiments.everyone]
query = "SELECT * FROM impressions"
key = ["profile_id", "country", "device"]
fraction = 0.1

[tables]
impressions = { path = "events/impressions" }
plays = { path = "s3://bucket/plays", format = "delta" }
"""


def load(folder: Path, text: str) -> tuple[NamedSelection, ...]:
    file = folder / "experiments.toml"
    file.write_text(text)
    return load_selections(file)


def test_toml_says_the_same_as_python(tmp_path: Path) -> None:
    key = ("profile_id", "country", "device")
    tables = {
        "impressions": TableSource(str(tmp_path / "events/impressions"), "parquet"),
        "plays": TableSource("s3://bucket/plays", "delta"),
    }
    query = "SELECT profile_id, country, device FROM impressions WHERE date = :date"
    assert load(tmp_path, TOML) == (
        NamedSelection(
            query, key, ("country",), {"US": 100, "default": 50}, seed=7, id="binge_watchers", tables=tables
        ),
        NamedSelection("SELECT * FROM impressions", key, fraction=0.1, id="everyone", tables=tables),
    )


@pytest.mark.parametrize(
    ("old", "new", "place", "problem"),
    [
        ("seed = 7", "sed = 7", "line 7: experiments.binge_watchers.sed", "unknown field 'sed' → did you mean 'seed'?"),
        ("seed = 7", 'seed = "7"', "line 7: experiments.binge_watchers.seed", "Expected `integer`, got `string`"),
        ("seed = 7", "services = []", "line 7: experiments.binge_watchers.services", "services is empty → name some"),
        (
            "seed = 7",
            'services = ["a", "a"]',
            "line 7: experiments.binge_watchers.services",
            "services is ('a', 'a'), expected a list of different names",
        ),
        ("seed = 7", "seed = true", "line 7: experiments.binge_watchers.seed", "Expected `integer`, got `boolean`"),
        ("seed = 7", "fraction = 0.5", "line 2: experiments.binge_watchers", "needs either a quota or a fraction"),
        ("fraction = 0.1", "", "line 9: experiments.everyone", "needs either a quota or a fraction → write"),
        (
            "fraction = 0.1",
            "fraction = 0",
            "line 12: experiments.everyone.fraction",
            "fraction is 0, expected a number in (0, 1]",
        ),
        ("fraction = 0.1", "fraction = 1.5", "line 12: experiments.everyone.fraction", "fraction is 1.5"),
        ("fraction = 0.1", "fraction = nan", "line 12: experiments.everyone.fraction", "fraction is nan"),
        (
            "US = 100",
            "US = -1",
            "line 6: experiments.binge_watchers.quota",
            "quota is -1, expected a count of contexts >= 0",
        ),
        ("US = 100", 'US = "many"', "line 6: experiments.binge_watchers.quota", "quota is 'many'"),
        (
            "US = 100",
            "US = { tv = 1 }",
            "line 6: experiments.binge_watchers.quota",
            "quota nests deeper than its strata",
        ),
        ('strata = ["country"]', "", "line 6: experiments.binge_watchers.quota", "quota nests deeper than its strata"),
        ('strata = ["country"]', 'strata = "country"', "line 5: experiments.binge_watchers.strata", "Expected `array`"),
        ('strata = ["country"]', "strata = [1]", "line 5: experiments.binge_watchers.strata[0]", "Expected `string`"),
        (
            'strata = ["country"]',
            'strata = ["a", "a"]',
            "line 5: experiments.binge_watchers.strata",
            "strata is ('a', 'a'), expected a list of",
        ),
        (
            'key = ["profile_id", "country", "device"]\nfraction',
            "key = []\nfraction",
            "line 11: experiments.everyone.key",
            "key is empty",
        ),
        (
            'key = ["profile_id", "country", "device"]\nfraction',
            "fraction",
            "line 9: experiments.everyone.key",
            "is missing",
        ),
        (
            'query = "SELECT * FROM impressions"',
            'query = " "',
            "line 10: experiments.everyone.query",
            "query is empty → write query",
        ),
        (
            "[experiments.everyone]",
            "[everyone]",
            "line 9: everyone",
            "unknown field 'everyone' → known: experiments, namespace, tables",
        ),
        ('path = "events/impressions"', 'format = "delta"', "line 15: tables.impressions.path", "is missing"),
        (
            'format = "delta"',
            "version = 3",
            "line 16: tables.plays.version",
            "version is 3, but tables of format parquet",
        ),
        ('"delta"', '"delta", version = -1', "line 16: tables.plays.version", "version is -1, expected one >= 0"),
        ('"delta"', '"delta", version = "1"', "line 16: tables.plays.version", "Expected `integer`, got `string`"),
        ("[tables]", "[tables", "line 14", "is not TOML: Expected ']'"),
        (TOML, "", "line 1", "no experiment → write a table"),
        (TOML, "experiments = 3", "line 1: experiments", "Expected `table`, got `integer`"),
    ],
)
def test_what_is_wrong_in_toml_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, place: str, problem: str
) -> None:
    assert old in TOML
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, TOML.replace(old, new))
    assert str(raised.value).startswith(f"{tmp_path}/experiments.toml, {place}: ")
    assert problem in str(raised.value)


def test_a_whole_fraction_gives_the_context_set_id_of_earlier_releases(tmp_path: Path) -> None:
    file = tmp_path / "everyone.toml"
    file.write_text(
        '[experiments.everyone]\nquery = "SELECT profile_id FROM profiles"\nkey = ["profile_id"]\nfraction = 1\n'
    )
    assert _context_set_id(load_selections(file), date(2026, 1, 1)) == "2026-01-01-f962cc495a22"


def test_services_are_part_of_a_selections_content_where_they_are_named(tmp_path: Path) -> None:
    every = load(tmp_path, TOML)[0]
    some = load(tmp_path, TOML.replace("seed = 7", 'seed = 7\nservices = ["history", "popular"]'))[0]
    assert (every.services, some.services) == (None, ("history", "popular"))
    assert "services" not in every.to_json()
    assert len({every.digest, some.digest}) == 2
    assert every.digest == load(tmp_path, TOML)[0].digest


def test_a_table_without_a_version_says_nothing_of_versions(tmp_path: Path) -> None:
    old, new = load(tmp_path, TOML)[0], load(tmp_path, TOML.replace('"delta"', '"delta", version = 3'))[0]
    assert old.to_json()["tables"]["plays"] == {"path": "s3://bucket/plays", "format": "delta"}
    assert new.to_json()["tables"]["plays"] == {"path": "s3://bucket/plays", "format": "delta", "version": 3}
    assert new.tables["plays"].options == {"versionAsOf": "3"}


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gone.toml"):
        load_selections(tmp_path / "gone.toml")


@pytest.mark.parametrize(
    ("quota", "sizes"),
    [
        (5, {("US", "tv"): 5, ("FR", "tv"): 5}),
        ({"US": 7}, {("US", "tv"): 7, ("US", "phone"): 7, ("FR", "tv"): 0}),
        ({"US": {"tv": 1}, "default": 2}, {("US", "tv"): 1, ("US", "phone"): 0, ("FR", "tv"): 2}),
        ({"default": {"tv": 3, "default": 4}}, {("US", "tv"): 3, ("FR", "phone"): 4}),
    ],
)
def test_a_quota_counts_for_what_it_names(quota: Any, sizes: dict[tuple[str, ...], int]) -> None:
    selection = ContextSelection("SELECT 1", ("profile_id",), ("country", "device"), quota)
    assert {stratum: selection.sample_size(stratum, 1000) for stratum in sizes} == sizes


def test_a_table_in_s3_is_read_by_sparks_own_way_there() -> None:
    table = TableSource("s3://bucket/a%20b/plays?endpoint=http://host:9000&region=eu-west-1", "delta", 3)
    assert (table.in_s3, table.location) == (True, "s3a://bucket/a b/plays")
    assert table.options == {
        "fs.s3a.bucket.bucket.endpoint": "http://host:9000",
        "fs.s3a.bucket.bucket.path.style.access": "true",
        "fs.s3a.bucket.bucket.endpoint.region": "eu-west-1",
        "versionAsOf": "3",
    }
    plain = TableSource("/a/plays.parquet")
    assert (plain.in_s3, plain.location, plain.options) == (False, "/a/plays.parquet", {})
    with pytest.raises(ConfigError, match="unknown parameter of an s3:// URI 'secret'"):
        TableSource("s3://bucket/plays?secret=SECRET")


def test_a_path_that_exists_is_no_pattern_and_what_follows_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "[x] {y} *"
    folder.mkdir()
    (folder / "day?.parquet").touch()
    assert TableSource(f"{folder}/day?.parquet").location == rf"{tmp_path}/\[x\] \{{y\}} \*/day\?.parquet"
    assert TableSource(f"{folder}/*.parquet").location == rf"{tmp_path}/\[x\] \{{y\}} \*/*.parquet"
    assert TableSource(f"{folder}/plays", "delta").location == f"{folder}/plays"
