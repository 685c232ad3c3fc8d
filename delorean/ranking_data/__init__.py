"""Feature sets as learners read them: contexts with their items, labels, weights and features, and their split."""
