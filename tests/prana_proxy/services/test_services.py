from __future__ import annotations

import pytest

from prana_proxy.clock import system_clock
from prana_proxy.services import open_protocol, protocol_of
from schemas.errors import ConfigError


def test_a_protocol_is_found_by_its_scheme() -> None:
    assert protocol_of("http://host/") == protocol_of("https://host/") == "http"


@pytest.mark.parametrize("url", ["thrifty://host", "no scheme", ""])
def test_an_unknown_scheme_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown scheme of a service's URL .* known: http, https"):
        protocol_of(url)


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown service protocol 'htp' → did you mean 'http'"):
        open_protocol("htp", system_clock)
