"""The project file, `delorean.toml`: the locations of a project's index, storage, services and specs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prana_proxy.config.credentials import ProxyCredentials
from prana_proxy.config.toml_file import read_toml
from schemas.errors import ConfigError
from schemas.file_uri import file_uri
from snapshotter.storage.table_source import TableSource

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PROJECT_FILE = "delorean.toml"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True)
class ProxyAccess:
    """How to authenticate with the proxies: `[proxy]` of a project file. Paths are relative to the file.

    authority: certificate of the authority that signs the proxies' certificates; None: connections are plain
    certificate, key: the project's own
    token_file: contains a token that the proxies accept
    """

    authority: str | None = None
    certificate: str | None = None
    key: str | None = None
    token_file: str | None = None

    def __post_init__(self) -> None:
        """Reject incomplete settings."""
        if (self.certificate is None) != (self.key is None):
            raise ConfigError.because("has one of certificate and key, expected both or none")
        if self.certificate is not None and self.authority is None:
            raise ConfigError.because(
                "has a certificate but no authority", "name the authority of the proxies' certificates too"
            )


@dataclass(frozen=True)
class Packages:
    """Which code of model packages may run: `[packages]` of a project file.

    allow: fingerprints of encoders. Where the installed encoder is another, the source in the package is executed
    """

    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject what is not a whole fingerprint."""
        for fingerprint in self.allow:
            if not re.fullmatch("[0-9a-f]{64}", fingerprint):
                raise ConfigError.because(
                    f"allow holds '{fingerprint}', expected a fingerprint of 64 hexadecimal digits",
                    "copy it from the error that refuses the package, or from its feature_model.json",
                )


@dataclass(frozen=True)
class Submit:
    """How `delorean submit` reaches a cluster: `[submit]` of a project file.

    master: in spark-submit's notation, such as spark://host:7077; None: from spark-submit's own configuration
    environment: an archive that `make package` built, relative to the file; None: executors have the packages
    """

    master: str | None = None
    environment: str | None = None


@dataclass(frozen=True)
class Tracking:
    """Where trained packages are recorded: `[tracking]` of a project file.

    mlflow: the URI of an MLflow tracking server, such as http://host:5000; None: nowhere
    """

    mlflow: str | None = field(default=None, repr=False)  # a URI may hold a password


@dataclass(frozen=True)
class SnapshotSet:
    """Services that are captured together: `[schedule.snapshots.<name>]` of a project file.

    services: names; none: all services of the proxies
    every_hours: 24: once a day, when the day's contexts are selected; less: at the hours that it divides
    floor: the confidence that each service must reach, in (0, 1]
    below: whether a lower confidence fails the run, which then publishes nothing and can be run again, or only warns
    late: how long after its day a snapshot may still be taken, of the state at that time
    """

    services: tuple[str, ...] = ()
    every_hours: int = 24
    floor: float | None = None
    below: Literal["fail", "warn"] = "fail"
    late: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        """Reject values that cannot be scheduled."""
        if not 1 <= self.every_hours <= 24 or 24 % self.every_hours:
            raise ConfigError.because(f"every_hours is {self.every_hours}, expected a divisor of 24", "write 24 or 6")
        if self.floor is not None and not 0 < self.floor <= 1:
            raise ConfigError.because(f"floor is {self.floor}, expected a confidence in (0, 1]", "write 0.95")
        if self.late < timedelta(0):
            raise ConfigError.because(f"late is {self.late}, expected 0 or more", 'write late = "PT6H"')


@dataclass(frozen=True)
class Schedule:
    """What the scheduler runs: `[schedule]` of a project file.

    specs: the folder of experiments' specs, relative to the file; all specs in it are scheduled
    snapshots: name → services that are captured together
    globals: global element → the table that it is published from, relative to the file: the path of Parquet, or a
        `TableSource`
    """

    specs: str = "."
    snapshots: Mapping[str, SnapshotSet] = field(default_factory=lambda: {"all": SnapshotSet()})
    globals: Mapping[str, str | TableSource] = field(default_factory=dict)

    def snapshot_set(self, name: str) -> SnapshotSet:
        """Return the set of services with a name. Raises ConfigError for an unknown name."""
        if name not in self.snapshots:
            raise ConfigError.unknown("set of services", name, self.snapshots)
        return self.snapshots[name]

    def global_table(self, element: str) -> TableSource:
        """Return the table that a global element is published from. Raises ConfigError for one not on schedule."""
        if element not in self.globals:
            raise ConfigError.unknown("global element on schedule", element, self.globals)
        table = self.globals[element]
        return TableSource(table) if isinstance(table, str) else table


