"""The distillation methods, one per file: settings with bounds, loss and term.

A method is found by its file being here, or by the full name of a module of the user's own.
The package may import the small modules at the top of ``kd``; importing it loads no torch.
"""

import sys
from importlib import import_module
from typing import Any

from kd.fields import find_by_name, find_settings, modules_of
from kd.methods.base import Distillation, HiddenDistillation, cross_entropy

_HERE = sys.modules[__name__]
METHODS: dict[str, type[Distillation]] = {
    name: find_settings(f"{__name__}.{name}", Distillation, f"kd.method={name}")
    for name in modules_of(_HERE)
}


def find_method(name: Any) -> type[Distillation]:
    """Return the settings of a method, by its file here or by a module of the user's own.

    Raises:
        UserError: there is none, or its module cannot be imported.
    """
    if isinstance(name, str) and "." in name:
        return find_settings(name, Distillation, f"kd.method={name}")
    return find_by_name(METHODS, name, "kd.method")


# What a method's file defines and does not keep to itself.
_found = {
    key: value
    for name in METHODS
    for key, value in vars(import_module(f"{__name__}.{name}")).items()
    if not key.startswith("_") and getattr(value, "__module__", None) == f"{__name__}.{name}"
}
globals().update(_found)


def __getattr__(name: str) -> Any:
    """Tell type checkers that this package has names which only its files know."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["METHODS", "Distillation", "HiddenDistillation", "cross_entropy", "find_method"]
__all__ += _found  # pyright: ignore
