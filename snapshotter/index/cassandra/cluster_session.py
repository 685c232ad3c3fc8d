"""A session with the cluster: prepares each statement once, and repeats those that a transient fault hit."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from cassandra import ConsistencyLevel
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.concurrent import execute_concurrent
from cassandra.policies import DCAwareRoundRobinPolicy, TokenAwarePolicy

from schemas.errors import ConfigError, SnapshotIndexError
from snapshotter.index.cassandra.address import CassandraAddress
from snapshotter.index.cassandra.errors import DRIVER_ERRORS, as_ours, is_transient, translated

Statement: TypeAlias = tuple[str, Mapping[str, Any]]
"""CQL with named values, and `{keyspace}` for the keyspace; and the values."""

_PROTOCOL = 5  # of Cassandra 4 and later
_SERIAL = "serial"
_CONCURRENT_STATEMENTS = 64
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


class CassandraSession:
    """Executes statements; may be shared between threads. Raises SnapshotIndexError, never an error of the driver."""

    def __init__(self, address: CassandraAddress) -> None:
        self.address = address
        self._prepared: dict[str, Any] = {}
        with translated(address):
            self._cluster = _cluster(address)
            try:
                self._driver = self._cluster.connect()
            except BaseException:  # of any kind: no threads of the driver may stay
                self._cluster.shutdown()
                raise

    def execute_all(self, statements: Sequence[Statement]) -> list[list[Any]]:
        """Execute statements concurrently and return each one's rows, of all pages.

        Each must be idempotent: those that a transient fault hits are repeated until the deadline.
        """
        rows: list[list[Any]] = [[] for _ in statements]
        left = list(range(len(statements)))
        deadline = RetryDeadline(self.address.patience_seconds)
        while left:
            failed: dict[int, BaseException] = {}
            for i, outcome in zip(left, self._attempt([statements[i] for i in left]), strict=True):
                if isinstance(outcome, BaseException):
                    failed[i] = outcome
                else:
                    rows[i] = outcome
            left = list(failed)
            for error in failed.values():
                if not is_transient(error) or deadline.passed:
                    raise as_ours(error, self.address) from error
            if left:
                deadline.pause()
        return rows

    def execute(self, text: str, values: Mapping[str, Any]) -> list[Any]:
        """Execute one statement as `execute_all` does."""
        return self.execute_all([(text, values)])[0]

    def pages(self, text: str, values: Mapping[str, Any], size: int) -> Iterator[list[Any]]:
        """Execute a query and yield its pages of rows as they are consumed; repeated as by `execute_all`."""
        state, deadline = None, RetryDeadline(self.address.patience_seconds)
        while True:
            self._require_open()
            try:
                statement = self._prepare(text).bind(values)
                statement.fetch_size = size
                result = self._driver.execute(statement, paging_state=state)
            except DRIVER_ERRORS as error:
                if not is_transient(error) or deadline.passed:
                    raise as_ours(error, self.address) from error
                deadline.pause()
                continue
            state, deadline = result.paging_state, RetryDeadline(self.address.patience_seconds)
            yield list(result.current_rows)
            if state is None:
                return

    def write_once(self, text: str, values: Mapping[str, Any]) -> Any | SnapshotIndexError:
        """Execute a conditional write, once. An error that leaves its outcome open is returned, not raised."""
        return self._execute_once(text, values, EXEC_PROFILE_DEFAULT)

    def read_serial(self, text: str, values: Mapping[str, Any]) -> Any | SnapshotIndexError:
        """Read at the serial consistency, which completes conditional writes in progress; errors as `write_once`."""
        return self._execute_once(text, values, _SERIAL)

    def change_schema(self, text: str) -> None:
        """Change the schema, and wait until all nodes agree."""
        self._require_open()
        with translated(self.address):
            self._driver.execute(text, timeout=None)

    def await_agreement(self) -> None:
        """Wait until all nodes agree on the schema."""
        self._require_open()
        with translated(self.address):
            self._cluster.refresh_schema_metadata(max_schema_agreement_wait=self.address.patience_seconds)

    def close(self) -> None:
        """Disconnect from the cluster."""
        self._cluster.shutdown()

    def _attempt(self, statements: Sequence[Statement]) -> list[list[Any] | BaseException]:
        self._require_open()
        try:
            bound = [(self._prepare(text), values) for text, values in statements]
        except DRIVER_ERRORS as error:
            return [error] * len(statements)
        done = execute_concurrent(self._driver, bound, concurrency=_CONCURRENT_STATEMENTS, raise_on_first_error=False)
        return [_rows(result) if success else result for success, result in done]

    def _execute_once(self, text: str, values: Mapping[str, Any], profile: str) -> Any | SnapshotIndexError:
        self._require_open()
        try:
            return self._driver.execute(self._prepare(text), values, execution_profile=profile).one()
        except DRIVER_ERRORS as error:
            ours = as_ours(error, self.address)
            if not is_transient(error):
                raise ours from error
            ours.__cause__ = error
            return ours

    def _prepare(self, text: str) -> Any:
        if text not in self._prepared:
            self._prepared[text] = self._driver.prepare(text.format(keyspace=self.address.keyspace))
        return self._prepared[text]

    def _require_open(self) -> None:
        if self._cluster.is_shutdown:
            raise SnapshotIndexError.because(f"index {self.address.uri} is closed", "open it again")


class RetryDeadline:
    """A time limit for retries, with growing pauses between them.

    Not tenacity: its callers repeat only the statements that failed, or inspect an outcome before they try again.
    """

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._pause = _FIRST_PAUSE

    @property
    def passed(self) -> bool:
        """Whether to give up."""
        return time.monotonic() >= self._until

    def pause(self) -> None:
        """Wait before the next try."""
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


def _rows(result: Any) -> list[Any] | BaseException:
    try:
        return list(result)  # fetches the other pages
    except DRIVER_ERRORS as error:
        return error


def _cluster(address: CassandraAddress) -> Cluster:
    def profile(consistency: str) -> ExecutionProfile:
        return ExecutionProfile(
            load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy(address.datacenter or "")),
            consistency_level=ConsistencyLevel.name_to_value[consistency],
            serial_consistency_level=ConsistencyLevel.name_to_value[address.serial_consistency],
            request_timeout=address.timeout_seconds,
        )

    credentials = address.credentials
    return Cluster(
        list(address.hosts),
        protocol_version=_PROTOCOL,
        auth_provider=PlainTextAuthProvider(credentials.user, credentials.password) if credentials else None,
        ssl_context=_tls(address),
        connect_timeout=address.timeout_seconds,
        control_connection_timeout=address.timeout_seconds,
        monitor_reporting_enabled=False,
        execution_profiles={
            EXEC_PROFILE_DEFAULT: profile(address.consistency),
            _SERIAL: profile(address.serial_consistency),
        },
    )


def _tls(address: CassandraAddress) -> ssl.SSLContext | None:
    if address.authority is None:
        return None
    try:
        reading = address.authority
        context = ssl.create_default_context(cafile=reading)
        if address.certificate is not None:
            reading = f"{address.certificate}, {address.key}"
            context.load_cert_chain(address.certificate, address.key)
    except OSError as error:
        problem = f"index {address.uri}: cannot read {reading}: {error.strerror or error}"
        raise ConfigError.because(problem, "name PEM files") from error
    context.check_hostname = address.check_hostname
    return context
