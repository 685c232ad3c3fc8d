"""Protocols of online services, one file each."""
