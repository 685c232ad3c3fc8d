"""The stack's parts fit together: commands exist, something listens at each address, files are valid."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import click
import pyspark
import pytest
from airflow_settings import AIRFLOW
from stack_files import DOCKER, DOCKERFILE, ROOT, compose, parse

from delorean.cli.commands import cli
from delorean.project.config import Project, load_project
from prana_proxy.config.services_file import ProxyConfig, load_gateway_config, load_proxy_config
from schemas.errors import ConfigError

SERVICES = compose()["services"]
ETC = "/etc/delorean"  # where the containers have docker/delorean.toml and docker/services.toml
README = (DOCKER / "README.md").read_text()


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(DOCKER)
    return load_project(Path("delorean.toml"))


@pytest.fixture
def proxy(tmp_path: Path) -> ProxyConfig:
    """The proxy's configuration, with a token where the stack has a secret."""
    (tmp_path / "prana_token").write_text("token")
    text = (DOCKER / "services.toml").read_text().replace("/run/secrets", str(tmp_path))
    (tmp_path / "services.toml").write_text(text)
    return load_proxy_config(tmp_path / "services.toml")


def words(service: dict[str, Any], key: str = "command") -> list[str]:
    given = service.get(key) or []
    return shlex.split(given) if isinstance(given, str) else [str(word) for word in given]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Our commands in the stack, in images on their own, and in the README."""
    for name, service in SERVICES.items():
        if service["image"].startswith("delorean-") and name != "s3":
            yield name, [*words(service, "entrypoint"), *words(service)]
    for stage in parse(DOCKERFILE).stages.values():
        for command in stage.all("CMD"):
            yield f"image-{stage.name}", json.loads(command)
    shown = re.findall(r"^docker compose run (?:--rm )?(jobs|company) ?(.*)$", README, flags=re.MULTILINE)
    for number, (service, rest) in enumerate(shown):
        yield f"readme-{number}", [*words(SERVICES[service], "entrypoint"), *shlex.split(rest, comments=True)]
    for number, rest in enumerate(re.findall(r"^docker run .* delorean-jobs:\S+ (.*)$", README, flags=re.MULTILINE)):
        yield f"readme-run-{number}", shlex.split(rest)


@pytest.mark.parametrize("command", [pytest.param(words, id=name) for name, words in commands()])
def test_a_command_exists_and_takes_its_arguments(command: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(DOCKER)
    assert takes(command)


@pytest.mark.parametrize(
    "command",
    [
        ["delorean", "sell", "--date", "2026-01-05"],
        ["delorean", "prana", "serve", "--prot", "9090"],
        ["delorean", "serve", "package", "--config", "/etc/delorean/other.toml"],
        ["python", "-m", "delorean.demo.services", "viewing_history"],
        ["python", "-m", "delorean.demo.prepare", "folder", "--until", "tomorrow"],
        ["spark-class", "org.apache.spark.deploy.master.Mistress", "--host", "spark-master"],
        ["spark-class", "org.apache.spark.deploy.worker.Worker", "--processors", "1"],
        ["bash", "-ec", "airflow db migrate; exec airflow stand-alone"],
    ],
)
def test_an_unknown_command_or_argument_is_detected(command: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(DOCKER)
    assert not takes(command)


def takes(command: list[str]) -> bool:
    """Whether a program of the images accepts these arguments, without running it."""
    program, *arguments = [word.replace(ETC, str(DOCKER)) for word in command]
    if program == "python":
        module, arguments = arguments[1], arguments[2:]
        try:
            import_module(module).command_line().parse_args(arguments)
        except SystemExit as stopped:
            return stopped.code == 0
        return True
    if program == "bash":
        lines = [shlex.split(line.strip().removeprefix("exec ")) for line in arguments[-1].split(";")]
        return all(line[0] == "install" or takes(line) for line in lines)
    if program == "airflow":
        code = "import sys; from airflow.cli.cli_parser import get_parser; get_parser().parse_args(sys.argv[1:])"
        return subprocess.run([AIRFLOW, "-c", code, *arguments], capture_output=True, check=False).returncode == 0
    if program == "spark-class":
        return in_spark(arguments[0], [word for word in arguments if word.startswith("--")])
    assert program == "delorean"
    return in_click(arguments)


def in_click(arguments: list[str]) -> bool:
    with ExitStack() as opened:
        command: click.Command = cli
        context = None
        try:
            while True:
                context = opened.enter_context(command.make_context("delorean", arguments, context))
                if not isinstance(command, click.Group):
                    return True
                _, found, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
                assert found is not None
                command = found
        except click.exceptions.Exit as shown:  # --help
            return shown.exit_code == 0
        except (click.UsageError, ConfigError):
            return False


def in_spark(name: str, options: list[str]) -> bool:
    """Whether Spark's jar has a class, and the class that parses its arguments knows these options."""
    [jar] = Path(pyspark.__file__).parent.glob("jars/spark-core_*.jar")
    with zipfile.ZipFile(jar) as classes:
        path = f"{name.replace('.', '/')}.class"
        if path not in classes.namelist():
            return False
        reader = classes.read(path.replace(".class", "Arguments.class"))
    return all(option.encode() in reader for option in options)


def test_the_index_is_in_the_stacks_cassandra(project: Project):
    uri = urlsplit(project.index)
    assert (uri.scheme, uri.hostname, uri.path) == ("cassandra", "cassandra", "/delorean")
    assert uri.hostname in SERVICES


