"""The source of encoders: finding it, parsing it, and checking what it reads and writes."""
