from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import trustme

from prana_proxy.client import PranaClient
from prana_proxy.config.credentials import ProxyCredentials
from prana_proxy.config.server_settings import ServerConfig, TlsConfig
from prana_proxy.server import Proxy, start_proxy
from prana_proxy.server.worker_status import WorkerField
from schemas.errors import ConfigError, ServiceError

TOKEN = "a-token-of-the-tests"


class Certificates:
    """Files of one authority: its own, a server's and a client's."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        authority = trustme.CA()
        self.authority = str(folder / "authority.pem")
        authority.cert_pem.write_to_path(self.authority)
        self.server = self._issue(authority, folder / "server", "127.0.0.1")
        self.client = self._issue(authority, folder / "client", "snapshots@company.example")

    def access(self, **changes: Any) -> ProxyCredentials:
        return replace(ProxyCredentials(self.authority, *self.client), **changes)

    @staticmethod
    def _issue(authority: trustme.CA, path: Path, name: str) -> tuple[str, str]:
        issued = authority.issue_cert(name)
        certificate, key = path.with_suffix(".pem"), path.with_suffix(".key")
        for i, part in enumerate(issued.cert_chain_pems):
            part.write_to_path(str(certificate), append=i > 0)
        issued.private_key_pem.write_to_path(str(key))
        return str(certificate), str(key)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates") / "ours")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates") / "others")


@pytest.fixture
def serving(config_of: Any) -> Iterator[Callable[..., Proxy]]:
    with ExitStack() as opened:

        def start(**settings: Any) -> Proxy:
            config = config_of(one={"url": "/ok/{profile_id}"})
            return opened.enter_context(start_proxy(config, ServerConfig(port=0, **settings)))

        yield start


def answer(proxy: Proxy, access: ProxyCredentials | None, profiles: Any, long: Any) -> list[str]:
    with PranaClient([proxy.address], access) as client:
        statuses: list[str] = client.fetch(client.services()["one"], profiles(1, 2), long)["status"].to_pylist()
    return statuses


def test_a_client_with_a_certificate_gets_through(serving: Any, ours: Certificates, profiles: Any, long: Any) -> None:
    proxy = serving(tls=TlsConfig(*ours.server, ours.authority))
    assert answer(proxy, ours.access(), profiles, long) == ["ok", "ok"]


def test_a_proxy_that_demands_no_certificates_takes_clients_without(
    serving: Any, ours: Certificates, profiles: Any, long: Any
) -> None:
    proxy = serving(tls=TlsConfig(*ours.server))
    assert answer(proxy, ProxyCredentials(ours.authority), profiles, long) == ["ok", "ok"]


def test_answers_larger_than_a_tls_record_arrive_whole(config_of: Any, ours: Certificates, long: Any) -> None:
    config = config_of(many={"batch_url": "/batch/big?numbers=40000", "batch_size": 20})
    server = ServerConfig(port=0, tls=TlsConfig(*ours.server, ours.authority))
    with start_proxy(config, server) as proxy, PranaClient([proxy.address], ours.access()) as client:
        answers = client.fetch(client.services()["many"], pa.table({"profile_id": list(range(40))}), long)
    assert [len(value) for value in answers["value"]] == [40_000] * 40


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        (lambda ours, others: None, "closed the connection at once; it may require TLS"),
        (
            lambda ours, others: ours.access(authority=others.authority),
            "certificate is not trusted: .*→ check auth",
        ),
        (lambda ours, others: ours.access(certificate=None, key=None), "no proxy answers"),
        (lambda ours, others: others.access(authority=ours.authority), "no proxy answers"),
    ],
    ids=["no TLS", "another authority", "no certificate", "another's certificate"],
)
def test_a_client_that_is_not_trusted_gets_one_clear_error(
    serving: Any, ours: Certificates, others: Certificates, profiles: Any, long: Any, shown: Any, message: str
) -> None:
    proxy = serving(tls=TlsConfig(*ours.server, ours.authority))
    with pytest.raises(ServiceError, match=message) as raised:
        answer(proxy, shown(ours, others), profiles, long)
    assert "\n" not in str(raised.value)
    assert answer(proxy, ours.access(), profiles, long) == ["ok", "ok"]


def test_a_proxy_without_tls_is_no_proxy_for_a_client_that_wants_it(
    serving: Any, ours: Certificates, profiles: Any, long: Any
) -> None:
    with pytest.raises(ServiceError, match="no proxy answers"):
        answer(serving(), ours.access(), profiles, long)


def test_a_name_that_is_not_in_the_certificate_is_refused(
    serving: Any, ours: Certificates, profiles: Any, long: Any
) -> None:
    proxy = serving(host="127.0.0.2", tls=TlsConfig(*ours.server))
    with pytest.raises(ServiceError, match="not trusted: .*127.0.0.2"):
        answer(proxy, ours.access(), profiles, long)


def test_a_known_token_gets_through_and_no_other(
    serving: Any, tmp_path: Path, profiles: Any, long: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    (tmp_path / "tokens").write_text(f"another\n\n  {TOKEN}\n")
    proxy = serving(tokens_file=str(tmp_path / "tokens"))
    assert answer(proxy, ProxyCredentials(token=TOKEN), profiles, long) == ["ok", "ok"]
    for token in ("", TOKEN[:-1], TOKEN + "x", None):
        with pytest.raises(ServiceError, match="requires a valid token: .*→ in delorean.toml"):
            answer(proxy, ProxyCredentials(token=token), profiles, long)
    assert proxy.worker_status.own[WorkerField.DENIED] == 4
    assert TOKEN[:-1] not in caplog.text


def test_tokens_change_while_the_proxy_serves(serving: Any, tmp_path: Path, profiles: Any, long: Any) -> None:
    path = tmp_path / "tokens"
    path.write_text("old-token\n")
    proxy = serving(tokens_file=str(path))
    with PranaClient([proxy.address], ProxyCredentials(token="old-token")) as connected:
        connected.services()
        path.write_text("new-token-for-all\n")
        assert answer(proxy, ProxyCredentials(token="new-token-for-all"), profiles, long) == ["ok", "ok"]
        with pytest.raises(ServiceError, match="the token is not one of the proxy's"):
            answer(proxy, ProxyCredentials(token="old-token"), profiles, long)
        assert list(connected.services()) == ["one"]  # who is in stays in
    path.unlink()  # a mistake lets nobody new in, and keeps nobody out
    assert answer(proxy, ProxyCredentials(token="new-token-for-all"), profiles, long) == ["ok", "ok"]


def test_stopping_does_not_wait_for_a_client_to_say_goodbye(serving: Any, ours: Certificates) -> None:
    proxy = serving(tls=TlsConfig(*ours.server), stop_seconds=3_600.0)
    with PranaClient([proxy.address], ProxyCredentials(ours.authority)) as client:
        client.services()
        stopping = threading.Thread(target=proxy.stop)
        stopping.start()
        stopping.join(20)
        assert not stopping.is_alive()


def test_a_token_for_a_proxy_that_wants_none_is_taken(serving: Any, profiles: Any, long: Any) -> None:
    assert answer(serving(), ProxyCredentials(token=TOKEN), profiles, long) == ["ok", "ok"]


def test_a_token_is_never_shown() -> None:
    assert TOKEN not in repr(ProxyCredentials(token=TOKEN))


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        (lambda ours, bad: TlsConfig(bad, ours.server[1]), "are not a PEM certificate and its key"),
        (lambda ours, bad: TlsConfig(ours.server[0], ours.client[1]), "are not a PEM certificate and its key"),
        (lambda ours, bad: TlsConfig(*ours.server, bad), "contains no PEM certificates"),
    ],
)
def test_wrong_files_keep_a_proxy_from_starting(
    serving: Any, ours: Certificates, tmp_path: Path, tls: Any, message: str
) -> None:
    (tmp_path / "bad").write_text("no PEM")
    with pytest.raises(ConfigError, match=message):
        serving(tls=tls(ours, str(tmp_path / "bad")))


def test_tokens_that_cannot_be_keep_a_proxy_from_starting(serving: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n \n")
    with pytest.raises(ConfigError, match="empty contains no token"):
        serving(tokens_file=str(tmp_path / "empty"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="binary cannot be read: it is not UTF-8"):
        serving(tokens_file=str(tmp_path / "binary"))


@pytest.mark.parametrize(
    ("access", "message"),
    [
        (lambda ours, bad: ProxyCredentials(bad), "contains no PEM certificates"),
        (lambda ours, bad: ProxyCredentials(bad + "-none"), "contains no PEM certificates"),
        (lambda ours, bad: ProxyCredentials(ours.authority, bad, bad), "are not a PEM certificate and its key"),
        (lambda ours, bad: ProxyCredentials(None, *ours.client), "a client's certificate without an authority"),
    ],
)
def test_wrong_files_keep_a_client_from_starting(ours: Certificates, tmp_path: Path, access: Any, message: str) -> None:
    (tmp_path / "bad").write_text("no PEM")
    with pytest.raises(ConfigError, match=message):
        PranaClient(["127.0.0.1:1"], access(ours, str(tmp_path / "bad")))
