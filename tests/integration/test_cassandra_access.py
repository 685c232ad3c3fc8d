"""An index on a server that requires TLS, client certificates and a password."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cassandra_server import CassandraNode
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from schemas.errors import ConfigError, SnapshotIndexError
from snapshotter.index import init_index, open_index
from snapshotter.index.cassandra import CassandraIndex
from snapshotter.records import SnapshotRun

PASSWORD = "not-to-be-seen"
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
PEM_FILES = {"class_name": "org.apache.cassandra.security.PEMBasedSslContextFactory"}


@dataclass(frozen=True)
class Guarded:
    """The server, and the folder of certificates and credentials."""

    node: CassandraNode
    folder: Path

    def uri(self, user: str | None = "cassandra", tls: bool = True, **options: str) -> str:
        if user is not None:
            file = self.folder / f"{user}.toml"
            options["credentials"] = str(file)
        if tls:
            files = {"authority": "ca.pem", "certificate": "client.pem", "key": "client.pem"} | options
            options = {name: str(self.folder / file) for name, file in files.items() if file}
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"cassandra://{self.node.host}:{self.node.port}/guarded?patience_seconds=60&{query}"

    def write_credentials(self, user: str, password: str) -> None:
        (self.folder / f"{user}.toml").write_text(f'user = "{user}"\npassword = "{password}"\n')


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    stranger.cert_pem.write_to_path(folder / "stranger.pem")
    yesterday = datetime.now(UTC) - timedelta(days=1)
    for name, certificate in {
        "server": authority.issue_cert("127.0.0.1"),
        "client": authority.issue_cert("snapshots.example"),
        "expired": authority.issue_cert("snapshots.example", not_after=yesterday),
        "strange-client": stranger.issue_cert("snapshots.example"),
    }.items():
        write_pem(folder / f"{name}.pem", certificate)
    encryption = {
        "enabled": True,
        "require_client_auth": True,
        "ssl_context_factory": PEM_FILES,
        "keystore": str(folder / "server.pem"),
        "truststore": str(folder / "ca.pem"),
    }
    access = {"authenticator": "PasswordAuthenticator", "authorizer": "CassandraAuthorizer"}
    node = CassandraNode(folder / "node", settings={"client_encryption_options": encryption, **access})
    try:
        node.start()
        node.wait()
        guarded = Guarded(node, folder)
        guarded.write_credentials("cassandra", "cassandra")
        yield guarded
    finally:
        node.kill()


def write_pem(path: Path, certificate: trustme.LeafCert) -> None:
    """Write a certificate and its key as Java reads them."""
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(text + b"".join(pem.bytes() for pem in certificate.cert_chain_pems))


def execute(index: CassandraIndex, text: str) -> None:
    index._connection._session.execute(text)


def test_a_certificate_and_a_password_are_required_and_no_password_is_shown(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "cassandra")
    assert init_index(guarded.uri(), {"": 1}) is True
    run = SnapshotRun("r1", "contexts", NOON, ())
    with open_index(guarded.uri()) as index:
        assert isinstance(index, CassandraIndex)
        execute(index, f"CREATE ROLE delorean WITH PASSWORD = '{PASSWORD}' AND LOGIN = true")
        for right in ("SELECT", "MODIFY"):
            execute(index, f"GRANT {right} ON KEYSPACE guarded TO delorean")
        execute(index, f"CREATE ROLE reader WITH PASSWORD = '{PASSWORD}' AND LOGIN = true")
        execute(index, "GRANT SELECT ON KEYSPACE guarded TO reader")
    guarded.write_credentials("delorean", PASSWORD)
    guarded.write_credentials("reader", PASSWORD)
    with open_index(guarded.uri("delorean")) as index:
        assert index.publish_run(run) is True
        assert index.run("r1").context_set_id == "contexts"
        assert index.uri == f"cassandra://127.0.0.1:{guarded.node.port}/guarded"
        shown = f"{vars(index)} {index._connection.address}"  # type: ignore[attr-defined]  # of CassandraIndex
    with open_index(guarded.uri("reader")) as index:
        assert [found.run_id for found in index.runs()] == ["r1"]
        with pytest.raises(
            SnapshotIndexError, match="refuses user 'reader': .*MODIFY.* → grant what is missing"
        ) as error:
            index.publish_run(SnapshotRun("r2", "contexts", NOON, ()))

    guarded.write_credentials("delorean", PASSWORD + "-expired")
    with pytest.raises(SnapshotIndexError, match="refuses user 'delorean' → correct the credentials") as refused:
        open_index(guarded.uri("delorean"))
    with pytest.raises(SnapshotIndexError, match="refuses who gives no credentials"):
        open_index(guarded.uri(None))
    assert "Sending SASL-based auth response" in caplog.text
    assert PASSWORD not in f"{shown} {error.value} {refused.value} {refused.value.__cause__} {caplog.text}"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"authority": "stranger.pem"}, "cannot be reached by TLS: .*certificate verify failed.* → see who signed"),
        # A server's refusal may be lost with the connection.
        ({"certificate": "strange-client.pem", "key": "strange-client.pem"}, "by TLS: .*alert|TLS in the URI"),
        ({"certificate": "expired.pem", "key": "expired.pem"}, "by TLS: .*alert|TLS in the URI"),
        ({"certificate": "", "key": ""}, "by TLS: .*alert|TLS in the URI"),
    ],
)
def test_the_error_of_an_invalid_certificate_names_tls(guarded: Guarded, files: dict[str, str], message: str) -> None:
    with pytest.raises(SnapshotIndexError, match=message) as refused:
        open_index(guarded.uri(**files))
    assert "Errno" not in str(refused.value)


def test_the_error_of_a_connection_without_tls_names_tls(guarded: Guarded) -> None:
    with pytest.raises(SnapshotIndexError, match="has no host that answers .* → start Cassandra, or correct .* TLS in"):
        open_index(guarded.uri(tls=False))


def test_a_certificate_that_cannot_be_read_is_named(guarded: Guarded) -> None:
    with pytest.raises(ConfigError, match=r"cannot read \S+/no-such\.pem: No such file.* → name PEM files"):
        open_index(guarded.uri(authority="no-such.pem"))
