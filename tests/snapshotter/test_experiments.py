from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ConfigError
from snapshotter.experiments import Experiment, TableSource, load_experiments

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


def load(folder: Path, text: str) -> tuple[Experiment, ...]:
    file = folder / "experiments.toml"
    file.write_text(text)
    return load_experiments(file)


def test_toml_says_the_same_as_python(tmp_path: Path) -> None:
    key = ("profile_id", "country", "device")
    tables = {
        "impressions": TableSource(str(tmp_path / "events/impressions"), "parquet"),
        "plays": TableSource("s3://bucket/plays", "delta"),
    }
    query = "SELECT profile_id, country, device FROM impressions WHERE date = :date"
    assert load(tmp_path, TOML) == (
        Experiment("binge_watchers", query, key, ("country",), {"US": 100, "default": 50}, seed=7, tables=tables),
        Experiment("everyone", "SELECT * FROM impressions", key, fraction=0.1, tables=tables),
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "seed = 7",
            "sed = 7",
            "unknown field in .*experiments.toml: 'experiments.binge_watchers.sed' → did you mean .*seed",
        ),
        ("seed = 7", 'seed = "7"', "experiments.binge_watchers.seed is '7', expected int"),
        ("seed = 7", "seed = true", "experiments.binge_watchers.seed is True, expected int"),
        ("seed = 7", "fraction = 0.5", "'binge_watchers': needs either a quota or a fraction"),
        ("fraction = 0.1", "", "'everyone': needs either a quota or a fraction → write"),
        ("fraction = 0.1", "fraction = 0", r"'everyone': fraction is 0, expected one in \(0, 1\]"),
        ("fraction = 0.1", "fraction = 1.5", "'everyone': fraction is 1.5"),
        ("fraction = 0.1", "fraction = nan", "'everyone': fraction is nan"),
        ("US = 100", "US = -1", "'binge_watchers': quota is -1, expected a count of contexts >= 0"),
        ("US = 100", 'US = "many"', "'binge_watchers': quota is 'many'"),
        ("US = 100", "US = { tv = 1 }", "'binge_watchers': quota nests deeper than its strata"),
        ('strata = ["country"]', "", "'binge_watchers': quota nests deeper than its strata"),
        ('strata = ["country"]', 'strata = "country"', "experiments.binge_watchers.strata is 'country', expected list"),
        ('strata = ["country"]', "strata = [1]", "experiments.binge_watchers.strata is 1, expected str"),
        ('strata = ["country"]', 'strata = ["a", "a"]', "strata is .*, expected a list of different columns"),
        ('key = ["profile_id", "country", "device"]\nfraction', "key = []\nfraction", "'everyone': key is empty"),
        ('key = ["profile_id", "country", "device"]\nfraction', "fraction", "experiments.everyone.key is missing"),
        ('query = "SELECT * FROM impressions"', 'query = " "', "'everyone': an experiment needs an id and a query"),
        ("[experiments.everyone]", "[everyone]", "unknown field in .*'everyone'"),
        ('path = "events/impressions"', 'format = "delta"', "tables.impressions.path is missing"),
        ("[tables]", "[tables", "experiments.toml: .*line"),
        (TOML, "", "experiments.toml: no experiment → write a table"),
        (TOML, "experiments = 3", "experiments is 3, expected dict"),
    ],
)
def test_what_is_wrong_in_toml_is_named_with_its_file(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TOML
    with pytest.raises(ConfigError, match=message) as raised:
        load(tmp_path, TOML.replace(old, new))
    assert str(tmp_path / "experiments.toml") in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gone.toml"):
        load_experiments(tmp_path / "gone.toml")


@pytest.mark.parametrize(
    ("quota", "asked"),
    [
        (5, {("US", "tv"): 5, ("FR", "tv"): 5}),
        ({"US": 7}, {("US", "tv"): 7, ("US", "phone"): 7, ("FR", "tv"): 0}),
        ({"US": {"tv": 1}, "default": 2}, {("US", "tv"): 1, ("US", "phone"): 0, ("FR", "tv"): 2}),
        ({"default": {"tv": 3, "default": 4}}, {("US", "tv"): 3, ("FR", "phone"): 4}),
    ],
)
def test_a_quota_counts_for_what_it_names(quota: Any, asked: dict[tuple[str, ...], int]) -> None:
    experiment = Experiment("e", "SELECT 1", ("profile_id",), ("country", "device"), quota)
    assert {stratum: experiment.asked(stratum, 1000) for stratum in asked} == asked
