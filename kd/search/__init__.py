"""The search for good settings: Optuna proposes, and each batch of proposals trains together.

May import ``kd.sweeps`` and all below it.
"""

from kd._startup import exports

_MODULES = {"search": "loop"} | dict.fromkeys(("Found", "read_search"), "reading")
__all__ = [*_MODULES]
__getattr__ = exports(__name__, _MODULES)
