import pytest

from delorean.config import Project, load_project
from schemas.errors import ConfigError
from schemas.toml_file import read_toml


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
    path = tmp_path / "f.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_toml(path, Project)
    found = str(error.value).replace(str(path), "f.toml")
    assert found.startswith(message)
    assert "\n" not in found
