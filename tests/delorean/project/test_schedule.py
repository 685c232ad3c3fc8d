"""Every spec in a project's folder is on schedule, and none stands in another's way."""

import re
from datetime import date

import pytest

from delorean.project.config import Schedule
from delorean.project.schedule import experiments_of, owners_in, scheduled
from schemas.errors import ConfigError

SPEC = """
encoders = ["encoders.library:listed"]
[tables]
shown = { path = "shown.parquet" }
[labels]
table = "shown"
items = ["video_id"]
"""
CONTEXTS = """
[contexts]
query = "SELECT profile_id FROM shown"
key = ["profile_id"]
quota = 5
"""
SELECTION = """
[experiments.everyone]
query = "SELECT profile_id FROM shown"
key = ["profile_id"]
fraction = 1.0
"""


TEST = """
unit = "profile_id"
start = 2026-01-05T00:00:00Z
end = 2026-01-19T00:00:00Z
[cells]
control = { package = "registry:production", share = 0.5 }
candidate = { package = "packages/home-2", share = 0.5 }
"""


def test_contexts_of_a_test_are_on_schedule_until_it_ends(tmp_path):
    (tmp_path / "home-2.toml").write_text(TEST + CONTEXTS)
    (tmp_path / "everyone.toml").write_text(SELECTION)
    schedule = Schedule(str(tmp_path))
    both = ["everyone.toml", "home-2.toml"]
    for day, names in ((None, both), (date(2026, 1, 18), both), (date(2026, 1, 19), both[:1])):
        assert [path.name for path in scheduled(schedule, day).selected] == names, day


def test_every_spec_in_the_folder_is_on_schedule(tmp_path):
    (tmp_path / "home.toml").write_text(SPEC + CONTEXTS)
    (tmp_path / "search.toml").write_text(SPEC + '[schedule]\ntraining = "daily"\n')
    (tmp_path / "everyone.toml").write_text(SELECTION)
    (tmp_path / "delorean.toml").write_text("proxies = []\n")
    found = scheduled(Schedule(str(tmp_path)))
    assert [path.name for path in found.selected] == ["everyone.toml", "home.toml"]
    assert [(each.name, each.training, each.error) for each in found.experiments] == [
        ("home", "weekly", None),
        ("search", "daily", None),
    ]


def test_when_an_experiment_is_trained_is_no_part_of_what_it_is(tmp_path):
    for name, text in {
        "a": SPEC,
        "b": SPEC + '[schedule]\ntraining = "never"\n',
        "c": SPEC + "[split]\nseed = 5\n",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.toml").write_text(text)
    first, second, other = (scheduled(Schedule(str(tmp_path / name))).experiments[0].id for name in "abc")
    assert first == second != other


def test_two_experiments_of_one_name_are_an_error_unless_each_has_its_namespace(tmp_path):
    schedule = Schedule(str(tmp_path))

    def experiments(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.toml").write_text(text + SPEC + CONTEXTS)
        return {each.spec.stem: each for each in scheduled(schedule).experiments}

    both = experiments(home="", other='name = "home"\n', third="")
    for name in ("home", "other"):
        assert re.search(
            r"experiment 'home' is in \S+ and in \S+ → rename one, or give one a namespace$", both[name].error
        )
        assert (both[name].id, both[name].training) == ("", "never")
    assert both["third"].error is None
    alice, bob = (f'namespace = "{name}"\nname = "home"\nowner = "{name}"\n' for name in ("alice", "bob"))
    own = experiments(home=alice, other=bob)
    assert {name: (each.name, each.error) for name, each in own.items()} == {
        "home": ("alice.home", None),
        "other": ("bob.home", None),
        "third": ("third", None),
    }
    assert own["home"].id != own["other"].id
    assert owners_in(schedule) == {"alice.home": "alice", "bob.home": "bob"}
    selected = scheduled(schedule).selected
    assert [each.id for each in experiments_of(selected)] == ["alice.home", "bob.home", "third"]
    (tmp_path / "more.toml").write_text('namespace = "bob"\n' + SELECTION)
    assert [each.id for each in experiments_of([tmp_path / "more.toml"])] == ["bob.everyone"]


def test_a_spec_that_cannot_be_read_is_there_with_its_reason_and_stands_in_no_others_way(tmp_path):
    (tmp_path / "broken.toml").write_text("[labels")
    (tmp_path / "home.toml").write_text(SPEC + CONTEXTS)
    (tmp_path / "wrong.toml").write_text(SELECTION.replace("1.0", "7.0"))
    found = scheduled(Schedule(str(tmp_path)))
    assert [path.name for path in found.selected] == ["home.toml"]
    errors = {each.name: each.error for each in found.experiments}
    assert errors["home"] is None
    assert "broken.toml, line 1: is not TOML" in errors["broken"]
    assert "wrong.toml, line 5: experiments.everyone.fraction: " in errors["wrong"]


def test_a_set_of_services_that_is_not_there_is_an_error_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown set of services 'al' → did you mean 'all'"):
        Schedule().snapshot_set("al")


@pytest.mark.parametrize(("specs", "reason"), [("gone", "No such file"), ("loop", "Too many levels of symbolic links")])
def test_a_folder_of_specs_that_cannot_be_listed_is_an_error_and_not_an_empty_schedule(tmp_path, specs, reason):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match=f"{specs} cannot be listed: {reason}"):
        scheduled(Schedule(str(tmp_path / specs)))
