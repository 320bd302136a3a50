"""The package ``kd.config``."""
