"""Networks that are handed over in Python, each under a target that tells it from others."""

import copy
import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from types import CodeType
from typing import Any

from kd._torch import nn, torch
from kd.errors import UserError, reason

GIVEN = "python:"  # how the targets begin that were handed over in Python
given: dict[str, Callable[..., Any]] = {}  # what makes them, by target

PLAIN = (type(None), bool, int, float, complex, str, bytes)
OF_LIBRARIES = ("torch", "torchvision", "builtins", "collections", "abc", "typing")
NO_CODE = ("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__")


def hand_over(network: Any) -> str:
    """Name a network by a target: that of its code where it can be imported, else one of its own.

    A network of its own target can be rebuilt by this process alone.

    Args:
        network: an ``nn.Module``, of which every run gets a copy with its weights; a class or a
            function that makes one, without arguments or of as many classes as its parameter
            ``num_classes`` says; or a target already.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(network, str):
        return network
    if isinstance(network, nn.Module):
        kept = copy.deepcopy(network)  # the caller may train it on
        return _note(type(network).__name__, [network], True, lambda: copy.deepcopy(kept))
    if not callable(network):
        raise UserError(
            f"network: is a {type(network).__name__}; give a torch.nn.Module or what makes one"
        )
    module, name = getattr(network, "__module__", ""), getattr(network, "__qualname__", "network")
    importable = module != "__main__" and name.isidentifier()
    if importable and getattr(sys.modules.get(module), name, None) is network:
        return f"{module}.{name}"
    try:
        made: Any = call(network, {}, classes=2)
    except Exception as error:  # whatever the user's own code raises
        raise UserError(f"network: cannot be made without arguments: {reason(error)}") from error
    if not isinstance(made, nn.Module):
        raise UserError(f"network: gives a {type(made).__name__}, no torch.nn.Module")

    def make(num_classes: int) -> Any:
        return copy.deepcopy(call(network, {}, num_classes))

    return _note(type(made).__name__, [network, made], False, make)


def call(make: Callable[..., Any], args: Mapping[str, Any], classes: int) -> Any:
    """Make a network; of as many classes as the data where it has a parameter for them."""
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):  # of code without a signature
        parameters = {}
    if "num_classes" in parameters and "num_classes" not in args:
        return make(**args, num_classes=classes)
    passes_on = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if passes_on and "num_classes" not in args:  # as torchvision's functions do
        try:
            return make(**args, num_classes=classes)
        except TypeError:
            return make(**args)
    return make(**args)


def _note(name: str, parts: list[Any], weights: bool, make: Callable[..., Any]) -> str:
    """Note what makes a network, under a target that the parts tell from others.

    Args:
        name: that the target begins with.
        parts: that it is told by.
        weights: whether the values of tensors tell it too.
        make: makes it.
    """
    summed, seen = hashlib.sha256(), set[int]()
    for part in parts:
        for mark in _marks(part, seen, weights):
            summed.update(f"{mark}\n".encode())
    target = f"{GIVEN}{name}-{summed.hexdigest()[:8]}"
    given[target] = make
    return target


def _marks(value: Any, seen: set[int], weights: bool) -> Iterator[str]:
    """Yield what tells a value from others: numbers, layers and code, down to what they use.

    The same in every process: no address, no order of a set.
    """
    within = functools.partial(_marks, seen=seen, weights=weights)
    if isinstance(value, PLAIN):
        yield repr(value)
    elif isinstance(value, set | frozenset):
        yield from sorted("".join(within(item)) for item in value)
    elif isinstance(value, list | tuple):
        yield f"{len(value)}:"
        for item in value:
            yield from within(item)
    elif isinstance(value, dict):
        yield from sorted(f"{key!r}:{''.join(within(item))}" for key, item in value.items())
    elif isinstance(value, torch.Tensor):
        yield from _of_tensor(value, weights)
    elif isinstance(value, CodeType):
        yield value.co_code.hex()
        yield from within([*value.co_consts, *value.co_names])
    elif id(value) in seen:
        yield "again"
    else:
        seen.add(id(value))
        for part in _parts_of(value):
            yield from within(part)


def _of_tensor(tensor: Any, weights: bool) -> Iterator[str]:
    """Yield a tensor's type and shape, and its digest where weights count."""
    if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
        yield "lazy"
        return
    yield f"{tensor.dtype} {tuple(tensor.shape)}"
    if weights:
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        yield hashlib.sha256(content.numpy().tobytes()).hexdigest()


def _parts_of(value: Any) -> Iterator[Any]:
    """Yield what an object consists of: a module's layers and code, a function's, a class's."""
    if isinstance(value, nn.Module):
        yield type(value)
        usual = vars(nn.Module())
        yield {name: part for name, part in vars(value).items() if name not in usual}
        for named in (value.named_parameters, value.named_buffers):
            yield [list(pair) for pair in named(recurse=False)]
        yield [list(pair) for pair in value.named_children()]
    elif isinstance(value, type):
        yield value.__qualname__
        for cls in value.__mro__:
            if cls.__module__.split(".")[0] not in OF_LIBRARIES:
                yield {name: part for name, part in vars(cls).items() if name not in NO_CODE}
    elif isinstance(value, staticmethod | classmethod):
        yield value.__func__
    elif isinstance(value, property):
        yield [value.fget, value.fset]
    elif isinstance(value, functools.partial):
        yield [value.func, value.args, value.keywords]
    elif isinstance(getattr(value, "__code__", None), CodeType):
        yield from _parts_of_function(value)
    else:
        yield f"{type(value).__module__}.{type(value).__qualname__}"


def _parts_of_function(function: Any) -> Iterator[Any]:
    """Yield a function's code, its defaults, and the values and functions that it uses."""
    code: CodeType = function.__code__
    yield code
    yield [function.__defaults__, function.__kwdefaults__]
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            yield "empty"
    if function.__module__.split(".")[0] in OF_LIBRARIES:
        return
    for name in sorted(_names(code)):
        used = function.__globals__.get(name)
        own = getattr(used, "__module__", "").split(".")[0] not in OF_LIBRARIES
        if isinstance(used, PLAIN) or (
            own and (isinstance(used, type) or hasattr(used, "__code__"))
        ):
            yield [name, used]


def _names(code: CodeType) -> set[str]:
    """The names that code uses, that of the functions within it too."""
    inner = (_names(part) for part in code.co_consts if isinstance(part, CodeType))
    return set(code.co_names).union(*inner)
