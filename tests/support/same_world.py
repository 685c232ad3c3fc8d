"""Equality of the demo's worlds."""

from __future__ import annotations

from dataclasses import fields

import pyarrow as pa

from delorean.demo.world import World


def same_world(one: World, other: World) -> bool:
    """Whether two worlds have equal tables and fields."""
    return all(
        a.equals(b) if isinstance(a, pa.Table) else a == b
        for a, b in ((getattr(one, field.name), getattr(other, field.name)) for field in fields(World))
    )
