"""The package ``kd.methods``."""