def test_the_storage_is_a_bucket_that_the_stacks_store_has(project: Project):
    uri = urlsplit(project.storage)
    endpoint = urlsplit(parse_qs(uri.query)["endpoint"][0])
    [command] = words(SERVICES[str(endpoint.hostname)])
    assert uri.scheme == "s3"
    assert f"--port :{endpoint.port} " in command
    assert command.endswith(" posix /data")
    assert f"/data/{uri.netloc}" in " ".join(parse(DOCKERFILE).stages["s3"].all("RUN")).split()
    assert "s3:/data" in SERVICES["s3"]["volumes"]


def test_jobs_ask_the_stacks_proxy_and_show_its_token(project: Project, proxy: ProxyConfig):
    assert project.proxies == (f"proxy:{proxy.server.port}",)
    assert project.proxy.token_file == "/run/secrets/prana_token"
    assert "tokens_file" in (DOCKER / "services.toml").read_text()
    for name in ("proxy", "jobs", "index", "serving", "airflow"):
        assert "prana_token" in SERVICES[name]["secrets"]


def test_jobs_run_on_the_stacks_spark(project: Project):
    master = urlsplit(project.spark["spark.master"])
    command = words(SERVICES["spark-master"])
    assert command[command.index("--host") + 1] == master.hostname == "spark-master"
    assert command[command.index("--port") + 1] == str(master.port)
    for worker in ("spark-worker-1", "spark-worker-2"):
        command = words(SERVICES[worker])
        assert command[-1] == project.spark["spark.master"]
        assert command[command.index("--memory") + 1] == project.spark["spark.executor.memory"]
        assert SERVICES[worker]["image"] == SERVICES["jobs"]["image"]
        assert set(SERVICES[worker]["secrets"]) <= set(SERVICES["jobs"]["secrets"])


def test_airflows_settings_name_the_dags_and_the_program_of_their_jobs():
    stages = parse(DOCKERFILE).stages
    settings = dict(word.split("=", 1) for rest in stages["airflow"].all("ENV") for word in rest.split())
    ours = {name.removeprefix("AIRFLOW__DELOREAN__").lower() for name in settings if "__DELOREAN__" in name}
    read = set(re.findall(r'"delorean", "(\w+)"', (ROOT / "dags/delorean_job.py").read_text()))
    assert ours == {"command", "project", "packages"}
    assert ours <= read
    assert f"dags {settings['AIRFLOW__CORE__DAGS_FOLDER']}" in stages["airflow"].all("COPY")
    assert settings["AIRFLOW__DELOREAN__PROJECT"] == f"{ETC}/delorean.toml"
    places = [volume.split(":")[1] for volume in SERVICES["airflow"]["volumes"]]
    assert {settings["AIRFLOW_HOME"], settings["AIRFLOW__DELOREAN__PACKAGES"]} <= set(places)
    assert f"{settings['AIRFLOW__CORE__DAGS_FOLDER']}/pools.json" in " ".join(words(SERVICES["airflow"]))
    assert (ROOT / "dags/pools.json").exists()


def test_the_companys_services_are_declared_as_in_the_demo_and_listen_where_the_proxy_calls_them(
    proxy: ProxyConfig, tmp_path: Path
):
    template = (ROOT / "delorean" / "demo" / "services.toml").read_text()
    demo = tmp_path / "demo.toml"
    first_release = re.sub(r"\$my_list_\w+", "", template)
    demo.write_text(re.sub(r"\$\w+", "1", first_release).replace('"1"', '"file:///clock"'))
    ours, theirs = proxy.gateway.services, load_gateway_config(demo).services
    assert [replace(one, url="") for one in ours] == [replace(one, url="") for one in theirs]
    assert [urlsplit(one.url).path for one in ours] == [urlsplit(one.url).path for one in theirs]
    for declared in ours:
        uri = urlsplit(declared.url)
        command = words(SERVICES[str(uri.hostname)])
        assert command[3] == declared.service.name
        assert command[command.index("--host") + 1] == "0.0.0.0"
        assert command[command.index("--port") + 1] == str(uri.port)
        assert str(uri.hostname) in SERVICES["proxy"]["depends_on"]
        assert f"file://{command[command.index('--clock') + 1]}" == proxy.gateway.clock


def test_a_health_check_asks_where_the_service_listens(proxy: ProxyConfig):
    checked = {
        name: check[1]
        for name, service in SERVICES.items()
        if (check := service.get("healthcheck", {}).get("test", [])[1:])[:1] == ["healthy"]
    }
    for name, (port, _, _) in {name: address.partition("/") for name, address in checked.items()}.items():
        environment = SERVICES[name].get("environment", {}).values()
        listens = [*words(SERVICES[name]), *environment, *([str(proxy.server.http_port)] if name == "proxy" else [])]
        assert port in listens, name
        for published in SERVICES[name].get("ports", []):
            assert published.endswith(f":{port}"), name
    assert {"proxy", "serving", "spark-master", "spark-worker-1", "spark-worker-2", "my-list"} <= set(checked)


def test_what_is_written_lies_on_a_volume_or_in_memory():
    folders = " ".join(parse(DOCKERFILE).stages["runtime"].all("RUN")).split()
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            target = volume.split(":")[1]
            if service["image"].startswith("delorean-") and name != "s3":
                assert target in folders, f"{name}: a new volume at {target} would be root's"
        scratch = service.get("environment", {}).get("SPARK_LOCAL_DIRS")
        assert scratch is None or any(volume.split(":")[1:] == [scratch] for volume in service["volumes"]), name


def test_the_readme_names_what_is_published_and_no_more():
    shown = set(re.findall(r"127\.0\.0\.1:(\d+)", README))
    assert shown == {port.split(":")[1] for service in SERVICES.values() for port in service.get("ports", [])}
