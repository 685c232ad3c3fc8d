"""The as-of rule: for a key and a time, the latest row with that key at or before that time."""
