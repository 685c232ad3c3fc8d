"""Feature sets in, validated models out."""
