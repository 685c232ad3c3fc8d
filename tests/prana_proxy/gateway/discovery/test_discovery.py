"""A discovery is found by its URI's scheme; a wrong URI is refused before anybody is asked."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prana_proxy.gateway import discovery
from prana_proxy.gateway.discovery import DiscoveryResult, Instance, check_discovery, open_discovery
from schemas.errors import ConfigError


@pytest.mark.parametrize(
    ("address", "instance"),
    [
        ("10.0.0.1:8001", Instance("10.0.0.1", 8001)),
        ("history.internal:65535", Instance("history.internal", 65535)),
        ("history_1:1", Instance("history_1", 1)),
        ("[::1]:80", Instance("::1", 80)),
        ("[2001:DB8:0::1]:80", Instance("2001:db8::1", 80)),
    ],
)
def test_an_address_is_a_host_and_a_port(address: str, instance: Instance) -> None:
    assert Instance.parse(address) == instance
    assert Instance.parse(instance.address) == instance


NO_ADDRESSES = ["", ":", "host", "host:", ":80", "host:0", "host:65536", "host:-1", "host:8o", "host:٣", "host:80\n"]
NO_ADDRESSES += ["a b:80", "a/b:80", "me@host:80", "-host:80", "hóst:80"]
NO_ADDRESSES += ["::1:80", "[::1]", "[host]:80", "[::1:80", "[]:80", "[::g]:80"]


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_what_nothing_can_connect_to_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match=r"is not an address, expected host:port → write 10\.0\.0\.1:8001"):
        Instance.parse(address)


@given(st.text(alphabet="aF1.:[]-_ %", max_size=12))
def test_any_text_is_an_address_or_a_clear_error(text: str) -> None:
    try:
        instance = Instance.parse(text)
    except ConfigError:
        return
    assert Instance.parse(instance.address) == instance


def test_static_instances_never_age() -> None:
    found = asyncio.run(open_discovery("static://10.0.0.2:8001,10.0.0.1:8001,[::1]:80").find())
    assert found == DiscoveryResult(
        (Instance("10.0.0.2", 8001), Instance("10.0.0.1", 8001), Instance("::1", 80)), math.inf
    )


@pytest.mark.parametrize(
    "uri",
    [
        "static://10.0.0.1:8001",
        "dns:///history.internal:8001",
        "dns://127.0.0.1:5353/history.internal.:8001",
        "dns://[::1]:53/history:8001",
        "eureka://host:8761/eureka/v2?app=HISTORY",
        "eureka://one:8761,two:8761/eureka?app=HISTORY&refresh=0.5&secure=true",
        "eureka+https://host:443?app=HISTORY",
    ],
)
def test_a_good_uri_is_checked_without_asking_anybody(uri: str) -> None:
    check_discovery(uri)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "not a valid URI → write static://"),
        ("10.0.0.1:8001", "not a valid URI"),
        ("static://10.0.0.1:8001 ,10.0.0.2:8001", "not a valid URI"),
        ("dsn:///history:8001", "unknown scheme 'dsn' → did you mean 'dns'? known: dns, eureka, static"),
        ("static+https://10.0.0.1:8001", "unknown scheme 'static+https' → did you mean 'static'? known: static"),
        ("eureka+http://h:1?app=X", "unknown scheme 'eureka+http' → did you mean 'eureka+https'? known: eureka, eur"),
        ("static://", "'' is not an address, expected host:port → write 10.0.0.1:8001"),
        ("static://10.0.0.1", "'10.0.0.1' is not an address"),
        ("static://10.0.0.1:8001,", "'' is not an address"),
        ("static://10.0.0.1:8001,[::1]:80,10.0.0.1:8001", "10.0.0.1:8001 is written twice → remove one"),
        ("static://10.0.0.1:8001/history", "addresses have no path, this is '/history' → end it at the last port"),
        ("static://10.0.0.1:8001?refresh=1", "unknown parameter 'refresh' → known: none"),
        ("dns:///history.internal", "'history.internal' is not an address, expected host:port"),
        (
            "dns://history.internal:8001",
            "name server 'history.internal' is a host name → write its IP address, or dns:///name",
        ),
        ("dns://10.0.0.1:53", "'' is not an address"),
        ("dns://ns.internal:53/history:8001", "name server 'ns.internal' is a host name → write its IP address"),
        ("dns:///10.0.0.1:8001", "10.0.0.1 is an address already → write static://10.0.0.1:8001"),
        (f"dns:///{'a' * 64}.internal:8001", f"'{'a' * 64}.internal' is not a DNS name: A DNS label is > 63"),
        ("dns:///a..b:8001", "'a..b' is not a DNS name: A DNS label is empty"),
        ("dns:///history:8001?ttl=1", "unknown parameter 'ttl'"),
        ("eureka://host:8761/eureka/v2", "no application is named → add ?app=NAME"),
        ("eureka://host:8761/eureka/v2?ap=X", "unknown parameter 'ap' → did you mean 'app'? known: app, refresh, sec"),
        ("eureka://host/eureka/v2?app=X", "'host' is not an address"),
        ("eureka:///eureka/v2?app=X", "'' is not an address"),
        ("eureka://eureka_1:8761?app=X", "py-eureka-client cannot use http://eureka_1:8761 → write a name or an IPv4"),
        ("eureka://host:1?app=X&refresh=soon", "refresh is 'soon', expected seconds from 0.1 to 3600"),
        ("eureka://host:1?app=X&refresh=nan", "refresh is 'nan'"),
        ("eureka://host:1?app=X&refresh=0", "refresh is '0'"),
        ("eureka://host:1?app=X&secure=yes", "secure is 'yes', expected true or false"),
    ],
)
def test_a_wrong_uri_is_refused_with_the_reason(uri: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_discovery(uri)
    assert str(raised.value).startswith(f"discovery is '{uri}': {message}")


def test_a_uri_with_a_password_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError, match="^discovery has a user or password, which would not be sent → remove it$"):
        check_discovery("eureka://me:secret@host:8761?app=X")


def test_a_new_driver_is_a_new_file_and_no_change_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nowhere.py").write_text(
        "from prana_proxy.gateway.discovery import Discovery, DiscoveryResult\n"
        "class NowhereDiscovery(Discovery):\n"
        "    schemes = ('nowhere', 'nowhere+else')\n"
        "    def __init__(self, uri): self.uri = uri\n"
        "    async def find(self): return DiscoveryResult((), 1.0, self.uri.authority)\n"
    )
    monkeypatch.setattr(discovery, "__path__", [*discovery.__path__, str(tmp_path)])
    assert asyncio.run(open_discovery("nowhere+else://there").find()).why_none == "there"
    with pytest.raises(ConfigError, match="known: dns, eureka, nowhere, static"):
        check_discovery("somewhere://there")


def test_drivers_are_imported_when_they_are_chosen() -> None:
    code = (
        "import sys; from prana_proxy.gateway.discovery import check_discovery; check_discovery('static://host:1');"
        "sys.exit(', '.join({'dns', 'py_eureka_client', 'httpx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "\n", done.stderr  # the message of sys.exit
