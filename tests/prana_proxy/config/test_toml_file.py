from __future__ import annotations

import json
import sys
import tomllib
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prana_proxy.config.toml_file import MAX_BYTES, TomlContent, TomlFile, place_of, read_toml
from prana_proxy.config.toml_lines import lines_of
from schemas.errors import ConfigError, DataKeyError, NaiveTimeError


@dataclass(frozen=True)
class Rule:
    max_age: timedelta | None = None
    lag: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        if self.max_age is not None and self.max_age < self.lag:
            raise ConfigError.because(f"max_age {self.max_age} is below the lag {self.lag}", "write a longer max_age")


@dataclass(frozen=True)
class Encoder:
    encoder: str
    parameters: Mapping[str, int | float | bool | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if ":" not in self.encoder:
            raise DataKeyError.because("an encoder names no place", 'write encoder = "module:name"')


@dataclass(frozen=True)
class Spec:
    labels: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    encoders: tuple[str | Encoder, ...]
    as_of: Mapping[str, Rule] = field(default_factory=dict)
    shares: tuple[float, float, float] = (0.7, 0.2, 0.1)
    share: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    model: Encoder | None = None
    anything: Any = None


SPEC = """\
# as_of.viewing_history.lag = "P9D"
labels = ["time", "label"]
encoders = [
    "m:f",
    { encoder = "m:g", parameters = { days = 7 } },
]

[as_of.viewing_history]
lag = "PT5M"
max_age = "P7D"

[as_of."my list"]
max_age = "P1D"

[model]
encoder = "m:f"
parameters.depth = 3
"""


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    monkeypatch.chdir(tmp_path)

    def read(text: str) -> str:
        Path("f.toml").write_bytes(text.encode())
        with pytest.raises(ConfigError) as raised:
            read_toml("f.toml", Spec)
        return str(raised.value)

    return read


def test_a_file_becomes_a_dataclass(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text(SPEC)
    assert read_toml(tmp_path / "f.toml", Spec) == Spec(
        labels=("time", "label"),
        encoders=("m:f", Encoder("m:g", {"days": 7})),
        as_of={
            "viewing_history": Rule(timedelta(days=7), timedelta(minutes=5)),
            "my list": Rule(timedelta(days=1)),
        },
        model=Encoder("m:f", {"depth": 3}),
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # nobody reads it
        ("labels", "lables", "line 2: lables: unknown field 'lables' → did you mean 'labels'? known: anything, as_of"),
        ("lag = ", "lagg = ", "line 9: as_of.viewing_history.lagg: unknown field 'lagg' → did you mean 'lag'?"),
        ('max_age = "P1D', 'maxage = "P1D', "line 13: as_of.\"my list\".maxage: unknown field 'maxage' → did you"),
        ("parameters = {", '"para meters" = {', "line 5: encoders[1].\"para meters\": unknown field 'para meters' →"),
        ("[model]", "[model.encodr]", "line 15: model.encodr: unknown field 'encodr' → did you mean 'encoder'?"),
        ("[model]", "[[modl]]", "line 15: modl: unknown field 'modl' → did you mean 'model'?"),
        # a wrong type
        ('"label"]', "\n\n7]", "line 4: labels[1]: Expected `string`, got `integer`"),
        ("days = 7", "days = [7]", "line 5: encoders[1].parameters.days: Expected `"),
        ('"P7D"', "7", "line 10: as_of.viewing_history.max_age: Expected `duration`, got `integer`"),
        ('"P7D"', '"7 days"', "line 10: as_of.viewing_history.max_age: Invalid ISO8601 duration"),
        ("[model]", "[as_of]\nlist = 1\n[model]", "line 16: as_of.list: Expected `table`, got `integer`"),
        ("labels", "shares = [1, 2]\nlabels", "line 2: shares: Expected `array` of length 3"),
        ("labels", "shares = [1, 2, '3']\nlabels", "line 2: shares[2]: Expected `float`, got `string`"),
        ("labels", "share = 0\nlabels", "line 2: share: Expected `float` > 0.0"),
        # missing
        ("labels", "#", "line 1: labels: is missing → add it"),
        ('encoder = "m:g",', "", "line 5: encoders[1].encoder: is missing → add it"),
        ('encoder = "m:f"', "", "line 15: model.encoder: is missing → add it"),
        # a dataclass's own check: at the field that its message begins with, else at the table
        ('"P1D"', '"-P1D"', 'line 13: as_of."my list".max_age: max_age -1 day, 0:00:00 is below the lag 0:00:00 → w'),
        ('"P7D"', '"PT1M"', "line 10: as_of.viewing_history.max_age: max_age 0:01:00 is below the lag 0:05:00 → write"),
        ('"m:g"', '"g"', 'line 5: encoders[1]: an encoder names no place → write encoder = "module:name"'),
        # not TOML
        ("labels = ", "labels = = ", "line 2: is not TOML: Invalid value (at line 2, column 10)"),
        ("lag = ", "max_age = ", "line 10: is not TOML: Cannot overwrite a value (at line 10, column 16)"),
        ('max_age = "P1D"', '"', "line 13: is not TOML: Illegal character '\\n' (at line 13, column 2)"),
        ('"P7D"', '"""P7D"', "line 10: is not TOML: Unterminated string (at end of document)"),
        ('"P7D"', "'''P7D'", "line 10: is not TOML: Expected \"'''\" (at end of document)"),
        ("depth = 3", "depth = [\n\n3", "line 19: is not TOML: Unclosed array (at end of document)"),
        ('"PT5M"', "9" * 5000, "line 9: is not TOML: Exceeds the limit"),
        ('"PT5M"', f"[\n{'[' * 5000}\n", "line 10: is not TOML: maximum recursion depth exceeded"),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_field(refusal: Any, old: str, new: str, message: str) -> None:
    assert old in SPEC
    found = refusal(SPEC.replace(old, new))
    assert found.startswith(f"f.toml, {message}")
    assert "\n" not in found


def test_windows_lines_count_as_lines(refusal: Any) -> None:
    assert refusal(SPEC.replace("lag = ", "lagg = ").replace("\n", "\r\n")).startswith("f.toml, line 9: as_of.")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{ x = ", " }")])
def test_a_file_nests_as_deep_as_can_be_read_or_is_refused(refusal: Any, opening: str, closing: str) -> None:
    def found(depth: int) -> str:
        return refusal(f"#\nanything = {opening * depth}1{closing * depth}\nlables = 1\n")

    depths = range(1, sys.getrecursionlimit())
    first = depths[bisect_left(depths, True, key=lambda depth: "is not TOML" in found(depth))]
    around = {found(depth)[:32] for depth in range(first - 8, first + 8)}
    assert around == {"f.toml, line 3: lables: unknown ", "f.toml, line 2: is not TOML: max"}


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        TomlFile.read(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        TomlFile.read(tmp_path)
    (tmp_path / "f.toml").write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(ConfigError, match=r"f\.toml, line 2: is not TOML: is not UTF-8: invalid start byte"):
        TomlFile.read(tmp_path / "f.toml")


def test_a_file_that_is_too_large_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_bytes(b"#" * MAX_BYTES)
    assert TomlFile.read(path).content == {}
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="f.toml: is larger than 1048576 bytes"):
        TomlFile.read(path)
    with pytest.raises(ConfigError, match="/dev/zero: is larger"):
        TomlFile.read("/dev/zero")


def test_later_checks_name_lines_too(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text(SPEC)
    file = TomlFile.read(path)
    assert file.line('as_of."my list".max_age') == file.line(("as_of", "my list", "max_age")) == 13
    assert file.line("as_of.my_list.lag") == file.line("as_of") == 8
    assert file.line("encoders[1].rename") == 5
    assert file.line("nothing") == file.line("") == 1
    error = file.error("as_of.viewing_history", "unknown service", "see services.toml")
    assert str(error) == f"{path}, line 8: as_of.viewing_history: unknown service → see services.toml"
    assert str(file.error((), "no encoder")) == f"{path}, line 1: no encoder"
    with pytest.raises(ConfigError, match="line 5: encoders\\[1\\]: naive$"), file.at(("encoders", 1)):
        raise NaiveTimeError("naive")
    for message, place in {
        "lag is long": "line 9: as_of.viewing_history.lag",
        "rule 'x': 'lag' is long": "line 9: as_of.viewing_history.lag",
        "lags are long": "line 8: as_of.viewing_history",
        "max_age is below lag": "line 10: as_of.viewing_history.max_age",
        "the lag is long": "line 8: as_of.viewing_history",
    }.items():
        with pytest.raises(ConfigError) as raised, file.at("as_of.viewing_history"):
            raise ConfigError(message)
        assert str(raised.value) == f"{path}, {place}: {message}"
    with pytest.raises(ConfigError, match="line 8: as_of.nothing.here: lag$"), file.at("as_of.nothing.here"):
        raise ConfigError("lag")


def test_without_a_file_errors_name_the_field() -> None:
    with pytest.raises(ConfigError, match=r"^model\.encodr: unknown field 'encodr' → did you mean 'encoder'"):
        TomlContent({"labels": ["a"], "encoders": [], "model": {"encodr": "m:f"}}).build(Spec)
    with pytest.raises(ConfigError, match=r"^encoders\[0\]: Expected `string \| table`, got `integer`$"):
        TomlContent({"labels": ["a"], "encoders": [1]}).build(Spec)


@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"])), unique=True))
def test_a_place_in_words_is_the_place(names: list[str]) -> None:
    text = "".join(f"{quoted}.{quoted} = [\n0,\n0]\n" for quoted in (json.dumps(n, ensure_ascii=False) for n in names))
    file = TomlFile(tomllib.loads(text), "f.toml", lines_of(text))
    for i, name in enumerate(names):
        for steps, line in {(name,): 1, (name, name): 1, (name, name, 0): 2, (name, name, 1): 3}.items():
            assert file.line(place_of(steps)) == file.line(steps) == 3 * i + line
