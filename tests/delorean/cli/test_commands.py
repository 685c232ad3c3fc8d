import json
import subprocess
import sys
from datetime import UTC, datetime

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from delorean import __version__
from delorean.cli.commands import cli
from schemas.errors import ConfigError, ProxyUnavailableError

SERVERS = {"prana serve", "serve"}


def commands(group, prefix=""):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


ALL = dict(commands(cli))


@pytest.mark.parametrize("name", ALL)
def test_every_command_teaches_itself_by_examples_that_it_understands(name):
    shown = CliRunner().invoke(cli, [*name.split(), "--help"]).output
    examples = [line.split("Example: ")[1] for line in shown.splitlines() if "Example: " in line]
    assert examples
    for example in examples:
        arguments = example.split()[1 + len(name.split()) :]
        assert example.startswith(f"delorean {name}")
        context = click.Context(ALL[name], resilient_parsing=True)
        ALL[name].make_parser(context).parse_args(arguments)


@pytest.mark.parametrize("name", sorted(ALL.keys() - SERVERS))
def test_every_command_that_ends_speaks_json(name):
    assert any("--json" in parameter.opts for parameter in ALL[name].params)


def test_help_comes_without_loading_what_commands_need():
    code = """
import sys
from delorean.cli.commands import cli
cli(["--help"], standalone_mode=False)
print(sorted({"pyspark", "pyarrow", "numba", "numpy", "pandas", "rich", "sklearn"} & set(sys.modules)))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"


def test_the_version_is_the_projects():
    assert CliRunner().invoke(cli, ["--version"]).output == f"delorean, version {__version__}\n"


def test_completion_is_there():
    script = subprocess.run(
        [sys.executable, "-c", "from delorean.cli import main; main()"],
        env={"_DELOREAN_COMPLETE": "bash_source", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_delorean_completion" in script.stdout


@pytest.fixture
def failing():
    """A group like ours, with commands that fail."""
    group = type(cli)("group", params=cli.params, callback=cli.callback)

    @group.command()
    def ours() -> None:
        raise ConfigError.because("the field is wrong", "mend it")

    @group.command()
    def passing() -> None:
        raise ProxyUnavailableError("nobody answers")

    @group.command()
    def theirs() -> None:
        raise KeyError("some\nthing")

    return group


def test_an_error_of_ours_is_one_line(failing):
    result = CliRunner().invoke(failing, ["ours"])
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", "error: the field is wrong → mend it\n")


def test_who_runs_a_command_is_told_whether_the_same_may_go_well(failing):
    assert [CliRunner().invoke(failing, [name]).exit_code for name in ("ours", "passing")] == [2, 1]


def test_an_unexpected_error_is_one_line_that_says_how_to_see_more(failing):
    result = CliRunner().invoke(failing, ["theirs"])
    assert result.exit_code == 1
    assert result.stderr.startswith("unexpected KeyError: ")
    assert result.stderr.count("\n") == 1
    assert "--debug" in result.stderr


@pytest.mark.parametrize("how", [{"args": ["--debug", "ours"]}, {"args": ["ours"], "env": {"DELOREAN_DEBUG": "1"}}])
def test_debugging_shows_where_an_error_comes_from(failing, how):
    assert isinstance(CliRunner().invoke(failing, **how).exception, ConfigError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["travel", "k", "--at", "2026-01-01T00:00"], "has no time zone"),
        (["travel", "k", "--at", "soon"], "is not a time"),
        (["snapshot", "--date", "2026-02-30"], "is not a day"),
        (["selct"], "No such command 'selct'"),
    ],
)
def test_a_wrong_argument_says_what_is_expected(arguments, message):
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_project_without_a_file_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["index", "runs"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: there is no project file delorean.toml → ")


def test_an_index_is_prepared_once_and_its_credentials_are_not_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "delorean.toml").write_text("")
    reported = [json.loads(CliRunner().invoke(cli, ["index", "init", "--json"]).stdout) for _ in range(2)]
    assert reported == [{"index": f"sqlite://{tmp_path}/data/index.db", "new": new} for new in (True, False)]
    (tmp_path / "delorean.toml").write_text('index = "cassandra://me:secret@127.0.0.1:1/features"')
    result = CliRunner().invoke(cli, ["index", "init", "--replication", "dc1=3,dc2=2"])
    assert result.exit_code == 1  # the next try may find one
    assert result.stderr.startswith("error: index cassandra://127.0.0.1:1/features has no host that answers")
    assert result.stderr.count("\n") == 1
    assert "secret" not in result.output


@pytest.mark.parametrize("copies", ["", "three", "0", "-1", "3,2", "dc1=", "dc1=3,2", "dc1=x"])
def test_a_wrong_number_of_copies_says_what_is_expected(copies, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "delorean.toml").write_text("")
    result = CliRunner().invoke(cli, ["index", "init", "--replication", copies])
    assert (result.exit_code, "expected one such as 3 or dc1=3,dc2=3" in result.stderr) == (2, True)


def test_a_file_keeps_no_copies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "delorean.toml").write_text("")
    result = CliRunner().invoke(cli, ["index", "init", "--replication", "3"])
    assert (result.exit_code, result.stderr) == (2, "error: SQLite keeps no copies → leave --replication out\n")


def test_a_version_counts_from_when_its_table_was_read_unless_somebody_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "delorean.toml").write_text("")
    pq.write_table(pa.table({"film_id": [1, 2]}), tmp_path / "films.parquet")

    def ask(*words):
        return json.loads(CliRunner().invoke(cli, [*words, "--json"], catch_exceptions=False).stdout)

    before = datetime.now(UTC)
    assert ask("publish", "films", "films.parquet", "--version-id", "v1")["new"]
    [version] = ask("index", "globals", "films")["versions"]
    assert before <= datetime.fromisoformat(version["valid_from"]) <= datetime.now(UTC)
