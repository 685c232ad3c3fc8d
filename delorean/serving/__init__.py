"""Serves a model package: over HTTP or in process, with features from live services."""

from delorean.serving.app import create_app
from delorean.serving.assemble import assemble
from delorean.serving.global_versions import GlobalVersions
from delorean.serving.open_ranker import open_ranker
from delorean.serving.ranker import Ranker
from delorean.serving.serve import serve
from delorean.serving.served_tests import PackagedTest, load_tests

__all__ = ["GlobalVersions", "PackagedTest", "Ranker", "assemble", "create_app", "load_tests", "open_ranker", "serve"]
