"""Networks that are handed over in Python, each under a target that tells it from others."""

import copy
import hashlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

from kd._torch import nn
from kd.errors import UserError

GIVEN = "python:"  # how the targets begin that were handed over in Python
given: dict[str, Callable[..., Any]] = {}  # what makes them, by target


def hand_over(network: Any) -> str:
    """Name a network by a target: that of its code where it can be imported, else one of its own.

    A network of its own target can be rebuilt by this process alone.

    Args:
        network: an ``nn.Module``, of which every run gets a copy with its weights; a class or a
            function that makes one; or a target already.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(network, str):
        return network
    if isinstance(network, nn.Module):
        weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        marks = [
            *_marks(network),
            *(f"{n} {t.cpu().numpy().tobytes()!r}" for n, t in weights.items()),
        ]
        return _note(type(network).__name__, marks, lambda: copy.deepcopy(network))
    if not callable(network):
        raise UserError(
            f"network: is a {type(network).__name__}; give a torch.nn.Module or what makes one"
        )
    module, name = getattr(network, "__module__", ""), getattr(network, "__qualname__", "network")
    importable = module != "__main__" and name.isidentifier()
    if importable and getattr(importlib.import_module(module), name, None) is network:
        return f"{module}.{name}"
    try:
        made: Any = network()
    except TypeError as error:
        raise UserError(f"network: cannot be made without arguments: {error}") from error
    if not isinstance(made, nn.Module):
        raise UserError(f"network: gives a {type(made).__name__}, no torch.nn.Module")
    return _note(type(made).__name__, [*_marks(made)], network)


def _note(name: str, marks: list[str], make: Callable[..., Any]) -> str:
    summed = hashlib.sha256("\n".join(marks).encode()).hexdigest()
    target = f"{GIVEN}{name}-{summed[:8]}"
    given[target] = make
    return target


def _marks(network: Any) -> Iterator[str]:
    """Yield what tells a network from others: its layers, and the code of those of other code."""
    yield str(network)
    yield str([tuple(parameter.shape) for parameter in network.parameters()])
    classes = {type(layer) for layer in network.modules()}
    for cls in sorted(classes, key=lambda cls: cls.__qualname__):
        if not cls.__module__.startswith("torch."):
            for name, method in sorted(vars(cls).items()):
                if code := getattr(method, "__code__", None):
                    constants = [c for c in code.co_consts if not hasattr(c, "co_code")]
                    yield f"{name} {code.co_code!r} {constants} {code.co_names}"
