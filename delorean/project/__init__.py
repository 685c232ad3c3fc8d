"""A project: its configuration, its schedule, its submission to a cluster, and its vacuum."""
