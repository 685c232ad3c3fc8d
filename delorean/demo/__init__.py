"""A small streaming company that really runs, and the main job over it."""
