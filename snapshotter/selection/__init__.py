"""Selects the contexts of a date, per experiment, and reads context sets."""
