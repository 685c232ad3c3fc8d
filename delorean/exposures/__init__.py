"""The exposure log: what scorers showed, to whom, and with which probability."""
