"""The package ``kd.training``."""
