"""The packaged model behind HTTP, over live services."""
