"""Checks of features that exist: for paradoxes, and against another version of them."""
