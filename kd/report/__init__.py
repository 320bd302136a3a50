"""Reads a study's runs back, judges whether distillation works here, and writes the report.

It may import kd.training, kd.data, kd.models, kd.methods, kd.config and the small modules at the
top of kd; never kd.sweeps.
"""

from kd._startup import exports

_MODULES = dict.fromkeys(("Cell", "Method", "Study", "load_study"), "study")
_MODULES |= dict.fromkeys(("Comparison", "Verdict"), "stats")
_MODULES |= {"Run": "evaluation", "build_report": "build"}
__all__ = [*_MODULES]
__getattr__ = exports(__name__, _MODULES)
