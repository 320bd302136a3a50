"""Does knowledge distillation work here, and if not, why not?

From Python: :func:`kd.run`, :func:`kd.sweep` and :func:`kd.load_study`.
"""

from kd._startup import exports
from kd.errors import UserError

__all__ = ["UserError", "load_study", "run", "sweep"]

__getattr__ = exports(
    __name__, {"run": "kd.api", "sweep": "kd.api", "load_study": "kd.report.study"}
)
