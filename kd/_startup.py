"""What keeps the start fast: torch and Lightning are imported when a run begins, not before.

``--help`` and a mistyped key answer in about Hydra's own start-up time; importing torch and
Lightning takes several seconds more.
"""

import gc
import importlib
import os
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any


class _Lazy:
    """Stands for a module, which is imported when something of it is first used."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(importlib.import_module(self.__name__), attribute)
        setattr(self, attribute, value)  # the next access does not come here
        return value


def lazy(name: str) -> Any:
    """A stand-in for the module ``name``; type checkers see the true one under TYPE_CHECKING."""
    return _Lazy(name)


def exports(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's ``__getattr__``: its public names are imported when they are first used.

    Args:
        package: its name.
        modules: the module in the package of each public name.
    """

    def __getattr__(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{modules[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return __getattr__


INTERRUPTED = 130  # the exit status that shells give a command ended by Ctrl-C


@contextmanager
def before_anything() -> Generator[None]:
    """For the command line's own imports: Ctrl-C ends them without a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)


@contextmanager
def importing() -> Generator[None]:
    """For the first import of torch and Lightning: saves two of the five seconds it takes.

    Half a million objects come into being that live until the end, and the garbage collector would
    search them again and again for what is no longer used, at the end of the program once more.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
