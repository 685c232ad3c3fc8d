"""Encoders ready to use, one module for each kind of state they read."""
