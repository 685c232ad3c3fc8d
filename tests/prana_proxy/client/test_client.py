from __future__ import annotations

import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from prana_proxy.client import PranaClient
from prana_proxy.config.server_settings import ServerConfig
from prana_proxy.gateway import Gateway
from prana_proxy.server import Proxy, start_proxy
from schemas.data_keys import service_element
from schemas.errors import ConfigError, DataKeyError, ProxyUnavailableError, ServiceError
from schemas.services import Service
from schemas.tables import answers_schema


def test_the_proxy_says_which_services_it_has(config_of: Any) -> None:
    config = config_of(one={"url": "/ok/{profile_id}"}, many={"batch_url": "/batch/ok", "element": "my_list"})
    with start_proxy(config) as proxy, PranaClient([proxy.address]) as client:
        assert client.services() == {service.service.name: service.service for service in config.services}


def test_answers_through_thrift_equal_the_gateway_s(config_of: Any, profiles: Any, long: timedelta) -> None:
    config = config_of(one={"url": "/by_key/ok-{profile_id}"}, many={"batch_url": "/batch/fourth_is?answer=7"})
    contexts = profiles(1, 2, None, 3, 1, 4, 5)
    with Gateway(config) as gateway, start_proxy(config) as proxy, PranaClient([proxy.address]) as client:
        for name, service in client.services().items():
            through, direct = client.fetch(service, contexts, long), gateway.fetch(name, contexts, long)
            assert through.schema == direct.schema == answers_schema(service)
            assert through.drop_columns(["captured_at"]) == direct.drop_columns(["captured_at"])


def test_more_answers_than_a_frame_holds_come_in_pages(config_of: Any, service: Any, long: timedelta) -> None:
    # 200 answers of 40,000 numbers are 64 MB of Arrow, four frames; nothing is answered twice for want of room.
    config = config_of(many={"batch_url": "/batch/big?numbers=40000", "batch_size": 20, "type": "list<int64>"})
    ids = list(range(200))
    with start_proxy(config) as proxy, PranaClient([proxy.address]) as client:
        answers = client.fetch(client.services()["many"], pa.table({"profile_id": ids}), long)
    assert [value[0].as_py() for value in answers["value"]] == ids
    assert len(answers["value"].flatten()) == 200 * 40_000


def test_contexts_larger_than_a_frame_go_in_pages(config_of: Any, long: timedelta) -> None:
    name = "ü" * 50_000  # 400 of them are 40 MB
    config = config_of(many={"batch_url": "/batch/strings", "key": {"profile_id": "string"}, "type": "list<string>"})
    contexts = pa.table({"profile_id": [f"{i}{name}" for i in range(400)]})
    with start_proxy(config) as proxy, PranaClient([proxy.address]) as client:
        answers = client.fetch(client.services()["many"], contexts, long)
        assert answers.num_rows == 400
        with pytest.raises(DataKeyError, match=r"one context takes \d+ bytes, more than"):
            client.fetch(client.services()["many"], pa.table({"profile_id": ["x" * 17_000_000]}), long)


def test_no_contexts_ask_nobody(config_of: Any, profiles: Any, long: timedelta, free_port: int) -> None:
    service = config_of(one={"url": "/ok/{profile_id}"}).services[0].service
    with PranaClient([f"127.0.0.1:{free_port}"]) as client:
        answers = client.fetch(service, profiles(), long)
    assert answers.schema == answers_schema(service)
    assert answers.num_rows == 0


def test_one_budget_covers_all_pages(config_of: Any, service: Any) -> None:
    config = config_of(slow={"url": "/hang/{profile_id}"})
    with start_proxy(config) as proxy, PranaClient([proxy.address]) as client:
        answers = client.fetch(
            client.services()["slow"], pa.table({"profile_id": list(range(1200))}), timedelta(seconds=0.5)
        )
    assert Counter(answers["status"].to_pylist()) == {"timeout": 10, "rejected": 1190}
    assert answers["reason"].to_pylist()[-1] == "not sent: the budget was spent"
    assert service.asked["hang"] <= 10


def test_no_proxy_at_any_address_is_one_clear_error(free_port: int, config_of: Any, profiles: Any) -> None:
    service = config_of(one={"url": "/ok/{profile_id}"}).services[0].service
    addresses = [f"127.0.0.1:{free_port}", f"localhost:{free_port}"]
    with PranaClient(addresses) as client, pytest.raises(ProxyUnavailableError) as raised:
        client.fetch(service, profiles(1), timedelta(seconds=5))
    for address in addresses:
        assert f"proxy {address}: Connection refused" in str(raised.value)
    assert "→ start one with `delorean prana serve`" in str(raised.value)


