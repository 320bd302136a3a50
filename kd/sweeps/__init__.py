"""Sweeps: their jobs, which of these train together, and the training of many students at once.

May import ``kd.training`` and all below it; see README.md here.
"""

from kd._startup import exports

_MODULES = {
    "GroupModule": "module",
    "Job": "job_configs",
    "compose_jobs": "job_configs",
    "launch": "launcher",
    "train_group": "group",
}
__all__ = [*_MODULES]
__getattr__ = exports(__name__, _MODULES)
