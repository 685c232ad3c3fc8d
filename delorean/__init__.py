"""DeLorean: a feature time machine."""

__version__ = "0.1.0"
