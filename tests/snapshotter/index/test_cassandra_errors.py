"""The driver's errors, each of them, become ours."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import cassandra
import pytest
from cassandra import cluster, connection, pool, protocol

from schemas.errors import SnapshotIndexError
from snapshotter.index.cassandra.address import read_address
from snapshotter.index.cassandra.errors import is_transient, translated

ADDRESS = read_address("cassandra://somebody:secret@one/snapshots")
MADE = {  # those that are not made of a message alone
    "Unavailable": lambda: cassandra.Unavailable("", 6, 2, 1),
    "ReadTimeout": lambda: cassandra.ReadTimeout("", consistency=6, required_responses=2, received_responses=1),
    "WriteTimeout": lambda: cassandra.WriteTimeout("", 0, consistency=6, required_responses=2, received_responses=1),
    "Timeout": lambda: cassandra.Timeout("", consistency=6, required_responses=2, received_responses=1),
    "AlreadyExists": lambda: cassandra.AlreadyExists("k", "t"),
    "FunctionFailure": lambda: cassandra.FunctionFailure("", "k", "f", []),
    "UnresolvableContactPoints": lambda: cassandra.UnresolvableContactPoints({}),
    "NoHostAvailable": lambda: cluster.NoHostAvailable("none", {"one": OSError("refused")}),
    "ProtocolVersionUnsupported": lambda: connection.ProtocolVersionUnsupported("one", 5),
}
NOT_OF_USE = (
    "DependencyException",
    "QueryExhausted",
    "UserTypeDoesNotExist",
)  # about features that the index does not use


def errors() -> Iterator[BaseException]:
    for module in (cassandra, cluster, connection, pool):
        for name, kind in vars(module).items():
            here = isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == module.__name__
            if here and name not in NOT_OF_USE:
                yield MADE.get(name, lambda kind=kind: kind("said so"))()
    for kind in {protocol.ErrorMessage, *protocol.error_classes.values()}:
        yield kind(0x1700, "said so", None)


@pytest.mark.parametrize(
    "error",
    sorted(errors(), key=lambda error: str(type(error))),
    ids=lambda error: f"{type(error).__module__}.{type(error).__name__}",
)
def test_every_error_of_the_driver_names_the_index_and_says_what_to_do(error: BaseException) -> None:
    with (
        pytest.raises(SnapshotIndexError, match=r"(?s)^index cassandra://one/snapshots .* → ") as raised,
        translated(ADDRESS),
    ):
        raise error
    assert raised.value.__cause__ is error
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("error", "passes", "message"),
    [
        (cassandra.AuthenticationFailed("bad"), False, "rejects user 'somebody' → correct the credentials"),
        (cassandra.Unauthorized("no MODIFY on {table}"), False, "rejects user 'somebody': no MODIFY on {table}"),
        (
            cassandra.InvalidRequest("table x does not exist"),
            False,
            "table x does not exist → prepare the index for this release",
        ),
        (ssl.SSLError(1, "[SSL: UNKNOWN_CA]"), False, "cannot be reached by TLS"),
        (MADE["Unavailable"](), True, "has too few nodes alive: 1 of 2 needed → repair the nodes"),
        (MADE["WriteTimeout"](), True, "got answers from 1 of 2 nodes in time → repair the nodes"),
        (MADE["NoHostAvailable"](), True, "has no host that answers (one: refused) → start Cassandra"),
        (cluster.NoHostAvailable("", {"one": cassandra.AuthenticationFailed("bad")}), False, "rejects user 'somebody'"),
        (cluster.NoHostAvailable("", {"one": OSError(), "two": MADE["Unavailable"]()}), True, "1 of 2 needed → repair"),
        (cluster.NoHostAvailable("", {"one": ssl.SSLError(1, "[SSL: UNKNOWN_CA]")}), False, "cannot be reached by TLS"),
        (protocol.ErrorMessage(0x1700, "CAS unknown", None), True, "CAS unknown"),
    ],
)
def test_what_waiting_cannot_mend_is_told_from_what_it_can(error: BaseException, passes: bool, message: str) -> None:
    assert is_transient(error) is passes
    with pytest.raises(SnapshotIndexError) as raised, translated(ADDRESS):
        raise error
    assert message in str(raised.value)