@dataclass(frozen=True)
class Project:
    """The content of `delorean.toml`.

    index, storage: URIs; a plain path is a SQLite file or a folder, relative to this file
    proxies: "host:port" of the Prana proxies that snapshots are captured through
    proxy: how to authenticate with them; read it with `access_to_proxies`
    services: the configuration of the online services for proxies and the scorer, relative to this file
    encoders: modules that encoders of packages may be imported from, including their submodules
    encoder_cache: the folder for compiled encoders, relative to this file; by default the user's
        ~/.cache/delorean/encoders, and none where that is not writable
    spark: settings of the Spark session, by Spark's own names
    packages: which code of model packages may run
    submit: how to reach a cluster
    schedule: what the scheduler runs
    tracking: where trained packages are recorded
    """

    index: str = field(default="data/index.db", repr=False)  # a URI may hold a password
    storage: str = field(default="data", repr=False)
    proxies: tuple[str, ...] = ("127.0.0.1:9090",)
    proxy: ProxyAccess = field(default_factory=ProxyAccess)
    services: str = "services.toml"
    encoders: tuple[str, ...] = ("encoders.library",)
    encoder_cache: str | None = None
    spark: Mapping[str, str] = field(default_factory=dict, repr=False)  # keys of accounts, for one
    packages: Packages = field(default_factory=Packages)
    submit: Submit = field(default_factory=Submit)
    schedule: Schedule = field(default_factory=Schedule)
    tracking: Tracking = field(default_factory=Tracking)

    def spark_session(self, app_name: str = "notebook", *, delta: bool = False, s3: bool = False) -> SparkSession:
        """Return the active session, or start one at the master of `[submit]`, else on this machine.

        delta, s3: whether Spark itself reads Delta tables, or tables in S3

        For notebooks. Raises what `snapshotter.spark.session.spark_session` does.
        """
        from snapshotter.spark.session import spark_session  # imports Spark, which takes a second

        settings = {name.replace(".", "__"): value for name, value in self.spark.items()}
        submit = self.submit
        return spark_session(app_name, submit.master, environment=submit.environment, delta=delta, s3=s3, **settings)


def load_project(path: str | Path) -> Project:
    """Read a project file and make its paths absolute. Raises ConfigError with the file, the line and the field."""
    path = Path(path)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError.because(
            f"there is no project file {path}", "write one, or name it with --config; see the README, `delorean.toml`"
        ) from error
    except OSError as error:
        raise ConfigError.because(f"project file {path} cannot be read: {error.strerror}") from error
    project = read_toml(path, Project)
    root = path.resolve().parent
    environment, schedule = project.submit.environment, project.schedule
    return replace(
        project,
        schedule=replace(
            schedule,
            specs=str(root / schedule.specs),
            globals={element: schedule.global_table(element).beside(path) for element in schedule.globals},
        ),
        submit=replace(project.submit, environment=environment and str(root / environment)),
        index=_as_uri(project.index, "sqlite", root),
        storage=_as_uri(project.storage, "file", root),
        services=str(root / project.services),
        encoder_cache=project.encoder_cache and str(root / project.encoder_cache),
        proxy=ProxyAccess(**{name: path and str(root / path) for name, path in vars(project.proxy).items()}),
    )


def access_to_proxies(project: Project) -> ProxyCredentials:
    """Read the credentials for a project's proxies. Raises ConfigError for a token that cannot be read."""
    proxy, token = project.proxy, None
    if proxy.token_file is not None:
        try:
            token = Path(proxy.token_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError.because(f"token_file {proxy.token_file} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError.because(f"token_file {proxy.token_file} cannot be read: it is not UTF-8") from error
        if len(token.splitlines()) != 1:
            raise ConfigError.because(
                f"token_file {proxy.token_file} holds {len(token.splitlines())} lines, expected a token"
            )
    return ProxyCredentials(proxy.authority, proxy.certificate, proxy.key, token)


def _as_uri(location: str, scheme: str, root: Path) -> str:
    return location if _SCHEME.match(location) else file_uri((root / location).resolve(), scheme)
