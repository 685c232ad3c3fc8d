"""From an encoder's text to the loop over contexts that runs it, as machine code or in plain Python."""
