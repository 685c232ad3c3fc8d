from __future__ import annotations

import pytest

from prana_proxy.gateway.services import Protocol, protocol_of
from prana_proxy.gateway.services.http import HttpProtocol
from prana_proxy.gateway.services.python import PythonProtocol
from prana_proxy.gateway.services.thrift import ThriftProtocol
from schemas.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("http://host/", HttpProtocol),
        ("https://host:1/x", HttpProtocol),
        ("thrift://host/Service/method", ThriftProtocol),
        ("thrifts://host:1/Service/method", ThriftProtocol),
        ("python:__main__:function", PythonProtocol),
    ],
)
def test_a_url_s_scheme_names_its_protocol(url: str, protocol: type[Protocol]) -> None:
    assert protocol_of(url) is protocol


def test_an_unknown_scheme_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(ConfigError, match="unknown scheme of a service's URL 'htp' → did you mean 'http'"):
        protocol_of("htp://host/")


@pytest.mark.parametrize("url", ["", "/path", "host", "//host/path"])
def test_what_has_no_scheme_is_no_url(url: str) -> None:
    with pytest.raises(ConfigError, match=f"is '{url}', expected a URL → write http"):
        protocol_of(url)
