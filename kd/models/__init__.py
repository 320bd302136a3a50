"""The package ``kd.models``."""
