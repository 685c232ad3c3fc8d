"""Model packages: written atomically, verified when they are loaded."""
