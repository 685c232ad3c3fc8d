"""Label data and snapshots in, feature sets out."""
