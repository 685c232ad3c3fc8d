"""Training: fit a model on ranking data, and measure it beside its baselines."""
