import pytest

from delorean.project.config import Project, access_to_proxies, load_project
from prana_proxy.config.credentials import ProxyCredentials
from prana_proxy.config.toml_file import read_toml
from schemas.errors import ConfigError


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
        (
            "[schedule.snapshots.all]\nevery_hours = 5",
            "f.toml, line 2: schedule.snapshots.all.every_hours: every_hours is 5",
        ),
        ("[schedule.snapshots.all]\nfloor = 2.0", "f.toml, line 2: schedule.snapshots.all.floor: floor is 2.0"),
        (
            '[schedule.snapshots.all]\nbelow = "wran"',
            "f.toml, line 2: schedule.snapshots.all.below: Invalid enum value 'wran'",
        ),
        ('[schedule.snapshots.all]\nlate = "-PT1H"', "f.toml, line 2: schedule.snapshots.all.late: late is -1 day"),
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


PROXY = """
[proxy]
authority = "ca.pem"
certificate = "/elsewhere/me.pem"
key = "me.key"
token_file = "token"
"""


def test_what_proxies_demand_to_see_lies_beside_the_file(tmp_path):
    path = tmp_path / "delorean.toml"
    path.write_text(PROXY)
    (tmp_path / "token").write_text("a-secret\n")
    access = access_to_proxies(load_project(path))
    assert access == ProxyCredentials(
        str(tmp_path / "ca.pem"), "/elsewhere/me.pem", str(tmp_path / "me.key"), "a-secret"
    )
    assert "a-secret" not in repr(access)


def test_proxies_that_demand_nothing_are_shown_nothing(tmp_path):
    path = tmp_path / "delorean.toml"
    path.write_text("")
    assert access_to_proxies(load_project(path)) == ProxyCredentials()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "token_file .*/token cannot be read: No such file"),
        (b"", "token_file .*/token holds 0 lines, expected a token"),
        (b"one\ntwo\n", "token_file .*/token holds 2 lines, expected a token"),
        (b"\xff", "token_file .*/token cannot be read: it is not UTF-8"),
    ],
)
def test_a_token_that_cannot_be_is_one_clear_error(tmp_path, content, message):
    path = tmp_path / "delorean.toml"
    path.write_text('[proxy]\ntoken_file = "token"')
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        access_to_proxies(load_project(path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('key = "k"', "proxy: has one of certificate and key, expected both or none"),
        ('key = "k"\ncertificate = "c"', "proxy: has a certificate but no authority"),
        ('authorty = "k"', "proxy.authorty: unknown field 'authorty' → did you mean 'authority'"),
    ],
)
def test_half_of_what_proxies_demand_is_refused(tmp_path, fields, message):
    path = tmp_path / "delorean.toml"
    path.write_text(f"[proxy]\n{fields}")
    with pytest.raises(ConfigError, match=f"delorean.toml, line [123]: {message}"):
        load_project(path)


def test_a_project_file_that_cannot_be_looked_at_is_not_called_missing(tmp_path):
    (tmp_path / "delorean.toml").symlink_to("delorean.toml")
    with pytest.raises(ConfigError, match="delorean.toml cannot be read: Too many levels of symbolic links"):
        load_project(tmp_path / "delorean.toml")
