"""Measures how well scores rank: metrics by context, and what each feature contributes."""
