"""Checks of existing features: for paradoxes, and against other versions."""
