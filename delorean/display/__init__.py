"""How results look: in notebooks, on a terminal and in reports."""
