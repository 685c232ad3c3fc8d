"""A registry of model packages: immutable versions in the project's storage, and pointers such as `production`."""
