"""A network of any code: a class or a function that is imported by its name.

Importing it runs that code. A target comes from the command line or a configuration of the person
who runs, never from a checkpoint or a study's folder.
"""

import importlib.util
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kd._startup import lazy
from kd._torch import nn, torch
from kd.errors import UserError, as_typed, reason, shown
from kd.fields import choice, setting
from kd.models._given import GIVEN, call, given
from kd.models.base import Model, Task, learning_rate

network = lazy("kd.models.network")


def is_dotted(value: Any) -> bool:
    """Whether a value is a name with dots, as in ``my_package.nets.small``."""
    return isinstance(value, str) and "." in value and all(map(str.isidentifier, value.split(".")))


def is_target(value: Any) -> bool:
    """Whether a value can name a network, or is null."""
    return value is None or is_dotted(value) or value in given


def are_layers(value: Any) -> bool:
    """Whether a value is a list of names of layers."""
    return all(isinstance(name, str) and name for name in value)


def are_args(value: Any) -> bool:
    """Whether a value holds parameters by their names, or is null."""
    return value is None or (isinstance(value, dict) and all(map(str.isidentifier, value)))


@dataclass
class Source:
    """What names a network of any code, and its layers."""

    target: str | None = setting(None, "a name with dots, as in my_package.nets.small", is_target)
    args: Any = setting(None, "null or names with values, as in {width:16}", are_args)
    hidden_layer: str | None = setting(
        None, "null or a layer's name, as in body.4", lambda v: v != ""
    )
    map_layers: list[str] = setting(
        [], "a list of layers' names, as in [layer1,layer2]", are_layers
    )


@dataclass
class Custom(Source, Model):
    """A network of any code that maps images to logits."""

    name: str = ""
    lr: float = learning_rate(1e-3)
    init: str = choice("module", "glorot")

    @property
    def has_maps(self) -> bool:
        """See :attr:`Model.has_maps`."""
        return bool(self.map_layers)

    @property
    def draws_own_weights(self) -> bool:
        """See :attr:`Model.draws_own_weights`."""
        return self.init == "module"

    def build(self, task: Task, seed: int) -> Any:
        """See :meth:`Model.build`."""
        return build_source(self, task, "model")


def build_source(source: Source, task: Task, key: str = "model") -> Any:
    """Build the network that a source names, and make sure that it is made for the task.

    Args:
        source: its target is imported, which runs that code.
        task: what it is to do; a parameter ``num_classes`` is filled in.
        key: of the group of settings, for messages.

    Returns:
        the network as a :class:`kd.models.network.Observed`.

    Raises:
        UserError: it cannot be made, is no module, or does not suit the task.
    """
    make = find_target(source.target, f"{key}.target")
    said = f"{key}.target={shown(source.target)}"
    try:
        body = call(make, source.args or {}, task.classes)
    except Exception as error:  # whatever the user's own code raises
        args = shown(source.args)
        raise UserError(
            f"{said}: cannot be made with {key}.args={args}: {reason(error)}"
        ) from error
    if not isinstance(body, nn.Module):
        raise UserError(f"{said}: gives a {type(body).__name__}, no torch.nn.Module")
    try:
        built = network.Observed(body, source.hidden_layer, source.map_layers)
    except AttributeError as error:
        wanted = shown([*filter(None, (source.hidden_layer, *source.map_layers))])
        layers = shown(", ".join(name for name, _ in body.named_modules() if name))
        raise UserError(f"{said}: lacks a layer of {wanted}; its layers: {layers}") from error
    _check(built, task, said, key)
    return built


def _check(built: Any, task: Task, said: str, key: str) -> None:
    """Make sure that a network gives logits for the task, and what its named layers are for."""
    shape = " × ".join(map(str, task.shape))
    try:
        logits, hidden, maps = network.probe(built, task, images=2)
        again = network.probe(built, task, images=2).logits
    except KeyError as error:
        raise UserError(f"{said}: does not use its layer {error.args[0]}; name another") from error
    except Exception as error:
        raise UserError(f"{said}: fails on images of {shape}: {reason(error)}") from error
    if getattr(logits, "shape", None) != (2, task.classes):
        found = tuple(logits.shape) if hasattr(logits, "shape") else f"a {type(logits).__name__}"
        raise UserError(
            f"{said}: gives {found} for 2 images, not logits (2, {task.classes}); the data has "
            f"{task.classes} classes"
        )
    if not torch.equal(logits, again):
        raise UserError(
            f"{said}: gives other logits for the same images each time in evaluation mode; does it "
            "drop units whatever the mode is, as F.dropout does without training=self.training?"
        )
    if hidden is not None and len(hidden) != 2:
        raise UserError(f"{key}.hidden_layer={shown(built.hidden_layer)}: gives no row per image")
    flat = [name for name, seen in zip(built.map_layers, maps, strict=True) if seen.ndim != 4]
    if flat:
        raise UserError(
            f"{key}.map_layers={shown(flat)}: give no maps (batch, channels, height, width)"
        )


def find_spec_of(module: str) -> bool:
    """Whether Python finds the package that a module is in."""
    package = module.partition(".")[0]
    return package in sys.modules or importlib.util.find_spec(package) is not None


def find_target(target: str | None, key: str) -> Callable[..., Any]:
    """Import what a target names.

    Raises:
        UserError: it names nothing, or its module cannot be imported.
    """
    if target is None:
        raise UserError(f"{key}: missing; give it as {key}=my_package.my_module.MyNetwork")
    if target in given:
        return given[target]
    if target.startswith(GIVEN):
        raise UserError(f"{key}={shown(target)}: was handed over in Python, by code not at hand")
    module, _, name = target.rpartition(".")
    advice = "" if find_spec_of(module) else "; put its folder on PYTHONPATH"
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # whatever the user's own code raises
        raise UserError(f"{key}={target}: cannot be imported ({reason(error)}){advice}") from error
    if not callable(found):
        raise UserError(f"{key}={target}: {module} has no class or function {name}")
    return found


def words_for(key: str, saved: Mapping[str, Any]) -> str:
    """Write the words of a command that name a network again, from what a checkpoint says of it."""
    named = {name: saved.get(name) for name in ("target", "args", "hidden_layer", "map_layers")}
    words = [shown(f"{key}.{name}={as_typed(v)}") for name, v in named.items() if v]
    return shlex.join(words)
