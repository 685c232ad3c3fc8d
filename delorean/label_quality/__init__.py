"""Measures label data before anything is fitted on it: shares, repeats, contradictions, delays and what has changed."""
