"""The networks, one per file: settings with bounds, and how the network is built of them.

A network is found by its file being here. The package may import ``kd.methods`` and the small
modules at the top of ``kd``; importing it loads no torch.
"""

import sys
from typing import Any

from kd._startup import exports
from kd.fields import find_by_name, find_settings, modules_of
from kd.models.base import Model, Task

_OF_NETWORK = ("Ensemble", "Network", "build_model", "count_parameters")
__all__ = ["MODELS", "Model", "Task", "find_model", *_OF_NETWORK]
__getattr__ = exports(__name__, dict.fromkeys(_OF_NETWORK, "network"))

MODELS: dict[str, type[Model]] = {
    name: find_settings(f"{__name__}.{name}", Model, f"model.name={name}")
    for name in modules_of(sys.modules[__name__])
    if name != "network"
}


def find_model(name: Any) -> type[Model]:
    """Return the settings of a network, by the name of its file here.

    Raises:
        UserError: there is none.
    """
    return find_by_name(MODELS, name, "model.name")
