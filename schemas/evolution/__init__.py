"""Reads values of one type as another: the rules by which a data element's type may change, as in Avro and Iceberg.

A field that the stored type lacks gets its default, one that the wanted type lacks is dropped, a field is found by its
name or by a declared older one, and numbers and units of time are only widened. Nothing else is converted.
"""

from schemas.evolution.adapter import Adapter, adapt, default_of, next_name
from schemas.evolution.declared import checked_aliases, checked_defaults

__all__ = ["Adapter", "adapt", "checked_aliases", "checked_defaults", "default_of", "next_name"]
