"""Does knowledge distillation work here, and if not, why not?

From Python: :func:`kd.run`, :func:`kd.sweep` and :func:`kd.load_study`.
"""

from kd._startup import exports
from kd.errors import UserError

_MODULES = {"load_study": "report.study", "run": "api", "sweep": "api"}
__all__ = ["UserError", *_MODULES]
__getattr__ = exports(__name__, _MODULES)
