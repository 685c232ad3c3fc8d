"""Model packages: written whole, verified when they are loaded."""
