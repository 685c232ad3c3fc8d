"""A session with the cluster: statements are prepared once, and tried again where a passing fault hit them."""

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
from snapshotter.index.cassandra.errors import DRIVER_ERRORS, as_ours, may_pass, translated

Statement: TypeAlias = tuple[str, Mapping[str, Any]]
"""CQL with names for its values, `{keyspace}` where that stands, and the values."""

_PROTOCOL = 5  # of Cassandra 4 and later
_SERIAL = "serial"
_AT_ONCE = 64
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


class CassandraSession:
    """Speaks to the cluster; may be shared between threads. Raises SnapshotIndexError, and nothing of the driver's."""

    def __init__(self, address: CassandraAddress) -> None:
        self.address = address
        self._prepared: dict[str, Any] = {}
        with translated(address):
            self._cluster = _cluster(address)
            try:
                self._session = self._cluster.connect()
            except BaseException:  # whatever it is, no threads of the driver may stay
                self._cluster.shutdown()
                raise

    def ask(self, statements: Sequence[Statement]) -> list[list[Any]]:
        """Execute statements side by side and give each one's rows, of all pages.

        Each must be one that may be executed twice: those that a passing fault hits are, until patience is over.
        """
        answers: list[list[Any]] = [[] for _ in statements]
        left = list(range(len(statements)))
        patience = Patience(self.address.patience_seconds)
        while left:
            failed: dict[int, BaseException] = {}
            for i, answer in zip(left, self._attempt([statements[i] for i in left]), strict=True):
                if isinstance(answer, BaseException):
                    failed[i] = answer
                else:
                    answers[i] = answer
            left = list(failed)
            for error in failed.values():
                if not may_pass(error) or not patience.left:
                    raise as_ours(error, self.address) from error
            if left:
                patience.pause()
        return answers

    def one(self, text: str, values: Mapping[str, Any]) -> list[Any]:
        """Execute one statement, as `ask` does."""
        return self.ask([(text, values)])[0]

    def pages(self, text: str, values: Mapping[str, Any], size: int) -> Iterator[list[Any]]:
        """Execute a query and yield its pages of rows as they are consumed; tried again as `ask` does."""
        state, patience = None, Patience(self.address.patience_seconds)
        while True:
            self._refuse_closed()
            try:
                statement = self._prepare(text).bind(values)
                statement.fetch_size = size
                result = self._session.execute(statement, paging_state=state)
            except DRIVER_ERRORS as error:
                if not may_pass(error) or not patience.left:
                    raise as_ours(error, self.address) from error
                patience.pause()
                continue
            state, patience = result.paging_state, Patience(self.address.patience_seconds)
            yield list(result.current_rows)
            if state is None:
                return

    def decide(self, text: str, values: Mapping[str, Any]) -> Any | SnapshotIndexError:
        """Execute a conditional write, once. An error is given, not raised, when it leaves open what came of it."""
        return self._once(text, values, EXEC_PROFILE_DEFAULT)

    def decided(self, text: str, values: Mapping[str, Any]) -> Any | SnapshotIndexError:
        """Read at the serial consistency, which ends all that is half decided; errors as of `decide`."""
        return self._once(text, values, _SERIAL)

    def change(self, text: str) -> None:
        """Change the schema, and wait until all nodes know."""
        self._refuse_closed()
        with translated(self.address):
            self._session.execute(text, timeout=None)

    def agree(self) -> None:
        """Wait until all nodes know the same schema."""
        self._refuse_closed()
        with translated(self.address):
            self._cluster.refresh_schema_metadata(max_schema_agreement_wait=self.address.patience_seconds)

    def close(self) -> None:
        """Let go of the cluster."""
        self._cluster.shutdown()

    def _attempt(self, statements: Sequence[Statement]) -> list[list[Any] | BaseException]:
        self._refuse_closed()
        try:
            bound = [(self._prepare(text), values) for text, values in statements]
        except DRIVER_ERRORS as error:
            return [error] * len(statements)
        done = execute_concurrent(self._session, bound, concurrency=_AT_ONCE, raise_on_first_error=False)
        return [_rows(result) if success else result for success, result in done]

    def _once(self, text: str, values: Mapping[str, Any], profile: str) -> Any | SnapshotIndexError:
        self._refuse_closed()
        try:
            return self._session.execute(self._prepare(text), values, execution_profile=profile).one()
        except DRIVER_ERRORS as error:
            ours = as_ours(error, self.address)
            if not may_pass(error):
                raise ours from error
            ours.__cause__ = error
            return ours

    def _prepare(self, text: str) -> Any:
        if text not in self._prepared:
            self._prepared[text] = self._session.prepare(text.format(keyspace=self.address.keyspace))
        return self._prepared[text]

    def _refuse_closed(self) -> None:
        if self._cluster.is_shutdown:
            raise SnapshotIndexError.because(f"index {self.address.uri} is closed", "open it again")


class Patience:
    """Time to try again in, with longer and longer pauses."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._pause = _FIRST_PAUSE

    @property
    def left(self) -> bool:
        """Whether to try again."""
        return time.monotonic() < self._until

    def pause(self) -> None:
        """Wait before the next try."""
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


def _rows(result: Any) -> list[Any] | BaseException:
    try:
        return list(result)  # asks for further pages
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

    known = address.credentials
    return Cluster(
        list(address.hosts),
        protocol_version=_PROTOCOL,
        auth_provider=PlainTextAuthProvider(known.user, known.password) if known else None,
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
