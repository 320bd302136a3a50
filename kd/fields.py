"""Fields of the configuration: each has a default, bounds, and words for what is allowed.

``allowed`` finishes the sentence "must be …" of the error that a wrong value gets.
"""

import copy
import dataclasses
import importlib
import math
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import field
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar

from kd.errors import UserError, reason, shown

Settings = TypeVar("Settings")
Check = Callable[[Any], object]

FOLDER = "a folder's path, without line breaks or other control characters"


def setting(default: Any, allowed: str, check: Check) -> Any:
    """Make a field whose value must pass ``check``; ``allowed`` says in words what does."""
    about = {"allowed": allowed, "check": check}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.deepcopy(default), metadata=about)
    return field(default=default, metadata=about)


def number(default: float, allowed: str, check: Check) -> Any:
    """Make a field for a finite number within bounds."""
    return setting(default, allowed, lambda value: math.isfinite(value) and check(value))


def share() -> Any:
    """Make a field for a share that is 0, its default, or more, and below 1."""
    return number(0.0, "a number from 0 to below 1", lambda value: 0 <= value < 1)


def count(default: int, least: int = 1, most: int = 1_000_000) -> Any:
    """Make a field for a whole number; ``most`` is far above what makes sense, yet harmless."""
    allowed = f"a whole number from {least} to {most}"
    return setting(default, allowed, lambda value: least <= value <= most)


def maybe_count() -> Any:
    """Make a field for null, its default, or a whole number from 1 to 1000000."""
    allowed = "null or a whole number from 1 to 1000000"
    return setting(None, allowed, lambda value: value is None or 1 <= value <= 1_000_000)


def seed(default: int = 0) -> Any:
    """Make a field for a seed of a random generator."""
    return count(default, least=0, most=2**32 - 1)


def choice(default: str, *options: str) -> Any:
    """Make a field for one of a few words, the default among them."""
    return setting(default, " or ".join((default, *options)), lambda v: v in (default, *options))


def is_path(value: Any) -> bool:
    """Whether a value can be a path: not empty, and no line break or the like in it."""
    return isinstance(value, str) and value != "" and value.isprintable()


def folder(default: str) -> Any:
    """Make a field for a folder's path."""
    return setting(default, FOLDER, is_path)


def sweepable(spec: Any) -> Any:
    """Mark a field whose values may differ between students that train together.

    A number of a method reaches the term as a tensor of one value per student; the numbers that
    weigh labels and term act through :func:`kd.methods.base.loss_weights_at`. What is not marked is
    the same for all students of a group, or of a method, whose other settings make it another one.
    """
    spec.metadata = MappingProxyType({**spec.metadata, "sweepable": True})
    return spec


def sweepable_names(settings: Any) -> list[str]:
    """Return the names of the sweepable fields; those of a nested dataclass as in ``kd.T``."""
    names: list[str] = []
    for spec in dataclasses.fields(settings):
        if dataclasses.is_dataclass(below := getattr(settings, spec.name)):
            names += [f"{spec.name}.{name}" for name in sweepable_names(below)]
        elif spec.metadata.get("sweepable"):
            names.append(spec.name)
    return names


def modules_of(package: ModuleType) -> list[str]:
    """Return the modules of a package that hold a choice each: not its base, nor private ones."""
    names = [found.name for found in pkgutil.iter_modules(package.__path__)]
    return [name for name in names if name != "base" and not name.startswith("_")]


def find_settings(module: str, base: type[Settings], key: str) -> type[Settings]:
    """Return the class of settings that a module defines.

    Args:
        module: its full name; it is imported.
        base: what the class derives from.
        key: of the setting that named it, with its value, for messages.

    Raises:
        UserError: there is no such module, or it does not define exactly one such class.
    """
    try:
        found = vars(importlib.import_module(module)).values()
    except Exception as error:  # whatever the user's own code raises
        raise UserError(f"{key}: cannot be imported ({reason(error)})") from error
    classes = [
        value
        for value in found
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module
    ]
    if len(classes) != 1:
        raise UserError(
            f"{key}: the module must define one class that derives from {base.__name__}, and "
            f"defines {len(classes)}"
        )
    missing = sorted(getattr(classes[0], "__abstractmethods__", ()))
    if missing:
        raise UserError(f"{key}: {classes[0].__name__} does not define {', '.join(missing)}")
    return classes[0]


def find_by_name(known: Mapping[str, Settings], given: Any, key: str) -> Settings:
    """Return a choice of ``known`` by its name.

    Raises:
        UserError: there is none of that name.
    """
    if isinstance(given, str) and given in known:
        return known[given]
    group, names = key.partition(".")[0], ", ".join(known)
    raise UserError(f"{key}={shown(given)}: unknown; choose {group}=NAME from {names}")
