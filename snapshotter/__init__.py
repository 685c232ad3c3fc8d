"""Selects contexts and captures what online services answer for them."""
