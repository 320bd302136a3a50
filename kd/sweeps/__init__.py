"""Sweeps: their jobs, which of these train together, and the training of many students at once.

May import ``kd.training`` and all below it; see README.md here.
"""

from kd._startup import exports

_MODULES = {"GroupModule": "module", "launch": "launcher", "train_group": "group"}
_MODULES |= dict.fromkeys(("Job", "compose_jobs"), "job_configs")
__all__ = [*_MODULES]
__getattr__ = exports(__name__, _MODULES)
