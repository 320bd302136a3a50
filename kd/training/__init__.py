"""Training: from a configuration and a folder to a complete run.

May import ``kd.data``, ``kd.config``, ``kd.models``, ``kd.methods`` and the small modules at the
top of ``kd``.
"""

from kd._startup import exports

_MODULES = {
    "DistillModule": "modules",
    "FrozenTeacher": "teacher",
    "StudentModule": "modules",
    "TeacherModule": "modules",
    "execute": "run",
    "load_checkpoint": "checkpoint",
    "read_metrics": "run_folder",
    "save_checkpoint": "checkpoint",
    "write_results": "run_folder",
}
__all__ = [*_MODULES]
__getattr__ = exports(__name__, _MODULES)
