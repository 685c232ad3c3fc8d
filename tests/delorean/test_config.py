import pytest

from delorean.config import Project, load_project
from delorean.experiment import EncoderSpec, ExperimentSpec, load_experiment
from schemas.errors import ConfigError
from schemas.toml_file import read_toml

SPEC = """
encoders = [
    "encoders.library.history:minutes_watched",
    { encoder = "encoders.library.history:minutes_watched", parameters = { window_days = 7 }, rename = { RENAME } },
]
[labels]
query = "SELECT 1"
items = ["video_id"]
[tables.plays]
path = "plays"
[as_of.my_list]
max_age = "P7D"
[split]
group = "profile_id"
[model]
seed = 3
""".replace("RENAME", 'minutes_watched = "minutes_watched_7d"')


def refusal(tmp_path, kind, text):
    path = tmp_path / "f.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_toml(path, kind)
    return str(error.value).replace(str(path), "f.toml")


def test_an_empty_project_file_means_the_defaults_beside_it(tmp_path):
    (tmp_path / "a b").mkdir()
    path = tmp_path / "a b" / "delorean.toml"
    path.write_text("")
    project = load_project(path)
    assert project.index == f"sqlite://{tmp_path}/a%20b/data/index.db"
    assert project.storage == f"file://{tmp_path}/a%20b/data"
    assert project.services == f"{tmp_path}/a b/services.toml"


def test_uris_stay_as_they_are(tmp_path):
    path = tmp_path / "delorean.toml"
    path.write_text('index = "sqlite:///x/i.db"\nstorage = "s3://bucket/prefix"')
    assert load_project(path).index == "sqlite:///x/i.db"
    assert load_project(path).storage == "s3://bucket/prefix"


def test_a_missing_project_file_says_how_to_name_one(tmp_path):
    with pytest.raises(ConfigError, match="--config"):
        load_project(tmp_path / "delorean.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("indx = 1", "f.toml, line 1: indx: unknown field 'indx' → did you mean 'index'?"),
        ("index = 1", "f.toml, line 1: index: Expected `string`, got `integer`"),
        ('proxies = ["a", 1]', "f.toml, line 1: proxies[1]: Expected `string`, got `integer`"),
        ("index = ", "f.toml, line 1: is not TOML: Invalid value (at end of document)"),
    ],
)
def test_a_wrong_project_file_is_one_clear_line(tmp_path, text, message):
    found = refusal(tmp_path, Project, text)
    assert found.startswith(message)
    assert "\n" not in found


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ('group = "', 'grup = "', "f.toml, line 14: split.grup: unknown field 'grup' → did you mean 'group'?"),
        ("max_age = ", "maxage = ", "f.toml, line 12: as_of.my_list.maxage: unknown field 'maxage' → did you"),
        ("path = ", "pth = ", "f.toml, line 10: tables.plays.pth: unknown field 'pth' → did you mean 'path'?"),
        ("rename = {", "renam = {", "f.toml, line 4: encoders[1].renam: unknown field 'renam'"),
        ('items = ["video_id"]', "", "f.toml, line 6: labels.items: is missing"),
        ('"P7D"', "7", "f.toml, line 12: as_of.my_list.max_age: Expected `duration`"),
        ('"P7D"', '"-P7D"', "f.toml, line 11: as_of.my_list: as-of rule has lag"),
        ('group = "profile_id"', "shares = [1, 0, 0]", "f.toml, line 13: split: split shares are (1.0, 0.0, 0"),
    ],
)
def test_a_wrong_spec_names_the_field(tmp_path, right, wrong, message):
    assert right in SPEC
    assert refusal(tmp_path, ExperimentSpec, SPEC.replace(right, wrong)).startswith(message)


def test_a_spec_configures_its_encoders_and_is_named_by_its_file(tmp_path):
    path = tmp_path / "homepage.toml"
    path.write_text(SPEC)
    spec = load_experiment(path)
    assert spec.name == "homepage"
    assert spec.feature_model.features == ("minutes_watched", "minutes_watched_7d")
    assert spec.tables["plays"].path == str(tmp_path / "plays")
    assert spec.model.build() is None


def test_the_hash_is_of_what_the_spec_says(tmp_path):
    path = tmp_path / "homepage.toml"
    path.write_text(SPEC)
    before = load_experiment(path).hash
    path.write_text(SPEC + "# a remark\n")
    assert load_experiment(path).hash == before
    path.write_text(SPEC.replace("seed = 3", "seed = 4"))
    assert load_experiment(path).hash != before


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("minutes_watched", 'write "module:name"'),
        ("encoders.library.nowhere:f", "No module named"),
        ("encoders.library.history:minutes_watchd", "did you mean 'minutes_watched'"),
        ("encoders.library.history:DAY", "put @feature_encoder on it"),
    ],
)
def test_an_encoder_that_is_not_there_is_a_clear_error(place, message):
    with pytest.raises(ConfigError, match=message):
        EncoderSpec(place).load()
