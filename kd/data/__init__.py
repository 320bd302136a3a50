"""The package ``kd.data``."""
