"""The package ``kd.sweeps``."""
