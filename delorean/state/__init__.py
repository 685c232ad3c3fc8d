"""Which captured state and which version serves a row: one resolution for travel, coverage, generation and serving."""
