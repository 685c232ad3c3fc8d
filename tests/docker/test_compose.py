"""Rules that the stack keeps; each is shown to find what breaks it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from stack_files import DOCKER, DOCKERFILE, compose, parse

from delorean import __version__

# As it is in github.com/compose-spec/compose-spec, schema/compose-spec.json, of October 2025; Apache-2.0 as we are.
SCHEMA = Draft7Validator(json.loads((Path(__file__).parent / "compose-spec.json").read_text()))
OURS = {f"delorean-{target}": target for target in ("jobs", "airflow", "proxy", "serving", "s3")}
WRITES_TO_ITSELF = {"cassandra"}  # its entry point writes its configuration
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|CREDENTIAL|(^|_)KEY", re.IGNORECASE)
FOLDER = r"\$\{DELOREAN_SECRETS:\?[^}]+\}"  # a variable without which docker compose stops

Service = dict[str, Any]


def problems(stack: dict[str, Any]) -> list[str]:
    """Say what is wrong with a stack that its schema allows, in a line for each."""
    found = []
    for name, service in stack["services"].items():
        for rule in (image, rights, health, limits, ports, secrets):
            found += [f"{name}: {problem}" for problem in rule(name, service)]
        found += [f"{name}: {problem}" for problem in depends(service, stack["services"])]
        found += [f"{name}: {problem}" for problem in mounts(service, stack)]
    return [*found, *declared(stack)]


def image(_: str, service: Service) -> Iterator[str]:
    name, _, tag = service["image"].partition(":")
    if not re.match(r"v?\d+\.\d+\.\d+", tag):
        yield f"the image {service['image']} is not pinned to a version"
    if name in OURS:
        expected = {"context": "..", "dockerfile": "docker/Dockerfile", "target": OURS[name]}
        if tag != __version__ or service.get("build") != expected:
            yield f"{name}:{tag} is not built from this version, target {OURS[name]}"
        if OURS[name] not in parse(DOCKERFILE).stages:
            yield f"the Dockerfile has no target {OURS[name]}"


def rights(name: str, service: Service) -> Iterator[str]:
    if not re.fullmatch(r"[1-9]\d*:\d+", service.get("user", "")):
        yield "the user is not a number that is not root's"
    if service.get("cap_drop") != ["ALL"] or "no-new-privileges:true" not in service.get("security_opt", []):
        yield "keeps capabilities, or may gain some"
    if not service.get("read_only") and name not in WRITES_TO_ITSELF:
        yield "its file system can be written"
    for privilege in ("privileged", "cap_add", "devices", "network_mode", "pid", "ipc", "userns_mode"):
        if privilege in service:
            yield f"has {privilege}"


def ends(service: Service) -> bool:
    """Tell whether a service does something and is done."""
    return service.get("restart") == "no"


def health(_: str, service: Service) -> Iterator[str]:
    if ends(service) == ("healthcheck" in service):
        yield "has to end, or to say whether it is healthy"
    check = service.get("healthcheck", {"test": ["CMD"], "interval": "", "timeout": "", "retries": 0})
    if check["test"][0] not in ("CMD", "CMD-SHELL") or not {"interval", "timeout", "retries"} <= set(check):
        yield "its health check does not say when it has failed"


def limits(_: str, service: Service) -> Iterator[str]:
    if set(service.get("deploy", {}).get("resources", {}).get("limits", {})) != {"cpus", "memory", "pids"}:
        yield "has no limits of processors, memory and processes"


def ports(_: str, service: Service) -> Iterator[str]:
    for port in service.get("ports", []):
        if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", str(port)):
            yield f"publishes {port} to others than this machine"


def secrets(_: str, service: Service) -> Iterator[str]:
    for name, value in service.get("environment", {}).items():
        if SECRET.search(name) and not str(value).startswith(("/run/secrets/", "/var/lib/delorean/airflow/")):
            yield f"{name} has a value, expected the path of a file"


def depends(service: Service, services: dict[str, Service]) -> Iterator[str]:
    for name, how in service.get("depends_on", {}).items():
        expected = "service_completed_successfully" if ends(services[name]) else "service_healthy"
        if how != {"condition": expected}:
            yield f"does not wait until {name} is {expected}"


def mounts(service: Service, stack: dict[str, Any]) -> Iterator[str]:
    for volume in service.get("volumes", []):
        source, _, target = volume.partition(":")
        of_ours = source.startswith("../") and (DOCKER / source).is_dir() and target.endswith(":ro")
        if source not in stack["volumes"] and not of_ours:
            yield f"{volume} is no named volume"
    given = {"configs": [row["source"] for row in service.get("configs", [])], "secrets": service.get("secrets", [])}
    for kind, names in given.items():
        for name in set(names) - set(stack[kind]):
            yield f"there is no {name} in {kind}"


def declared(stack: dict[str, Any]) -> Iterator[str]:
    text = json.dumps(stack["services"])
    for kind in ("configs", "secrets", "volumes"):
        for name, given in stack[kind].items():
            if f'"{name}"' not in text and f'"{name}:' not in text:
                yield f"{kind}: nobody has {name}"
            if kind == "configs" and not (DOCKER / given["file"]).is_file():
                yield f"configs: {given['file']} is not there"
            if kind == "secrets" and not re.fullmatch(rf"{FOLDER}/{name}", given.get("file", "")):
                yield f"secrets: {name} is not a file of a folder that has to be named"
    if len({str(service.get("networks")) for service in stack["services"].values()}) > 1 or "networks" in stack:
        yield "there is more than one network"


def schema_problems(stack: dict[str, Any]) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in SCHEMA.iter_errors(stack)]


def test_the_stack_is_what_the_compose_specification_allows():
    assert schema_problems(compose()) == []


def test_the_stack_keeps_the_rules():
    assert problems(compose()) == []


def of(service: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    """A change of a service; None removes a field."""

    def change(stack: dict[str, Any]) -> None:
        fields = stack["services"][service]
        fields.update(changes)
        for name in [name for name, value in changes.items() if value is None]:
            del fields[name]

    return change


def changed(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    stack = compose()
    change(stack)
    return stack


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (of("proxy", comand=["delorean"]), "$.services.proxy: 'comand' does not match"),
        (of("proxy", ports=9090), "$.services.proxy.ports: 9090 is not of type 'array'"),
    ],
)
def test_the_specification_finds_what_it_does_not_allow(change: Callable[[dict[str, Any]], None], problem: str):
    assert [line for line in schema_problems(changed(change)) if problem in line]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (of("cassandra", image="cassandra:latest"), "cassandra: the image cassandra:latest is not pinned"),
        (of("cassandra", image="cassandra:5"), "cassandra: the image cassandra:5 is not pinned"),
        (of("proxy", image="delorean-proxy:9.9.9"), "proxy: delorean-proxy:9.9.9 is not built from this version"),
        (of("serving", build=None), "is not built from this version, target serving"),
        (of("proxy", user=None), "proxy: the user is not a number"),
        (of("airflow", user="0:0"), "airflow: the user is not a number"),
        (of("s3", cap_drop=[]), "s3: keeps capabilities"),
        (of("s3", security_opt=[]), "s3: keeps capabilities"),
        (of("s3", privileged=True), "s3: has privileged"),
        (of("spark-master", network_mode="host"), "spark-master: has network_mode"),
        (of("spark-master", read_only=False), "spark-master: its file system can be written"),
        (of("my-list", healthcheck=None), "my-list: has to end, or to say"),
        (of("my-list", restart="no"), "my-list: has to end, or to say"),
        (of("my-list", healthcheck={"test": ["CMD", "true"]}), "my-list: its health check does not say"),
        (of("proxy", deploy=None), "proxy: has no limits"),
        (of("proxy", deploy={"resources": {"limits": {"memory": "1g"}}}), "proxy: has no limits"),
        (of("serving", ports=["8000:8000"]), "serving: publishes 8000:8000"),
        (of("serving", ports=["0.0.0.0:8000:8000"]), "serving: publishes 0.0.0.0:8000:8000"),
        (of("jobs", environment={"AWS_SECRET_ACCESS_KEY": "x"}), "jobs: AWS_SECRET_ACCESS_KEY has a value"),
        (of("proxy", depends_on={"my-list": {"condition": "service_started"}}), "proxy: does not wait"),
        (of("my-list", depends_on={"company": {"condition": "service_healthy"}}), "my-list: does not wait"),
        (of("s3", volumes=["/srv/data:/data"]), "s3: /srv/data:/data is no named volume"),
        (of("s3", secrets=["root"]), "s3: there is no root in secrets"),
        (of("s3", secrets=["s3_credentials"]), "secrets: nobody has s3_root"),
        (lambda stack: stack["configs"].update(x={"file": "x.toml"}), "configs: x.toml is not there"),
        (lambda stack: stack["volumes"].update(x=None), "volumes: nobody has x"),
        (lambda stack: stack["secrets"]["prana_token"].update(file="./token"), "prana_token is not a file"),
        (lambda stack: stack["secrets"].update(prana_token={"environment": "T"}), "prana_token is not a file"),
        (lambda stack: stack.update(networks={"other": {}}), "there is more than one network"),
    ],
)
def test_a_rule_finds_what_breaks_it(change: Callable[[dict[str, Any]], None], problem: str):
    assert [line for line in problems(changed(change)) if problem in line]


def test_the_stack_is_what_it_has_to_be():
    stack = compose()["services"]
    assert stack["cassandra"]["image"] == "cassandra:5.0.9"
    roles = {"airflow", "s3", "spark-master", "spark-worker-1", "spark-worker-2", "proxy", "serving", "jobs"}
    assert roles | {"viewing-history", "my-list", "predicted-ratings"} <= set(stack)
    published = {name: service["ports"] for name, service in stack.items() if "ports" in service}
    assert set(published) == {"spark-master", "serving", "airflow"}
    outside = [port.split(":")[1] for given in published.values() for port in given]
    assert len(set(outside)) == len(outside)


def test_what_is_to_be_filled_in_has_no_value():
    lines = [line for line in (DOCKER / ".env.example").read_text().splitlines() if not line.startswith("#")]
    assert lines == ["DELOREAN_SECRETS="]
