"""Searches for a model's parameters with Optuna: resumable, in parallel, on the validation part only."""
