"""The package ``kd.report``."""
