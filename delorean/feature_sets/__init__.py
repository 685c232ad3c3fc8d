"""Feature sets at rest: their columns, Delta tables, digests and which versions are kept."""
