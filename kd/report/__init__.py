"""Reads a study's runs back, judges whether distillation works here, and writes the report.

It may import kd.training, kd.data, kd.models, kd.methods, kd.config and the small modules at the
top of kd; never kd.sweeps.
"""

from kd._startup import exports

_MODULES = {
    "Cell": "study",
    "Comparison": "stats",
    "Method": "study",
    "Run": "evaluation",
    "Study": "study",
    "Verdict": "stats",
    "build_report": "build",
    "load_study": "study",
}
__all__ = [*_MODULES]
__getattr__ = exports(__name__, _MODULES)
