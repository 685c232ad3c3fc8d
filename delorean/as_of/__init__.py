"""The as-of rule: which row of the right side each row of the left side sees."""
