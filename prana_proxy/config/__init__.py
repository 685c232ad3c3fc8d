"""Configuration files and settings: TOML, services.toml, credentials."""
