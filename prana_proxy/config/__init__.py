"""The configuration of a proxy: `services.toml`, and how its changes are applied."""
