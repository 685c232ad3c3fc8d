"""Rules that the Dockerfile keeps; each is shown to find what breaks it."""

from __future__ import annotations

import configparser
import re
import subprocess

import pytest
from packaging.specifiers import SpecifierSet
from stack_files import DOCKERFILE, IGNORED, ROOT, copied, ignored, parse

from snapshotter.spark.machine import OLDEST_JAVA

SECRET = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|(^|_)KEY", re.IGNORECASE)
TARGETS = ("jobs", "airflow", "proxy", "serving", "s3")


def problems(dockerfile: str, ignore: str = IGNORED) -> list[str]:
    """Say what is wrong with a Dockerfile, in a line for each."""
    build = parse(dockerfile)
    found = []
    for stage in build.stages.values():
        base = build.image(stage)
        if base not in build.stages and not re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*", base):
            found.append(f"{stage.name}: {base} is not pinned to a version")
        for name, rest in stage.instructions:
            found += [f"{stage.name}: {name} {rest}: {problem}" for problem in of_instruction(name, rest)]
        for origin, sources in copied(stage):
            found += [f"{stage.name}: {problem}" for problem in of_copy(origin, sources, [*build.stages], ignore)]
    for target in TARGETS:
        users = [rest for stage in build.line(target) for rest in reversed(stage.all("USER"))]
        if not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[0]):
            found.append(f"{target}: runs as {users[0] if users else 'root'}, expected a number that is not root's")
    for argument in build.arguments:
        if f"${{{argument}}}" not in dockerfile:
            found.append(f"ARG {argument} is used nowhere")
    return found


def of_instruction(name: str, rest: str) -> list[str]:
    found = []
    if name == "ADD":
        found.append("ADD fetches and unpacks, COPY does neither")
    if name in ("ARG", "ENV") and any(SECRET.search(variable) for variable in re.findall(r"(\w+)=?[^ ]*", rest)):
        found.append("a secret would stay in the image")
    if name == "RUN":
        if re.search(r"\b(curl|wget)\b", rest):
            found.append("fetches what no hash checks")
        if "apt-get install" in rest and not (
            "--no-install-recommends" in rest and "rm -rf /var/lib/apt/lists" in rest
        ):
            found.append("leaves lists of packages, or installs recommended packages")
        for command in re.split(r"&&|;", rest):
            if re.search(r"\bpip\b.* (install|wheel)\b", command):
                if not {"--require-hashes", "--no-index"} & set(command.split()):
                    found.append("installs what no hash checks")
                if "--no-cache-dir" not in command:
                    found.append("keeps pip's cache")
    return found


def of_copy(origin: str | None, sources: list[str], stages: list[str], ignore: str) -> list[str]:
    if origin is not None:
        return [] if origin in stages else [f"there is no stage {origin}"]
    found = [f"{source} is not there" for source in sources if not (ROOT / source).exists()]
    return found + [f"{source} is kept out by .dockerignore" for source in sources if ignored(source, ignore)]


def test_the_dockerfile_keeps_the_rules():
    assert problems(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("ARG PYTHON=python:3.11.15-slim-bookworm", "ARG PYTHON=python:latest", "python:latest is not pinned"),
        ("ARG JAVA=eclipse-temurin:17.0.19_10-jre-noble", "ARG JAVA=eclipse-temurin", "eclipse-temurin is not pinned"),
        ("FROM ${S3} AS s3", "FROM ${STORE} AS s3", "${STORE} is not pinned"),
        ("FROM ${S3} AS s3", "FROM ${PYTHON} AS s3", "ARG S3 is used nowhere"),
        ("EXPOSE 8000", "USER 0:0", "serving: runs as 0:0"),
        ("/data/delorean\nUSER 10001:10001", "/data/delorean", "s3: runs as root"),
        ("USER 10001:10001\nEXPOSE 9090", "USER delorean\nEXPOSE 9090", "proxy: runs as delorean"),
        ("EXPOSE 8000", "ADD https://example.org/x.tar.gz /x", "ADD fetches"),
        ("EXPOSE 8000", "RUN curl -sS https://example.org/x | sh", "no hash checks"),
        ("EXPOSE 8000", "RUN apt-get update && apt-get install -y procps", "leaves lists"),
        ("EXPOSE 8000", "ENV AWS_SECRET_ACCESS_KEY=x", "a secret would stay"),
        ("EXPOSE 8000", "ARG PIP_TOKEN", "a secret would stay"),
        ("--require-hashes --no-deps --no-build-isolation -r build.txt", "-r build.txt", "no hash checks"),
        ("pip install --no-cache-dir --require-hashes", "pip install --require-hashes", "keeps pip's cache"),
        ("COPY encoders encoders", "COPY encoder encoders", "encoder is not there"),
        ("COPY encoders encoders", "COPY tests tests", "tests is kept out by .dockerignore"),
        ("--from=java", "--from=jdk", "there is no stage jdk"),
    ],
)
def test_a_rule_finds_what_breaks_it(old: str, new: str, problem: str):
    assert DOCKERFILE.count(old) >= 1
    assert [line for line in problems(DOCKERFILE.replace(old, new)) if problem in line]


def test_a_build_is_given_what_it_copies_and_nothing_else():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    sources = [
        source
        for stage in parse(DOCKERFILE).stages.values()
        for at, names in copied(stage)
        if not at
        for source in names
    ]
    given = {path for path in listed if not ignored(path, IGNORED)}
    assert given == {
        path for path in listed if any(path == source or path.startswith(f"{source}/") for source in sources)
    }
    for path in (
        ".git/HEAD",
        ".venv/bin/python",
        ".demo/x",
        "delorean/__pycache__/x",
        "schemas/x.pyc",
        "docker/.env",
        "docker/secrets/x",
    ):
        assert ignored(path, IGNORED), path


def test_python_and_java_are_those_that_the_project_supports():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    arguments = parse(DOCKERFILE).arguments
    python, java = (arguments[name].partition(":")[2] for name in ("PYTHON", "JAVA"))
    assert python.partition("-")[0] in SpecifierSet(setup["options"]["python_requires"])
    assert java.partition(".")[0] == str(OLDEST_JAVA)
    assert "JAVA_HOME=/opt/java/openjdk" in " ".join(parse(DOCKERFILE).stages["jobs"].all("ENV"))


def test_only_jobs_and_who_starts_them_have_java():
    stages = parse(DOCKERFILE)
    with_java = [t for t in TARGETS if any(origin == "java" for stage in stages.line(t) for origin, _ in copied(stage))]
    assert with_java == ["jobs", "airflow"]
