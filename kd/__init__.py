"""Does knowledge distillation work here, and if not, why not?

From Python: :func:`kd.run`, :func:`kd.sweep` and :func:`kd.load_study` take the words of the
command line; :func:`kd.train` and :func:`kd.distill` take networks and data of your own.
"""

from kd import data as data  # kd.data.npz(…) without an import of its own
from kd._startup import exports
from kd.errors import UserError

_MODULES = {"load_study": "report.study"} | dict.fromkeys(
    ("distill", "run", "sweep", "train"), "api"
)
__all__ = ["UserError", *_MODULES]
__getattr__ = exports(__name__, _MODULES)
