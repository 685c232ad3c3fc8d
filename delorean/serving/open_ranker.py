"""Opens a ranker with its gateway to the services and its versions of global elements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from delorean.packaging.package import ModelPackage
from delorean.serving.global_versions import GlobalVersions
from delorean.serving.ranker import DEFAULT_BUDGET, Ranker, check_services, global_elements
from prana_proxy.clock import open_clock
from prana_proxy.config.reload import follow
from prana_proxy.config.services_file import load_gateway_config
from prana_proxy.gateway.config import GatewayConfig
from prana_proxy.gateway.gateway import Gateway
from snapshotter.index import SnapshotIndex
from snapshotter.storage import Storage


@contextmanager
def open_ranker(
    package: ModelPackage,
    services_config: str | Path,
    index: SnapshotIndex,
    storage: Storage,
    *,
    budget: timedelta = DEFAULT_BUDGET,
    refresh: timedelta = timedelta(seconds=30),
) -> Iterator[Ranker]:
    """Open a ranker for as long as the block lasts.

    services_config: the services.toml of the gateway. It is followed: changes that the model allows apply at once
    index, storage: where versions of global elements are published
    budget: for all services together; refresh: the interval of looking for new versions

    Raises ConfigError for services that are not the model's.
    """
    services = load_gateway_config(services_config)
    clock = open_clock(services.clock)
    elements = list(global_elements(package).values())

    def allowed(config: GatewayConfig) -> None:
        check_services(package, {service.service.name: service.service for service in config.services})

    with (
        GlobalVersions(elements, index, storage, clock, refresh, rules=package.rules) as versions,
        Gateway(services) as gateway,
    ):
        ranker = Ranker(package, gateway, versions, clock, budget)
        with follow(services_config, gateway, allowed=allowed):
            yield ranker
