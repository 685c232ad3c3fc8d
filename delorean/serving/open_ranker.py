"""Opens a ranker with its gateway to the services and its versions of global elements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

from delorean.ab_tests.recorded import start_test
from delorean.exposures import ExposureLog
from delorean.packaging.package import ModelPackage
from delorean.serving.global_versions import GlobalVersions
from delorean.serving.ranker import DEFAULT_BUDGET, Ranker
from delorean.serving.served_package import check_services, global_elements
from delorean.serving.served_tests import PackagedTest
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
    tests: Sequence[PackagedTest] = (),
    log_exposures: bool = False,
) -> Iterator[Ranker]:
    """Open a ranker for as long as the block lasts.

    services_config: the services.toml of the gateway. It is followed: changes that the models allow apply at once
    index, storage: where versions of global elements are published
    budget: for all services together; refresh: the interval of looking for new versions
    tests: that decide which package answers, see `load_tests`
    log_exposures: whether the storage gets a log of what is shown; where there are tests it always does

    Raises ConfigError for services that are not the models', AbTestError for tests that cannot be served together, or
    whose declaration changed after it was first served.
    """
    services = load_gateway_config(services_config)
    clock = open_clock(services.clock)
    shared: dict[str, GlobalVersions] = {}

    def allowed(config: GatewayConfig) -> None:
        for each in ranker.packages:
            check_services(each, {service.service.name: service.service for service in config.services})

    with ExitStack() as opened:

        def versions_of(each: ModelPackage) -> GlobalVersions:
            """Return the versions of a package's global elements; packages of equal elements and rules share them."""
            elements = list(global_elements(each).values())
            rules = {key.name: each.rules.get(key.name) for key in elements}
            name = repr([(key, rules[key.name]) for key in elements])
            if name not in shared:
                shared[name] = opened.enter_context(
                    GlobalVersions(elements, index, storage, clock, refresh, rules=each.rules)
                )
            return shared[name]

        log = None
        if tests or log_exposures:
            log = opened.enter_context(ExposureLog(storage, package.context, package.items))
        gateway = opened.enter_context(Gateway(services))
        ranker = Ranker(package, gateway, versions_of, clock, budget, tests=tests, log=log)
        for each in tests:
            start_test(each.test, storage)
        with follow(services_config, gateway, allowed=allowed):
            yield ranker
