"""Captures the state of online services for a context set, and versions of global elements."""
