"""A/B tests and interleaving: allocation, plans, and the analysis of what was shown."""
