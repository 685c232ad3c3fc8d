"""What an encoder's fingerprint covers: its source and everything it uses, as self-contained text."""
