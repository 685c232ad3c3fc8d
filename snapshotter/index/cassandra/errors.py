"""Turns the driver's errors into the project's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cassandra import (
    AuthenticationFailed,
    CoordinationFailure,
    DriverException,
    OperationTimedOut,
    RequestValidationException,
    Timeout,
    Unauthorized,
    Unavailable,
    UnresolvableContactPoints,
)
from cassandra.cluster import NoHostAvailable
from cassandra.connection import ConnectionBusy, ConnectionException, ProtocolError, ProtocolVersionUnsupported
from cassandra.pool import NoConnectionsAvailable
from cassandra.protocol import ErrorMessage
from cassandra.protocol import RequestValidationException as InvalidMessage

from schemas.errors import SnapshotIndexError
from snapshotter.index.cassandra.address import CassandraAddress

DRIVER_ERRORS = (
    DriverException,
    NoHostAvailable,
    ConnectionException,
    ConnectionBusy,
    NoConnectionsAvailable,
    ProtocolError,
    ErrorMessage,
    OSError,
)
_CHECK_NODES = "repair the nodes that are down or overloaded (nodetool status), then try again"


@contextmanager
def translated(address: CassandraAddress) -> Iterator[None]:
    """Raise the driver's errors as ours."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise as_ours(error, address) from error


def is_transient(error: BaseException) -> bool:
    """Whether a retry may succeed: a node died, a quorum is slow."""
    return isinstance(error, DRIVER_ERRORS) and not any(_permanent(cause, "") for cause in _causes(error))


def as_ours(error: BaseException, address: CassandraAddress) -> SnapshotIndexError:
    """Return an error with the index, what happened and what to do."""
    user = f"user '{address.credentials.user}'" if address.credentials else "a user without credentials"
    causes = _causes(error)
    permanent = [reason for cause in causes if (reason := _permanent(cause, user))]
    most_specific = next((cause for cause in causes if isinstance(cause, Unavailable | Timeout)), error)
    problem, hint = permanent[0] if permanent else _transient(most_specific, address)
    return SnapshotIndexError.because(f"index {address.uri} {problem}", hint)


def _causes(error: BaseException) -> list[BaseException]:
    """Return the error, and those of each host that it summarizes."""
    return [error, *(cause for _, cause in _by_host(error) if isinstance(cause, BaseException))]


def _by_host(error: BaseException) -> list[tuple[object, BaseException]]:
    errors = error.errors if isinstance(error, NoHostAvailable) else None
    if not isinstance(errors, dict):
        return []
    return [(getattr(host, "endpoint", host), cause) for host, cause in errors.items()]


def _permanent(error: BaseException, user: str) -> tuple[str, str] | None:
    """Return the problem and what to do, if a retry cannot succeed."""
    if isinstance(error, AuthenticationFailed):
        return f"rejects {user}", "correct the credentials in the URI, or name a file that has them: ?credentials=FILE"
    if isinstance(error, Unauthorized):
        return f"rejects {user}: {_message(error)}", "grant the missing permission, or use another user"
    if isinstance(error, RequestValidationException | InvalidMessage):
        return f"rejects a request: {_message(error)}", "prepare the index for this release: delorean index init"
    if isinstance(error, OSError) and "[SSL: " in str(error):  # the driver wraps ssl.SSLError
        return f"cannot be reached by TLS: {_message(error)}", (
            "check who signed the certificates, whether they name the hosts, and when they expire, also ours"
        )
    if isinstance(error, UnresolvableContactPoints):
        return "has no host whose name can be resolved", "correct the hosts in the URI"
    if isinstance(error, ProtocolVersionUnsupported):
        return f"is too old: {_message(error)}", "use Cassandra 4 or later"
    return None


def _transient(error: BaseException, address: CassandraAddress) -> tuple[str, str]:
    if isinstance(error, NoHostAvailable):
        causes = "; ".join(f"{host}: {_message(cause)}" for host, cause in _by_host(error)) or "none was reachable"
        where = f" in datacenter '{address.datacenter}'" if address.datacenter else ""
        return f"has no host that answers{where} ({causes})", (
            "start Cassandra, or correct hosts, ports, datacenter and TLS in the URI"
        )
    if isinstance(error, Unavailable):
        return f"has too few nodes alive: {error.alive_replicas} of {error.required_replicas} needed", _CHECK_NODES
    if isinstance(error, Timeout):
        return f"got answers from {error.received_responses} of {error.required_responses} nodes in time", _CHECK_NODES
    if isinstance(error, OperationTimedOut):
        return f"did not answer in time ({error.last_host})", _CHECK_NODES
    if isinstance(error, CoordinationFailure):
        return f"failed on its nodes ({_message(error)})", "see the nodes' logs"
    return f"failed ({type(error).__name__}: {_message(error)})", _CHECK_NODES


def _message(error: BaseException) -> str:
    text = str(error).strip().rpartition("Last error: ")[2]
    return text.splitlines()[0] if text else type(error).__name__