def test_another_proxy_takes_over(config_of: Any, profiles: Any, long: timedelta, free_port: int) -> None:
    config = config_of(one={"url": "/ok/{profile_id}"})
    with start_proxy(config) as first, start_proxy(config) as second:
        for _ in range(4):  # whichever address it starts with
            with PranaClient([f"127.0.0.1:{free_port}", first.address, second.address]) as client:
                service = client.services()["one"]
                assert client.fetch(service, profiles(1), long)["value"].to_pylist() == [[1, 7]]
        with PranaClient([first.address, second.address]) as client:
            service = client.services()["one"]
            first.stop()
            assert client.fetch(service, profiles(2), long)["value"].to_pylist() == [[2, 7]]


def test_a_proxy_that_was_restarted_is_found_again(config_of: Any, profiles: Any, long: timedelta) -> None:
    config = config_of(one={"url": "/ok/{profile_id}"})
    first = start_proxy(config)
    with PranaClient([first.address]) as client:
        service = client.services()["one"]
        first.stop()
        with start_proxy(config, ServerConfig(port=int(first.address.split(":")[1]))):
            assert client.fetch(service, profiles(1), long)["status"].to_pylist() == ["ok"]


def test_a_proxy_that_answers_with_nonsense_is_one_clear_error(profiles: Any, config_of: Any) -> None:
    service = config_of(one={"url": "/ok/{profile_id}"}).services[0].service
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_nonsense() -> None:
            connection, _ = listener.accept()
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        nonsense = threading.Thread(target=answer_nonsense)
        nonsense.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with (
            PranaClient([address]) as client,
            pytest.raises(ProxyUnavailableError, match="Frame size"),
        ):
            client.fetch(service, profiles(1), timedelta(seconds=5))
        nonsense.join()


def test_a_full_proxy_is_asked_again_within_the_budget(
    config_of: Any, service: Any, profiles: Any, long: timedelta
) -> None:
    config = config_of(slow={"url": "/hang/{profile_id}"}, one={"url": "/ok/{profile_id}"})
    with start_proxy(config, ServerConfig(port=0, workers=1, queue=0)) as proxy, ThreadPoolExecutor(1) as other:
        holder = other.submit(_fetch, proxy, "slow", profiles(1), timedelta(seconds=1))
        while not service.asked["hang"]:
            pass
        assert _fetch(proxy, "one", profiles(1), timedelta(seconds=0.1))["status"].to_pylist() == ["rejected"]
        assert _fetch(proxy, "one", profiles(1), long)["status"].to_pylist() == ["ok"]
        assert holder.result()["status"].to_pylist() == ["timeout"]


def test_a_proxy_with_another_type_is_refused(config_of: Any, profiles: Any, long: timedelta) -> None:
    config = config_of(one={"url": "/ok/{profile_id}"})
    key = config.services[0].service.key
    other = Service("one", service_element("one", "list<string>"), key)
    with (
        start_proxy(config) as proxy,
        PranaClient([proxy.address]) as client,
        pytest.raises(ServiceError, match="value: list<item: int64>>, expected a value of list<item: string>"),
    ):
        client.fetch(other, profiles(1), long)


def test_wrong_contexts_and_services_are_refused(config_of: Any, profiles: Any, long: timedelta) -> None:
    config = config_of(one={"url": "/ok/{profile_id}"})
    known = config.services[0].service
    unknown = Service("ones", known.element, known.key)
    with start_proxy(config) as proxy, PranaClient([proxy.address]) as client:
        with pytest.raises(DataKeyError, match="unknown column in contexts for service 'one' 'profile_id'"):
            client.fetch(known, pa.table({"video_id": [1]}), long)
        with pytest.raises(ServiceError, match="rejected the call: unknown service 'ones' → did you mean 'one'"):
            client.fetch(unknown, profiles(1), long)
        assert client.fetch(known, profiles(1), long)["status"].to_pylist() == ["ok"]


@pytest.mark.parametrize("addresses", [[], "127.0.0.1:1", ["host"], ["host:"], [":1"], ["host:0"], ["host:65536"]])
def test_an_address_is_a_host_and_a_port(addresses: Any) -> None:
    with pytest.raises(ConfigError, match="write .*host:port"):
        PranaClient(addresses)


def _fetch(proxy: Proxy, name: str, contexts: pa.Table, budget: timedelta) -> pa.RecordBatch:
    with PranaClient([proxy.address]) as client:
        return client.fetch(client.services()[name], contexts, budget)
