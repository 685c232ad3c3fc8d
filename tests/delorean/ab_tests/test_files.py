"""A test's file: what it declares, and one clear error for each thing that is wrong in it."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from delorean.ab_tests.files import read_test
from schemas.errors import AbTestError, ConfigError

DECLARED = """
unit = "profile_id"
seed = 7
start = 2026-01-05T00:00:00Z
end = 2026-01-19T00:00:00Z
layer = { name = "ranking", part = [0.0, 0.5] }
holdout = { share = 0.05 }

[cells.control]
package = "registry:production"
share = 0.5
[cells.candidate]
package = "packages/homepage-2"
share = 0.3
[cells.mixed]
interleave = ["control", "candidate"]
share = 0.2

[tables.plays]
path = "plays.parquet"
[metrics.hours]
table = "plays"
within = "P7D"
[plan]
effect = 0.02
"""


@pytest.fixture
def write(tmp_path):
    def write(text=DECLARED, name="homepage-2", **replaced):
        for old, new in replaced.items():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        return path

    return write


def test_a_file_is_read_as_it_declares(write):
    test = read_test(write())
    assert test.name == "homepage-2"
    assert list(test.cells) == ["control", "candidate", "mixed"]
    assert test.cells["mixed"].interleave == ("control", "candidate")
    assert test.start == datetime(2026, 1, 5, tzinfo=UTC)
    assert test.metrics["hours"].within == timedelta(days=7)
    assert test.share == pytest.approx(0.475)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("share = 0.3", "share = 0.4", r"homepage-2.toml, line 9: cells.* add up to 1.1, expected 1"),
        ("share = 0.2", "share = 0", r"line \d+: cells.mixed.share: share is 0"),
        ('table = "plays"', 'table = "play"', "metrics.hours.table: unknown table 'play' → did you mean 'plays'"),
        ("effect = 0.02", "effect = 0", "plan.effect: effect is 0"),
        ("T00:00:00Z\nend", "\nend", "start"),
        ("seed", "sed", "did you mean 'seed'"),
        ("[0.0, 0.5]", "[0.5, 0.5]", "layer.part: part is"),
    ],
)
def test_wrong_declarations_name_the_line_and_the_field(write, old, new, message):
    with pytest.raises(ConfigError, match=message):
        read_test(write(**{old: new}))


def test_overlapping_parts_of_a_layer_are_refused_while_both_run(write):
    path = write()
    write(DECLARED.replace("[0.0, 0.5]", "[0.4, 0.6]"), "other")
    with pytest.raises(ConfigError, match=r"part \[0.0, 0.5\] of 'ranking' overlaps \[0.4, 0.6\] of other.toml"):
        read_test(path)
    later = DECLARED.replace("[0.0, 0.5]", "[0.4, 0.6]").replace("01-19", "02-19").replace("01-05", "01-19")
    write(later, "other")
    assert read_test(path).name == "homepage-2"


def test_tests_of_a_layer_share_its_holdout(write):
    path = write()
    write(DECLARED.replace("[0.0, 0.5]", "[0.5, 1.0]").replace("0.05", "0.1"), "other")
    with pytest.raises(ConfigError, match=r"the hold-out of layer 'ranking' is 0.05, but 0.1 in other.toml"):
        read_test(path)


def test_files_beside_it_that_are_no_tests_do_not_matter(write):
    write("[services", "broken")
    write("x = 1", "other")
    assert read_test(write()).name == "homepage-2"


def test_the_spelling_of_a_file_does_not_change_its_digest(write):
    before = read_test(write()).digest
    assert read_test(write(DECLARED.replace("0.5\n", "0.50 # half\n"))).digest == before
    assert read_test(write(DECLARED.replace("seed = 7", "seed = 8"))).digest != before
    with_default = DECLARED.replace('within = "P7D"', 'within = "P7D"\nper_unit = "sum"')
    assert read_test(write(with_default)).digest == before


def test_known_members_are_balanced_within_strata_and_others_by_hash(write, tmp_path):
    countries = np.array(["US", "FR"])[(np.arange(1_000) % 7 == 0).astype(int)]
    pq.write_table(pa.table({"profile_id": np.arange(1_000), "country": countries}), tmp_path / "members.parquet")
    halves = DECLARED.replace("share = 0.3", "share = 0.5").replace(
        '[cells.mixed]\ninterleave = ["control", "candidate"]\nshare = 0.2\n', ""
    )
    stratified = 'strata = ["country"]\nmembers = { path = "members.parquet" }\n' + halves
    test, hashed = read_test(write(stratified)), read_test(write(halves, "b", ranking="else"))
    cells = test.allocate(pa.table({"profile_id": np.arange(2_000)}))
    for country in ("US", "FR"):
        counts = np.bincount(cells[:1_000][countries == country] + 1, minlength=3)
        assert abs(int(counts[1]) - int(counts[2])) <= 1
    by_hash = test.allocation.cells_of(pa.array(np.arange(2_000)))
    assert (cells[1_000:] == by_hash[1_000:]).all()
    assert ((cells >= 0) == (by_hash >= 0)).all()
    assert hashed.name == "b"


def test_members_that_occur_twice_are_refused(write, tmp_path):
    pq.write_table(pa.table({"profile_id": [1, 1]}), tmp_path / "members.parquet")
    test = read_test(write('members = { path = "members.parquet" }\n' + DECLARED))
    with pytest.raises(AbTestError, match="2 rows, but 1 different values of 'profile_id'"):
        test.allocate(pa.table({"profile_id": [1]}))
