"""Training: from a configuration and a folder to a complete run.

May import ``kd.data``, ``kd.config``, ``kd.models``, ``kd.methods`` and the small modules at the
top of ``kd``.
"""

from kd._startup import exports

_MODULES = dict.fromkeys(("DistillModule", "StudentModule", "TeacherModule"), "modules")
_MODULES |= dict.fromkeys(("load_checkpoint", "save_checkpoint"), "checkpoint")
_MODULES |= dict.fromkeys(("read_metrics", "write_results"), "run_folder")
_MODULES |= {"FrozenTeacher": "teacher", "execute": "run"}
__all__ = [*_MODULES]
__getattr__ = exports(__name__, _MODULES)
