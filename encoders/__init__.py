"""Feature encoders: written once, run offline over partitions and online over one request, bit for bit the same."""
