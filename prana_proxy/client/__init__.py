"""The proxy's client: many contexts in, Arrow out."""
