"""Estimates what rankings would have earned online, from logged exposures with their probabilities."""
