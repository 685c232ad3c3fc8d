"""Against a real name server on loopback, which changes its mind, goes away and comes back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from name_server import NameServer

from prana_proxy.gateway.discovery import DiscoveryResult, Instance, open_discovery
from prana_proxy.gateway.instances import Instances
from schemas.errors import ServiceError

NAME = "history.internal"
_T = TypeVar("_T")


def with_server(scenario: Callable[[NameServer], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        async with NameServer() as server:
            return await scenario(server)

    return asyncio.run(run())


async def find(server: NameServer) -> DiscoveryResult:
    return await open_discovery(f"dns://{server.authority}/{NAME}:8001").find()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


def test_every_address_of_both_kinds_is_an_instance() -> None:
    async def scenario(server: NameServer) -> DiscoveryResult:
        server.knows(NAME, a=["127.0.0.1", "127.0.0.2"], aaaa=["::1"])
        return await find(server)

    instances = with_server(scenario).instances
    assert set(instances) == {Instance("127.0.0.1", 8001), Instance("127.0.0.2", 8001), Instance("::1", 8001)}
    assert len(instances) == 3


@pytest.mark.parametrize(("ttl", "fresh_seconds"), [(0, 1.0), (1, 1.0), (17, 17.0), (30, 30.0), (86_400, 30.0)])
def test_it_is_fresh_as_long_as_the_answer_lives_within_limits(ttl: int, fresh_seconds: float) -> None:
    async def scenario(server: NameServer) -> DiscoveryResult:
        server.knows(NAME, a=["127.0.0.1"], ttl=ttl)
        return await find(server)

    assert with_server(scenario).fresh_seconds == fresh_seconds


def test_the_kind_that_lives_shorter_counts() -> None:
    async def scenario(server: NameServer) -> DiscoveryResult:
        server.knows(NAME, a=["127.0.0.1"], aaaa=["::1"], ttl=20, aaaa_ttl=10)
        return await find(server)

    assert with_server(scenario).fresh_seconds == 10.0


def test_many_addresses_come_over_tcp() -> None:
    addresses = [f"127.0.1.{i}" for i in range(1, 101)]

    async def scenario(server: NameServer) -> DiscoveryResult:
        server.knows(NAME, a=addresses)
        found = await find(server)
        assert server.queries.count("A") == 2  # over UDP it was cut short
        return found

    assert {instance.host for instance in with_server(scenario).instances} == set(addresses)


def test_one_kind_will_do_when_the_server_cannot_tell_the_other() -> None:
    async def scenario(server: NameServer) -> DiscoveryResult:
        server.knows(NAME, a=["127.0.0.1"])
        server.refuses = {"AAAA"}
        return await find(server)

    assert with_server(scenario).instances == (Instance("127.0.0.1", 8001),)


def test_a_server_that_cannot_tell_is_an_error_and_not_an_answer() -> None:
    async def scenario(server: NameServer) -> None:
        server.refuses = {"A", "AAAA"}
        await find(server)

    with pytest.raises(ServiceError, match=rf"DNS look-up of {NAME} failed: .*SERVFAIL"):
        with_server(scenario)


@pytest.mark.parametrize("there", [True, False])
def test_a_name_without_an_address_has_no_instances_and_says_so(there: bool) -> None:
    async def scenario(server: NameServer) -> DiscoveryResult:
        if there:
            server.knows(NAME)
        return await find(server)

    found = with_server(scenario)
    assert (found.instances, found.why_none) == ((), "history.internal has no address in DNS")


def test_addresses_are_followed_and_the_last_ones_serve_on_while_the_server_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prana_proxy.gateway.discovery.dns._PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr("prana_proxy.gateway.instances._KEPT_SECONDS", 1.0)

    async def scenario() -> None:
        server = NameServer()
        async with server:
            server.knows(NAME, a=["127.0.0.1", "127.0.0.2"])
            instances = Instances("history", open_discovery(f"dns://{server.authority}/{NAME}:8001"))
            await instances.open()
            assert {instance.host for instance in instances.current} == {"127.0.0.1", "127.0.0.2"}
            server.knows(NAME, a=["127.0.0.3"])
            await until(lambda: {instance.host for instance in instances.current} == {"127.0.0.3"})
        with pytest.raises(ServiceError):
            await find(server)
        await instances.look_up()
        assert instances.choose() == Instance("127.0.0.3", 8001)
        assert instances.problem is None
        async with server:
            server.knows(NAME, a=["127.0.0.4"])
            await until(lambda: instances.choose() == Instance("127.0.0.4", 8001))
            server.forget(NAME)
            await until(lambda: instances.choose() is None)
            assert instances.problem == "no instance: history.internal has no address in DNS"
            await instances.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("ignored", "answered"), [("AAAA", "127.0.0.1"), ("A", "::1")])
def test_a_kind_that_is_never_answered_holds_nothing_up(ignored: str, answered: str) -> None:
    async def scenario(server: NameServer) -> DiscoveryResult:
        server.knows(NAME, a=["127.0.0.1"], aaaa=["::1"])
        server.ignores = {ignored}
        async with asyncio.timeout(3.5):  # less than the patience for name servers
            return await find(server)

    assert with_server(scenario).instances == (Instance(answered, 8001),)


@pytest.mark.parametrize("trouble", ["ignores", "refuses"])
def test_a_kind_that_cannot_be_had_for_a_while_is_what_it_was(trouble: str) -> None:
    async def scenario(server: NameServer) -> None:
        server.knows(NAME, a=["127.0.0.1"], aaaa=["::1"])
        discovery = open_discovery(f"dns://{server.authority}/{NAME}:8001")
        both = set((await discovery.find()).instances)
        assert len(both) == 2
        setattr(server, trouble, {"AAAA"})
        assert set((await discovery.find()).instances) == both
        setattr(server, trouble, set())
        server.knows(NAME, a=["127.0.0.1"])
        assert set((await discovery.find()).instances) == {Instance("127.0.0.1", 8001)}

    with_server(scenario)


@pytest.mark.parametrize("trouble", ["NXDOMAIN", "SERVFAIL", "empty", "silent"])
def test_instances_serve_on_while_dns_is_in_trouble(trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prana_proxy.gateway.discovery.dns._PATIENCE_SECONDS", 0.5)

    async def scenario(server: NameServer) -> None:
        server.knows(NAME, a=["127.0.0.1", "127.0.0.2"])
        instances = Instances("history", open_discovery(f"dns://{server.authority}/{NAME}:8001"))
        await instances.look_up()
        if trouble == "NXDOMAIN":
            server.forget(NAME)
        elif trouble == "empty":
            server.knows(NAME)
        else:
            setattr(server, "refuses" if trouble == "SERVFAIL" else "ignores", {"A", "AAAA"})
        for _ in range(2):
            assert await instances.look_up() == 2.0
            assert {instances.choose() for _ in range(4)} == set(instances.current)
            assert len(instances.current) == 2
        await instances.close()

    with_server(scenario)


def test_an_address_without_a_route_from_here_is_left_out_if_there_is_another() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        reachable = probe.connect_ex(("2001:db8::1", 9)) == 0

    async def scenario(server: NameServer) -> None:
        server.knows(NAME, a=["127.0.0.1"], aaaa=["2001:db8::1", "::1"])
        hosts = {instance.host for instance in (await find(server)).instances}
        assert hosts == {"127.0.0.1", *(["2001:db8::1"] if reachable else []), "::1"}
        server.knows(NAME, aaaa=["2001:db8::1"])
        assert [instance.host for instance in (await find(server)).instances] == ["2001:db8::1"]

    with_server(scenario)
