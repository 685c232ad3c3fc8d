"""The packaged model behind HTTP, over live services."""

from delorean.serving.app import create_app
from delorean.serving.assemble import assemble
from delorean.serving.global_versions import GlobalVersions
from delorean.serving.ranker import Ranker
from delorean.serving.serve import serve

__all__ = ["GlobalVersions", "Ranker", "assemble", "create_app", "serve"]
