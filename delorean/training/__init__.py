"""Training: read a feature set, split it, fit a ranking model, measure it."""
