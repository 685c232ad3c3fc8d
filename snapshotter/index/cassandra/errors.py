"""What the driver's errors mean, in this project's own."""

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
_TO_THE_NODES = "see to the nodes that are down or overloaded (nodetool status), then try again"


@contextmanager
def translated(address: CassandraAddress) -> Iterator[None]:
    """Let driver's errors out as ours."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise as_ours(error, address) from error


def may_pass(error: BaseException) -> bool:
    """Tell whether an error may be gone in a moment: a node died, a quorum is slow."""
    return isinstance(error, DRIVER_ERRORS) and not any(_permanent(cause, "") for cause in _causes(error))


def as_ours(error: BaseException, address: CassandraAddress) -> SnapshotIndexError:
    """Say what happened, to which index, and what to do."""
    user = f"user '{address.credentials.user}'" if address.credentials else "who gives no credentials"
    causes = _causes(error)
    permanent = [said for cause in causes if (said := _permanent(cause, user))]
    telling = next((cause for cause in causes if isinstance(cause, Unavailable | Timeout)), error)
    problem, hint = permanent[0] if permanent else _passing(telling, address)
    return SnapshotIndexError.because(f"index {address.uri} {problem}", hint)


def _causes(error: BaseException) -> list[BaseException]:
    """Give the error, and those of each host that it sums up."""
    return [error, *(cause for _, cause in _by_host(error) if isinstance(cause, BaseException))]


def _by_host(error: BaseException) -> list[tuple[object, BaseException]]:
    told = error.errors if isinstance(error, NoHostAvailable) else None
    return [(getattr(host, "endpoint", host), cause) for host, cause in told.items()] if isinstance(told, dict) else []


def _permanent(error: BaseException, user: str) -> tuple[str, str] | None:
    """Say what no waiting mends."""
    if isinstance(error, AuthenticationFailed):
        return f"refuses {user}", "correct the credentials in the URI, or name a file that has them: ?credentials=FILE"
    if isinstance(error, Unauthorized):
        return f"refuses {user}: {_said(error)}", "grant what is missing, or be another user"
    if isinstance(error, RequestValidationException | InvalidMessage):
        return f"refuses a request: {_said(error)}", "see whether it is prepared for this release: delorean index init"
    if isinstance(error, OSError) and "[SSL: " in str(error):  # the driver makes other errors of ssl.SSLError
        return f"cannot be reached by TLS: {_said(error)}", (
            "see who signed the certificates, whether they name the hosts, and until when they hold, ours too"
        )
    if isinstance(error, UnresolvableContactPoints):
        return "has no host whose name can be resolved", "correct the hosts in the URI"
    if isinstance(error, ProtocolVersionUnsupported):
        return f"is too old: {_said(error)}", "use Cassandra 4 or later"
    return None


def _passing(error: BaseException, address: CassandraAddress) -> tuple[str, str]:
    if isinstance(error, NoHostAvailable):
        told = "; ".join(f"{host}: {_said(cause)}" for host, cause in _by_host(error)) or "none could be asked"
        where = f" in datacenter '{address.datacenter}'" if address.datacenter else ""
        return f"has no host that answers{where} ({told})", (
            "start Cassandra, or correct hosts, ports, datacenter and TLS in the URI"
        )
    if isinstance(error, Unavailable):
        return f"has too few nodes alive: {error.alive_replicas} of {error.required_replicas} needed", _TO_THE_NODES
    if isinstance(error, Timeout):
        return f"had answers of {error.received_responses} of {error.required_responses} nodes in time", _TO_THE_NODES
    if isinstance(error, OperationTimedOut):
        return f"did not answer in time ({error.last_host})", _TO_THE_NODES
    if isinstance(error, CoordinationFailure):
        return f"failed on its nodes ({_said(error)})", "see the nodes' logs"
    return f"failed ({type(error).__name__}: {_said(error)})", _TO_THE_NODES


def _said(error: BaseException) -> str:
    text = str(error).strip().rpartition("Last error: ")[2]
    return text.splitlines()[0] if text else type(error).__name__
