"""Exports a trained network: ONNX, int8, safetensors, torch.export, a card; checked and measured.

The extra ``kd[export]`` has the packages that it needs. Nothing here is imported by training.
"""

from kd._startup import exports

_MODULES = {"build_export": "build", "load_student": "formats"}
__all__ = [*_MODULES]
__getattr__ = exports(__name__, _MODULES)
